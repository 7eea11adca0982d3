"""Frames -> pixel_values: the processor's own transform for evaluation, augmentation for training, collation.

Everything here is uint8, drawn once for all frames of a clip. Batches travel to the device so, a quarter of the bytes of
float32, and `normalise` follows there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import default_collate
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from transformers import TimesformerVideoProcessor

from data_prep.frame import Box

# The authors train on crops of 224 px from clips whose short side is 256 to 320 px
# (facebookresearch/TimeSformer, configs/Kinetics/TimeSformer_divST_8x32_224.yaml).
_JITTER_PER_CROP = (256 / 224, 320 / 224)
_ASPECT = (3 / 4, 4 / 3)  # of a random resized crop (Inception, arXiv 1409.4842, section 6)

AUTO_AUGMENTS: dict[str, Callable[[], torch.nn.Module]] = {
    "randaugment": v2.RandAugment,  # arXiv 1909.13719
    "trivialaugment": v2.TrivialAugmentWide,  # arXiv 2103.10158
}


@dataclass(frozen=True)
class Augmentation:
    """What training does to a clip beside sampling it. Each part is drawn once a clip.

    `short_side_jitter`: smallest and largest short side (px) before the random crop; None: the authors', in proportion.
    With `inverse_jitter` its inverse is uniform, not itself.
    `crop_scale`: instead, smallest and largest share of the picture's area that a random resized crop takes.
    `color_jitter`: largest relative change of brightness, contrast and saturation. `auto_augment`: one of
    `AUTO_AUGMENTS`. `random_erasing`: the probability of a rectangle without content.
    """

    short_side_jitter: tuple[int, int] | None = None
    crop_scale: tuple[float, float] | None = None
    flip: bool = True
    color_jitter: float = 0.0
    auto_augment: str | None = None
    random_erasing: float = 0.0
    inverse_jitter: bool = False


class ClipTransform:
    """uint8 clips `(num_frames, 3, height, width)` -> uint8 `(num_frames, 3, crop, crop)`, as one processor says."""

    def __init__(self, processor: TimesformerVideoProcessor, augmentation: Augmentation | None = None):
        self.processor, self.augmentation = processor, augmentation or Augmentation()
        self.crop = (processor.crop_size["height"], processor.crop_size["width"])
        low, high = (round(side * max(self.crop)) for side in _JITTER_PER_CROP)
        self.short_side_jitter = self.augmentation.short_side_jitter or (low, high)
        self._looks = _looks(self.augmentation)

    def evaluate(self, clip: torch.Tensor) -> torch.Tensor:
        """What the processor itself gives for these frames, before it normalises them."""
        batch = self.processor(
            clip, do_sample_frames=False, do_rescale=False, do_normalize=False,
            input_data_format="channels_first", return_tensors="pt",
        )  # fmt: skip
        return batch["pixel_values"][0].to(torch.uint8)

    def train(self, clip: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Of a clip that holds what `box` said: the crop resized; random flip; then what changes the look."""
        clip = F.resize(clip, list(self.crop), antialias=True)
        if self.augmentation.flip and _random(generator) < 0.5:
            clip = F.horizontal_flip(clip)
        if self._looks is not None:
            # torchvision draws from the global generator, which workers and resuming would change.
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(int(torch.randint(0, 1 << 62, (1,), generator=generator)))
                clip = self._looks(clip)
        return clip

    @property
    def source_short_side(self) -> int:
        """px of the short side that training can make use of: larger sources may be read at this size."""
        if self.augmentation.crop_scale is not None:
            return round(max(self.crop) * max(1.0, self.augmentation.crop_scale[0] ** -0.5))
        return max(self.short_side_jitter[1], *self.crop)

    def in_words(self) -> str:
        """What `train` does, for a card."""
        done = self.augmentation
        low, high = self.short_side_jitter
        words = [f"short side {low} to {high} px, random crop"]
        if done.crop_scale is not None:
            words = [f"random crop of {done.crop_scale[0]:g} to {done.crop_scale[1]:g} of the area, resized"]
        words += ["random horizontal flip"] if done.flip else []
        words += [f"colour jitter {done.color_jitter:g}"] if done.color_jitter else []
        words += [done.auto_augment] if done.auto_augment else []
        words += [f"random erasing {done.random_erasing:g}"] if done.random_erasing else []
        return ", ".join(words)

    def _short_side(self, generator: torch.Generator) -> int:
        low, high = self.short_side_jitter
        if (
            self.augmentation.inverse_jitter
        ):  # facebookresearch/TimeSformer, datasets/transform.py: inverse_uniform_sampling
            return round(1 / (1 / high + (1 / low - 1 / high) * _random(generator)))
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    def box(self, size: tuple[int, int], generator: torch.Generator) -> Box:
        """The random crop of frames of `size`, px: drawn before they are read, so that nothing else is copied or resized."""
        height, width = size
        if self.augmentation.crop_scale is not None:
            box = _resized_box(height, width, self.augmentation.crop_scale, generator)
        else:
            short_side = max(self._short_side(generator), *self.crop)
            scale = min(height, width) / short_side
            box = (round(self.crop[0] * scale), round(self.crop[1] * scale))
        box_height, box_width = (max(1, min(side, limit)) for side, limit in zip(box, (height, width)))
        top = int(torch.randint(0, height - box_height + 1, (1,), generator=generator))
        left = int(torch.randint(0, width - box_width + 1, (1,), generator=generator))
        return top, left, box_height, box_width


