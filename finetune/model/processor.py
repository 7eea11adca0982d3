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
    size = {key: value for key, value in dict(own.size or {}).items() if value is not None}
    crop = dict(own.crop_size or {})
    _refuse_what_is_not_done(name, own)
    if config.model_type == "timesformer" and not getattr(own, "do_center_crop", False):
        if "shortest_edge" in size:
            raise UserError(f"{name}: the processor resizes the short side and has do_center_crop false, so clips would be of all shapes. Save it with do_center_crop true and its crop_size.")  # fmt: skip
        crop = {}
    height = crop.get("height") or size.get("height") or pair(config.image_size)[0]
    width = crop.get("width") or size.get("width") or pair(config.image_size)[1]
    if config.model_type != "timesformer" and "shortest_edge" not in size:
        # Image models may squeeze every picture into a square: a film keeps its shape.
        size = {"shortest_edge": max(height, width)}
    return _like(own, (height, width), size, num_frames), "the checkpoint's"


def _refuse_what_is_not_done(name: str, own: Any) -> None:
    """Raise `UserError` for steps of a processor that a clip of one size, cut from videos of all sizes, cannot go through."""
    if not getattr(own, "do_resize", True):
        raise UserError(f"{name}: the processor has do_resize false, so it takes videos of one size only. Save it with do_resize true and that size.")  # fmt: skip
    for step in ("do_flip_channel_order", "do_pad", "offset"):
        if getattr(own, step, None):
            raise UserError(f"{name}: the processor has {step} true, which is not done here. Save it without, or give a checkpoint with a TimesformerVideoProcessor.")  # fmt: skip


def _like(own: Any, crop: Size, size: dict[str, int], num_frames: int) -> TimesformerVideoProcessor:
    """A video processor with the numbers of `own`, of whichever kind, but for its clips."""
    processor = make_processor(crop, size, num_frames, _of_channels(own.image_mean, 0.0), _of_channels(own.image_std, 1.0))  # fmt: skip
    processor.resample, processor.rescale_factor = own.resample, own.rescale_factor
    processor.do_rescale, processor.do_normalize = bool(own.do_rescale), bool(own.do_normalize)
    return processor


def _of_channels(value: Any, neutral: float) -> list[float]:
    """Three numbers, as a processor may also give by one; `neutral` ones where it has none, since it normalises nothing."""
    if value is None:
        return [neutral] * 3
    return list(value) if isinstance(value, (list, tuple)) else [value] * 3


def _processor_of_family(config: PreTrainedConfig, num_frames: int) -> tuple[TimesformerVideoProcessor, str]:
    """For image models saved without one: ViT was trained with a mean and std of 0.5, the others with ImageNet's."""
    mean, std = ([0.5] * 3, [0.5] * 3) if config.model_type == "vit" else (_IMAGENET_MEAN, _IMAGENET_STD)
    crop = (_DINOV2_CROP, _DINOV2_CROP) if config.model_type.startswith("dinov2") else pair(config.image_size)
    processor = make_processor(crop, {"shortest_edge": max(crop)}, num_frames, mean, std)
    return processor, f"none saved: mean {mean[0]:g}, ..., std {std[0]:g}, ... as {config.model_type} models have"


def renormalised(
    own: TimesformerVideoProcessor, mean: list[float] | None, std: list[float] | None
) -> TimesformerVideoProcessor:
    """The same with another mean and standard deviation, of values from 0 to 1, where they are given."""
    if not own.do_rescale:
        own.do_rescale, own.rescale_factor = True, 1 / 255
    own.do_normalize = True
    # Tuples, as a processor that is loaded has them: it keeps what it computed by them, which lists cannot name.
    own.image_mean, own.image_std = tuple(mean or own.image_mean), tuple(std or own.image_std)
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
