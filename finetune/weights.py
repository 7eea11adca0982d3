"""Checkpoint or name -> model with a head for the labels, and its processor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoVideoProcessor,
    TimesformerConfig,
    TimesformerForVideoClassification,
    TimesformerVideoProcessor,
)

from data_prep.errors import UserError

# Geometry of the models that start from random weights. Mean and std are the authors' (0.45, 0.225).
# initializer_range: transformers' 0.02 is for a width of 768; at a width of 96 it leaves attention almost shut, and a
# thousand clips then teach the axis of a motion but not its direction (measured on the demonstration). 0.1 is 96**-0.5.
NAMED_MODELS: dict[str, dict[str, Any]] = {
    "timesformer-tiny": {
        "image_size": 48, "patch_size": 12, "num_frames": 8, "initializer_range": 0.1,
        "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 384,
    },
}  # fmt: skip
_MEAN, _STD = [0.45] * 3, [0.225] * 3

# Standard deviation of a named model's time embeddings: the scale of its tokens. transformers starts them at zero,
# where the order of frames is a plateau that few clips do not leave.
_TIME_EMBEDDING_STD = 0.5

_HELP = "Give a TimeSformer checkpoint (a directory or a Hub id, as facebook/timesformer-base-finetuned-k400)"


@dataclass(frozen=True)
class Start:
    """The model and processor training starts from, and what was done to its head."""

    model: TimesformerForVideoClassification
    processor: TimesformerVideoProcessor
    message: str


def load_start(name: str, revision: str, labels: list[str], new_head: bool) -> Start:
    """Loads a checkpoint, or builds a named model from random weights, for `labels`. Raises `UserError`."""
    if name in NAMED_MODELS:
        model, processor = build_model(name, labels)
        return Start(model, processor, f"{name}: random weights, head for {len(labels)} labels")
    model, processor, has_head = _load_whole(name, revision)
    message = _fit_head(model, labels, name, new_head or not has_head)
    return Start(model, processor, message)


def build_model(name: str, labels: list[str]) -> tuple[TimesformerForVideoClassification, TimesformerVideoProcessor]:
    """A model of a named geometry with random weights, from torch's global generator."""
    config = TimesformerConfig(**NAMED_MODELS[name], problem_type="single_label_classification")
    _set_labels(config, labels)
    model = TimesformerForVideoClassification(config)
    nn.init.normal_(model.timesformer.embeddings.time_embeddings, std=_TIME_EMBEDDING_STD)
    return model, _processor(config, {"shortest_edge": config.image_size}, _MEAN, _STD)


def load_checkpoint(
    name: str, revision: str = "main"
) -> tuple[TimesformerForVideoClassification, TimesformerVideoProcessor]:
    """A TimeSformer classifier as it is, with its processor. Raises `UserError`."""
    model, processor, has_head = _load_whole(name, revision)
    if not has_head:
        raise UserError(f"{name} has no classification head: fine-tune it first.")
    return model, processor


def _load_whole(name: str, revision: str) -> tuple[TimesformerForVideoClassification, TimesformerVideoProcessor, bool]:
    """Model, processor, and whether the checkpoint has a head (else the model's is random)."""
    config = _load(AutoConfig, name, revision)
    if not isinstance(config, TimesformerConfig):
        raise UserError(f"{name} is a {config.model_type} checkpoint, not TimeSformer. {_HELP}.")
    if config.attention_type == "space_only":
        raise UserError(f"{name} has attention_type space_only, for which transformers gives one row of logits per frame: it cannot be trained or used here.")  # fmt: skip
    model, info = _load(TimesformerForVideoClassification, name, revision, output_loading_info=True)
    lost = [key for key in info["missing_keys"] if not key.startswith("classifier.")]
    if lost or info["mismatched_keys"]:
        raise UserError(f"{name} is not a whole TimeSformer checkpoint: {len(lost)} weights are missing, the first {lost[:1]}.")  # fmt: skip
    has_head = not any(key.startswith("classifier.") for key in info["missing_keys"])
    return model, _load_processor(name, revision, config), has_head


def _load(cls: Any, name: str, revision: str, **kwargs: Any) -> Any:
    is_local = name.startswith((".", "/")) or Path(name).exists()
    if is_local and not (Path(name) / "config.json").is_file():
        raise UserError(f"{name} is not a checkpoint: there is no {Path(name) / 'config.json'}. {_HELP}.")
    try:
        return cls.from_pretrained(name, revision=revision, **kwargs)
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{name} cannot be loaded: {reason} {_HELP}.") from error


def _load_processor(name: str, revision: str, config: TimesformerConfig) -> TimesformerVideoProcessor:
    """The checkpoint's own size, crop, mean and std, whichever kind of processor file carries them."""
    try:
        own = AutoVideoProcessor.from_pretrained(name, revision=revision)
    except (OSError, ValueError):
        own = _load(AutoImageProcessor, name, revision)
    size, crop = dict(own.size), dict(own.crop_size or {})
    height = crop.get("height", config.image_size)
    if height != crop.get("width", config.image_size):
        raise UserError(f"{name}: its processor crops {crop}, but only square crops are supported.")
    processor = _processor(config, size, list(own.image_mean), list(own.image_std), crop=height)
    processor.resample, processor.rescale_factor = own.resample, own.rescale_factor
    return processor


def _processor(
    config: TimesformerConfig, size: dict[str, int], mean: list[float], std: list[float], crop: int | None = None
) -> TimesformerVideoProcessor:
    """Every number explicit: classes of processors differ in their defaults (0.45, 0.5 or ImageNet's).

    With `do_sample_frames` and `num_frames` the pipeline samples as training does.
    """
    crop = crop or config.image_size
    return TimesformerVideoProcessor(
        size={key: value for key, value in size.items() if value is not None},
        crop_size={"height": crop, "width": crop},
        image_mean=mean,
        image_std=std,
        do_sample_frames=True,
        num_frames=config.num_frames,
    )


def _fit_head(model: TimesformerForVideoClassification, labels: list[str], name: str, new_head: bool) -> str:
    """Keeps the head when its labels are the dataset's, else makes a new one. Returns the message about it."""
    old = [model.config.id2label[i] for i in range(model.config.num_labels)]
    if not new_head and old == labels:
        return f"{name}: head kept, its {len(labels)} labels are the dataset's"
    if not new_head and sorted(old) == sorted(labels):
        raise UserError(
            f"{name} has the dataset's labels in another order (its first is {old[0]!r}, the dataset's {labels[0]!r}), "
            "so its head would be wrong. Pass --new_head to train a new one."
        )
    model.classifier = nn.Linear(model.config.hidden_size, len(labels))
    nn.init.trunc_normal_(model.classifier.weight, std=0.02)  # as the authors initialise theirs
    nn.init.zeros_(model.classifier.bias)
    _set_labels(model.config, labels)
    model.num_labels = len(labels)
    model.config.problem_type = "single_label_classification"
    return f"{name}: head of {len(old)} labels replaced by a new one for {len(labels)} labels"


def _set_labels(config: TimesformerConfig, labels: list[str]) -> None:
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