def _resized_box(height: int, width: int, share: tuple[float, float], generator: torch.Generator) -> tuple[int, int]:
    """(height, width) of a random share of the area, at a random aspect (torchvision's RandomResizedCrop)."""
    area = height * width * (share[0] + (share[1] - share[0]) * _random(generator))
    low, high = (torch.tensor(side).log().item() for side in _ASPECT)
    aspect = torch.tensor(low + (high - low) * _random(generator)).exp().item()
    return round((area / aspect) ** 0.5), round((area * aspect) ** 0.5)


def _random(generator: torch.Generator) -> float:
    return float(torch.rand(1, generator=generator))


def _looks(augmentation: Augmentation) -> torch.nn.Module | None:
    """torchvision's transforms take the frames of a clip as one batch, with one draw for all of them."""
    parts: list[torch.nn.Module] = []
    if augmentation.color_jitter:
        amount = augmentation.color_jitter
        parts.append(v2.ColorJitter(brightness=amount, contrast=amount, saturation=amount))
    if augmentation.auto_augment is not None:
        parts.append(AUTO_AUGMENTS[augmentation.auto_augment]())
    if augmentation.random_erasing:
        parts.append(v2.RandomErasing(p=augmentation.random_erasing, value=0))
    return torch.nn.Sequential(*parts) if parts else None


def normalise(pixels: torch.Tensor, processor: TimesformerVideoProcessor) -> torch.Tensor:
    """uint8 `(..., 3, height, width)` -> float32 of that shape, on its device, with the processor's own arithmetic."""
    flat = pixels.reshape(-1, *pixels.shape[-3:])
    values = processor.rescale_and_normalize(
        flat, processor.do_rescale, processor.rescale_factor, processor.do_normalize, processor.image_mean, processor.image_std,
    )  # fmt: skip
    return values.float().reshape(pixels.shape)  # a processor that leaves out both steps returns uint8


def collate(clips: list[dict[str, Any]]) -> dict[str, Any]:
    """`pixel_values` uint8 `(batch, num_frames, 3, crop, crop)` and `labels` int64 `(batch,)`.

    Labels of videos with several each are float32 `(batch, num_labels)`. Where videos could not be read, also `unreadable`: (video_id, reason) of each.
    """
    # Stacked with the channels last, as decoders give them: a reordering would cost more than all the copying. In a
    # worker, torch's own collation stacks in the memory that is shared with the main process: a copy less.
    pixels = default_collate([clip["pixel_values"].permute(0, 2, 3, 1) for clip in clips])
    batch = {
        "pixel_values": pixels.permute(0, 1, 4, 2, 3),
        "labels": torch.stack([torch.as_tensor(clip["labels"]) for clip in clips]),
    }
    unreadable = [clip["unreadable"] for clip in clips if "unreadable" in clip]
    return batch | {"unreadable": unreadable} if unreadable else batch
