"""Frames -> pixel_values: the processor's own transform for evaluation, augmentation for training, collation."""

from __future__ import annotations

from typing import Any

import torch
from torchvision.transforms.v2 import functional as F
from transformers import TimesformerVideoProcessor

# The authors train on crops of 224 px from clips whose short side is 256 to 320 px
# (facebookresearch/TimeSformer, configs/Kinetics/TimeSformer_divST_8x32_224.yaml).
_JITTER_PER_CROP = (256 / 224, 320 / 224)


class ClipTransform:
    """uint8 clips `(num_frames, 3, height, width)` -> float32 `(num_frames, 3, crop, crop)`, as one processor says.

    `short_side_jitter`: smallest and largest short side (px) before the random crop.
    """

    def __init__(
        self, processor: TimesformerVideoProcessor, short_side_jitter: list[int] | None = None, flip: bool = True
    ):
        self.processor, self.flip = processor, flip
        self.crop = (processor.crop_size["height"], processor.crop_size["width"])
        self.short_side_jitter = short_side_jitter or [round(side * max(self.crop)) for side in _JITTER_PER_CROP]

    def evaluate(self, clip: torch.Tensor) -> torch.Tensor:
        """What the processor itself gives for these frames."""
        batch = self.processor(clip, do_sample_frames=False, input_data_format="channels_first", return_tensors="pt")
        return batch["pixel_values"][0]

    def train(self, clip: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Random short side, random crop, random flip: one draw for all frames of the clip; then normalised."""
        low, high = self.short_side_jitter
        short_side = max(int(torch.randint(low, high + 1, (1,), generator=generator)), *self.crop)
        clip = F.resize(clip, [short_side], antialias=True)
        height, width = self.crop
        top = int(torch.randint(0, clip.shape[-2] - height + 1, (1,), generator=generator))
        left = int(torch.randint(0, clip.shape[-1] - width + 1, (1,), generator=generator))
        clip = F.crop(clip, top, left, height, width)
        if self.flip and torch.rand(1, generator=generator) < 0.5:
            clip = F.horizontal_flip(clip)
        return F.normalize(clip * self.processor.rescale_factor, self.processor.image_mean, self.processor.image_std)


def collate(clips: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """`pixel_values` float32 `(batch, num_frames, 3, crop, crop)` and `labels` int64 `(batch,)`."""
    return {
        "pixel_values": torch.stack([clip["pixel_values"] for clip in clips]),
        "labels": torch.tensor([clip["labels"] for clip in clips]),
    }
