"""The processor of a model: size, crop, mean and std, every number explicit.

Classes of processors differ in their defaults (0.45, 0.5 or ImageNet's). Only `video_preprocessor_config.json` is saved:
beside a `preprocessor_config.json` transformers may choose that one, and read the first frames of a video.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoImageProcessor, AutoVideoProcessor, PreTrainedConfig, TimesformerVideoProcessor

from data_prep.errors import UserError
from finetune.clips.sampling import Sampling
from finetune.model.checkpoint_files import refuse_own_code
from finetune.model.embeddings import pair

AUTHORS_MEAN, AUTHORS_STD = [0.45] * 3, [0.225] * 3  # facebookresearch/TimeSformer, config/defaults.py
_IMAGENET_MEAN, _IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_DINOV2_CROP = 224  # what it was trained on; the 518 px of its configuration are for dense tasks

Size = tuple[int, int]  # (height, width) in px


def make_processor(
    crop: Size, size: dict[str, int], num_frames: int, mean: list[float], std: list[float]
) -> TimesformerVideoProcessor:
    """Resizes as `size` says ({"shortest_edge": px} or height and width), crops the centre, samples like the pipeline."""
    return TimesformerVideoProcessor(
        size=size,
        crop_size={"height": crop[0], "width": crop[1]},
        image_mean=mean,
        image_std=std,
        do_sample_frames=True,
        num_frames=num_frames,
    )


def load_processor(
    name: str, revision: str, config: PreTrainedConfig, num_frames: int
) -> tuple[TimesformerVideoProcessor, str]:
    """The checkpoint's own numbers, whichever kind of processor file carries them, and a word on where they are from."""
    try:
        own = AutoVideoProcessor.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as video_error:
        refuse_own_code(name, video_error)
        try:
            own = AutoImageProcessor.from_pretrained(name, revision=revision, trust_remote_code=False)
        except (OSError, ValueError) as error:
            refuse_own_code(name, error)
            if config.model_type == "timesformer":
                reason = str(error).strip().splitlines()[0]
                raise UserError(f"{name} has no processor that can be loaded ({reason}): save it with its video_preprocessor_config.json.") from error  # fmt: skip
            return _processor_of_family(config, num_frames)
    size = {key: value for key, value in dict(own.size).items() if value is not None}
    crop = dict(own.crop_size or {})
    height = crop.get("height") or size.get("height") or pair(config.image_size)[0]
    width = crop.get("width") or size.get("width") or pair(config.image_size)[1]
    if config.model_type != "timesformer" and "shortest_edge" not in size:
        # Image models may squeeze every picture into a square: a film keeps its shape.
        size = {"shortest_edge": max(height, width)}
    return _like(own, (height, width), size, num_frames), "the checkpoint's"


def _like(own: Any, crop: Size, size: dict[str, int], num_frames: int) -> TimesformerVideoProcessor:
    """A video processor with the numbers of `own`, of whichever kind, but for its clips."""
    processor = make_processor(crop, size, num_frames, list(own.image_mean), list(own.image_std))
    processor.resample, processor.rescale_factor = own.resample, own.rescale_factor
    return processor


def _processor_of_family(config: PreTrainedConfig, num_frames: int) -> tuple[TimesformerVideoProcessor, str]:
    """For image models saved without one: ViT was trained with a mean and std of 0.5, the others with ImageNet's."""
    mean, std = ([0.5] * 3, [0.5] * 3) if config.model_type == "vit" else (_IMAGENET_MEAN, _IMAGENET_STD)
    crop = (_DINOV2_CROP, _DINOV2_CROP) if config.model_type.startswith("dinov2") else pair(config.image_size)
    processor = make_processor(crop, {"shortest_edge": max(crop)}, num_frames, mean, std)
    return processor, f"none saved: mean {mean[0]:g}, ..., std {std[0]:g}, ... as {config.model_type} models have"


def renormalised(
    own: TimesformerVideoProcessor, mean: list[float] | None, std: list[float] | None
) -> TimesformerVideoProcessor:
    """The same with another mean and standard deviation, where they are given."""
    own.image_mean, own.image_std = list(mean or own.image_mean), list(std or own.image_std)
    return own


def adapted_processor(own: TimesformerVideoProcessor, crop: Size, num_frames: int) -> TimesformerVideoProcessor:
    """The same for another crop and number of frames; the short side in proportion, and at least what the crop needs."""
    old = (own.crop_size["height"], own.crop_size["width"])
    if (crop, num_frames) == (old, own.num_frames):
        return own
    if own.size.shortest_edge:
        size = {"shortest_edge": max(round(own.size.shortest_edge * max(crop) / max(old)), *crop)}
    else:
        height, width = (
            round(side * new / before) for side, new, before in zip((own.size.height, own.size.width), crop, old)
        )
        size = {"height": height, "width": width}
    return _like(own, crop, size, num_frames)


def tell_sampling(processor: TimesformerVideoProcessor, sampling: Sampling) -> None:
    """Makes transformers' pipeline refuse a model whose frames are not sampled as it samples them.

    It always asks for `num_frames` evenly spaced frames; with `fps` set too the processor raises an error that names
    both, where it would otherwise give worse predictions in silence. Without the pipeline the processor takes the frames
    it is given.
    """
    processor.do_sample_frames = sampling.is_the_pipelines
    processor.fps = None if sampling.is_the_pipelines else sampling.target_fps or 1
