"""Checkpoint, image model or name -> the model training starts from, fitted to the clips and labels wanted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, TimesformerConfig, TimesformerVideoProcessor

from data_prep.errors import UserError
from finetune.model.checkpoint_files import check_files, refuse_own_code
from finetune.model.embeddings import grid_of, pair, resize_positions, resize_times
from finetune.model.finite import check_config, check_processor, check_types, check_weights
from finetune.model.image_vit import HELP, State, extra_tokens, from_image_model
from finetune.model.layer import FIRST_STEPS
from finetune.model.modeling import TimesformerForVideoClassification
from finetune.model.named_models import NAMED_MODELS, random_model
from finetune.model.processor import (
    AUTHORS_MEAN,
    AUTHORS_STD,
    adapted_processor,
    load_processor,
    make_processor,
    renormalised,
)
from finetune.model.wanted import ModelArguments

_PATCHES = "timesformer.embeddings.patch_embeddings.projection.weight"
_POSITIONS = "timesformer.embeddings.position_embeddings"
_TIMES = "timesformer.embeddings.time_embeddings"
_HEAD = ("classifier.weight", "classifier.bias")


@dataclass
class Source:
    """What a checkpoint holds, and notes on what is done to it: (part, what became of it)."""

    name: str
    config: TimesformerConfig
    state: State
    processor: TimesformerVideoProcessor
    notes: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Start:
    """The model and processor training starts from, a table of what was kept, resized and replaced, and whether the head
    and the embeddings of time are new ones.
    """

    model: TimesformerForVideoClassification
    processor: TimesformerVideoProcessor
    message: str
    has_new_head: bool
    has_new_times: bool


def load_start(wanted: ModelArguments, labels: list[str]) -> Start:
    """The model that `wanted` describes, for `labels`. Raises `UserError`."""
    name = wanted.model_name_or_path
    if name in NAMED_MODELS:
        if wanted.input_channel_order == "bgr":
            raise UserError(f"--input_channel_order bgr is for checkpoints: {name} has random weights.")
        source, has_new_times = named_source(name, wanted), False
    else:
        source = load_source(name, wanted.model_revision)
        crop = source.processor.crop_size  # the clips it is shown, whatever size its embeddings have
        fit_clips(source, wanted.num_frames, wanted.image_size or [crop.height, crop.width])
        has_new_times = fit_scheme(source, wanted.attention_type or source.config.attention_type)
        if wanted.input_channel_order == "bgr":
            swap_channels(source)
    has_new_head = fit_head(source, labels, wanted.new_head)
    if wanted.image_mean or wanted.image_std:
        source.processor = renormalised(source.processor, wanted.image_mean, wanted.image_std)
        source.notes.append(
            ("mean and std", f"{list(source.processor.image_mean)}, {list(source.processor.image_std)}: asked for")
        )
    model = build_model(source, wanted.attn_implementation)
    model.regularize(wanted.drop_path_rate, wanted.head_dropout)
    rows = [("weights", name), *source.notes]
    message = "\n".join(f"{part:<20} {what}" for part, what in rows)
    return Start(model, source.processor, message, has_new_head, has_new_times)


def load_checkpoint(
    name: str, revision: str = "main"
) -> tuple[TimesformerForVideoClassification, TimesformerVideoProcessor]:
    """A TimeSformer classifier as it is, with its processor. Raises `UserError`."""
    source = load_source(name, revision)
    if _HEAD[0] not in source.state:
        raise UserError(f"{name} has no classification head: fine-tune it first.")
    return build_model(source).eval(), source.processor


def build_model(source: Source, attn_implementation: str | None = None) -> TimesformerForVideoClassification:
    """The model of `source.config` with the weights of `source.state`, all of them and no others."""
    with torch.device("meta"):  # no random numbers for weights that are there
        model = TimesformerForVideoClassification(source.config)
    model.load_state_dict(source.state, assign=True)
    if attn_implementation is not None:
        _check_attention(attn_implementation, source.config.attention_type)
        try:
            model.set_attn_implementation(attn_implementation)
        except (ValueError, ImportError, KeyError) as error:
            raise UserError(f"--attn_implementation {attn_implementation}: {' '.join(str(error).split())}") from error
    return model


def _check_attention(implementation: str, attention_type: str) -> None:
    if implementation == "flex_attention" and not torch.accelerator.is_available():
        raise UserError("--attn_implementation flex_attention needs a GPU: leave it out, or pass sdpa.")
    if implementation.startswith("flash") and attention_type == "sparse_local_global":
        raise UserError(
            f"--attn_implementation {implementation} takes no mask, which sparse_local_global needs: pass sdpa."
        )


def named_source(name: str, wanted: ModelArguments) -> Source:
    """Random weights of a named geometry, drawn for the clips and the scheme that are wanted."""
    config = TimesformerConfig(**NAMED_MODELS[name])
    config.attention_type = wanted.attention_type or config.attention_type
    config.num_frames = wanted.num_frames or config.num_frames
    config.image_size = _image_size(wanted.image_size, config)
    state = random_model(config).state_dict()
    crop = pair(config.image_size)
    processor = make_processor(crop, {"shortest_edge": max(crop)}, config.num_frames, AUTHORS_MEAN, AUTHORS_STD)
    state = {key: weight for key, weight in state.items() if key not in _HEAD}
    drawn = f"random: {config.attention_type}, {config.num_frames} frames of {crop[0]}x{crop[1]} px"
    return Source(name, config, state, processor, [("backbone", drawn)])


def load_source(name: str, revision: str) -> Source:
    """A TimeSformer checkpoint as it is, or an image model as a TimeSformer of 8 frames. Raises `UserError`."""
    config = _load(AutoConfig, name, revision)
    check_config(name, config)
    is_ours = config.model_type == "timesformer"
    # Never what a file asks for: it could name code to fetch. Every image model has eager attention.
    config._attn_implementation = "sdpa" if is_ours else "eager"
    if is_ours:
        state = _whole_state(name, revision, config)
        processor, _ = load_processor(name, revision, config, config.num_frames)
        check_processor(name, processor)
        return Source(name, config, state, processor)
    if not all(hasattr(config, needed) for needed in ("image_size", "patch_size", "num_hidden_layers")):
        raise UserError(f"{name} is a {config.model_type} checkpoint. {HELP}.")
    image_model = _load(AutoModel, name, revision, config=config, dtype=torch.float32)
    check_types(name, revision)
    target, state = from_image_model(name, image_model)
    check_weights(name, state)
    processor, origin = load_processor(name, revision, config, target.num_frames)
    check_processor(name, processor)
    without = "".join(f", without its {token}" for token in extra_tokens(image_model))
    notes = [
        ("image model", f"{config.model_type}: embeddings, attention within frames, MLP{without}"),
        ("processor", origin),
    ]
    return Source(name, target, state, processor, notes)


def _whole_state(name: str, revision: str, config: TimesformerConfig) -> State:
    """All weights of a TimeSformer checkpoint; without `classifier.*` where it has no head. Raises `UserError`."""
    # float32 whatever the file's type: a lower precision is a setting of the training run. Sizes that do not match are
    # refused here, in words.
    model, info = _load(
        TimesformerForVideoClassification, name, revision, config=config, dtype=torch.float32, output_loading_info=True,
        ignore_mismatched_sizes=True,
    )  # fmt: skip
    wrong = {
        "are missing": [key for key in info["missing_keys"] if key not in _HEAD],
        "have another shape than its config.json says": [key for key, *_ in info["mismatched_keys"]],
        "have no place in what its config.json describes": list(info["unexpected_keys"]),
    }
    for what, keys in wrong.items():
        if keys:
            raise UserError(f"{name} is not a whole TimeSformer checkpoint: {len(keys)} weights {what}, the first {keys[0]}.")  # fmt: skip
    check_types(name, revision)
    state = {key: weight for key, weight in model.state_dict().items() if key not in info["missing_keys"]}
    check_weights(name, state)
    return state


def _load(cls: Any, name: str, revision: str, **kwargs: Any) -> Any:
    is_local = name.startswith((".", "/")) or Path(name).exists()
    if is_local and not (Path(name) / "config.json").is_file():
        raise UserError(f"{name} is not a checkpoint: there is no {Path(name) / 'config.json'}. {HELP}.")
    if is_local:
        check_files(Path(name))
    try:
        return cls.from_pretrained(name, revision=revision, trust_remote_code=False, **kwargs)
    except Exception as error:  # a file from elsewhere can be wrong in every way, and each raises in its own
        refuse_own_code(name, error)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{name} cannot be loaded: {reason} {HELP}.") from error


def fit_scheme(source: Source, attention_type: str) -> bool:
    """Adds the attention steps that the scheme has and the weights lack, as the authors do: copies of the last step's,
    with zeros in the linear map after them, so that they add nothing yet. Takes away those the scheme lacks. Embeddings
    of time that the weights lack are zeros: whether that is so.
    """
    config, state = source.config, source.state
    lacks_times = attention_type != "space_only" and _TIMES not in state
    config.attention_type = attention_type
    for name in FIRST_STEPS[attention_type]:
        if f"{_layer(0)}{name}_dense.weight" in state:
            continue
        for i in range(config.num_hidden_layers):
            for key in [
                key for key in state if key.startswith((f"{_layer(i)}attention.", f"{_layer(i)}layernorm_before."))
            ]:
                part = key.removeprefix(_layer(i)).replace("layernorm_before", "layernorm")
                state[f"{_layer(i)}{name}_{part}"] = state[key].clone()
            dense = state[f"{_layer(i)}attention.output.dense.weight"]
            state[f"{_layer(i)}{name}_dense.weight"] = torch.zeros_like(dense)
            state[f"{_layer(i)}{name}_dense.bias"] = torch.zeros(len(dense))
        source.notes.append((f"{name} attention", "copied from the attention there is, its output zero"))
    steps = {name for steps in FIRST_STEPS.values() for name in steps} - set(FIRST_STEPS[attention_type])
    dropped = [key for key in state if any(f".{name}_" in key for name in steps)]
    if attention_type == "space_only":
        dropped += [key for key in state if key == _TIMES]
    elif lacks_times:
        state[_TIMES] = torch.zeros(1, config.num_frames, config.hidden_size)
        source.notes.append(("time embeddings", f"zeros, for {config.num_frames} frames"))
    for key in dropped:
        del state[key]
    if dropped:
        source.notes.append((attention_type, f"{len(dropped)} weights that only other schemes have left out"))
    return lacks_times


def fit_clips(source: Source, num_frames: int | None, image_size: list[int]) -> None:
    """Resizes the embeddings of time (linear) and place (bicubic) for other clips, and the processor with them."""
    config, state = source.config, source.state
    old_grid, old_frames = grid_of(config), config.num_frames
    config.num_frames = num_frames or config.num_frames
    config.image_size = _image_size(image_size, config)
    if config.num_frames != old_frames and _TIMES in state:
        state[_TIMES] = resize_times(state[_TIMES], config.num_frames)
        source.notes.append(("time embeddings", f"{old_frames} -> {config.num_frames} frames, linear"))
    if grid_of(config) != old_grid:
        state[_POSITIONS] = resize_positions(state[_POSITIONS], old_grid, grid_of(config))
        sizes = ("x".join(map(str, grid)) for grid in (old_grid, grid_of(config)))
        source.notes.append(("position embeddings", f"{' -> '.join(sizes)} patches, bicubic"))
    source.processor = adapted_processor(source.processor, pair(config.image_size), config.num_frames)


def swap_channels(source: Source) -> None:
    """RGB frames for a model that was trained on BGR ones: exact, since the patch embedding is linear in the channels.

    The authors' Something-Something v2 checkpoints saw BGR: their reader decodes with OpenCV and does not turn the
    channels (facebookresearch/TimeSformer, timesformer/datasets/utils.py and ssv2.py).
    """
    source.state[_PATCHES] = source.state[_PATCHES].flip(1)
    source.notes.append(("input channels", "trained on BGR: patch embedding turned to take RGB"))


def fit_head(source: Source, labels: list[str], new_head: bool) -> bool:
    """Keeps the head where its labels are the dataset's, else makes a new one: whether it did. Raises `UserError`."""
    config, state, name = source.config, source.state, source.name
    config.problem_type = "single_label_classification"
    old = [config.id2label[i] for i in range(config.num_labels)] if _HEAD[0] in state else []
    if old == labels and not new_head:
        source.notes.append(("head", f"kept: its {len(labels)} labels are the dataset's"))
        return False
    if sorted(old) == sorted(labels) and not new_head:
        raise UserError(
            f"{name} has the dataset's labels in another order (its first is {old[0]!r}, the dataset's {labels[0]!r}), "
            "so its head would be wrong. Pass --new_head to train a new one."
        )
    # The authors' 0.02 at their width.
    state[_HEAD[0]] = nn.init.trunc_normal_(torch.empty(len(labels), config.hidden_size), std=config.initializer_range)
    state[_HEAD[1]] = torch.zeros(len(labels))
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    source.notes.append(
        ("head", f"{len(old)} labels replaced by a new head of {len(labels)}" if old else f"new, {len(labels)} labels")
    )
    return True


def _layer(i: int) -> str:
    return f"timesformer.encoder.layer.{i}."


def _image_size(wanted: list[int] | None, config: TimesformerConfig) -> int | list[int]:
    """What was asked for, checked; else the model's own. Raises `UserError`."""
    if wanted is None:
        return config.image_size
    height, width = wanted[0], wanted[-1]
    patch = pair(config.patch_size)
    if len(wanted) > 2 or height % patch[0] or width % patch[1] or min(height, width) < 1:
        raise UserError(f"clips of {'x'.join(map(str, wanted))} px (--image_size, else what the processor crops) do not fit: give --image_size one side, or height and width, multiples of the patch of {patch[0]}x{patch[1]}.")  # fmt: skip
    return height if height == width else [height, width]
