"""Checks that numbers are numbers: a model with a NaN, or that divides by 0, gives every video the same wrong answer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from transformers import TimesformerVideoProcessor
from transformers.utils import cached_file

from data_prep.errors import UserError
from finetune.model.checkpoint_files import stored_types

_SMALLEST_STD = 1e-6  # a pixel value of 1 divided by it is a million, which every type but float16 holds
_WEIGHTS = (".weight", ".bias", "_token", "_embeddings")  # ends of names; others may be integers, as position_ids
_WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")  # fmt: skip


class NotFinite(UserError):
    """Scores that are NaN or infinite: they are of no class, and nothing can be measured with them."""


def not_finite(tensors: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
    """Return the names of the tensors that hold a NaN or an infinity. Waits for the device once where there is none."""
    named = [(name, tensor.detach()) for name, tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    if not named:
        return []
    # A sum shows both, and reads the numbers once without a copy. Sums of large numbers may be infinite themselves.
    sums = torch.stack([tensor.sum().float() for _, tensor in named])
    suspects = (~sums.isfinite()).nonzero().flatten().tolist()
    return [named[i][0] for i in suspects if not bool(named[i][1].isfinite().all())]


def check_weights(name: str, state: dict[str, torch.Tensor]) -> None:
    """Raise `UserError` where a weight of the checkpoint `name` is NaN or infinite."""
    if wrong := not_finite(state.items()):
        raise UserError(f"{name}: {_count(wrong, state)} hold NaN or infinite numbers, the first {wrong[0]}. Such a model answers nothing: take an earlier checkpoint.")  # fmt: skip


def check_types(name: str, revision: str) -> None:
    """Raise `UserError` where the file of a checkpoint holds a weight as integers or booleans: what scaled it is lost."""

    def find(file: str) -> str | None:
        return cached_file(
            name, file, revision=revision, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False,
        )  # fmt: skip

    for file in _WEIGHT_FILES:
        path = find(file)
        if path is None:
            continue
        kinds = {key: kind for key, kind in stored_types(path, find).items() if key.endswith(_WEIGHTS)}
        if wrong := [key for key, kind in kinds.items() if not kind.startswith(("F", "BF"))]:
            raise UserError(f"{name}: {_count(wrong, kinds)} of {file} are no floating point numbers, the first {wrong[0]} ({kinds[wrong[0]]}). Save the model in float32 or bfloat16.")  # fmt: skip
        return


def check_config(name: str, config: Any) -> None:
    """Raise `UserError` where the config.json of the checkpoint `name` holds a number that nothing can be computed with."""
    for key, value in config.to_dict().items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{name}/config.json: {key} is {value}, expected a finite number.")
    epsilon = getattr(config, "layer_norm_eps", None)
    if epsilon is not None and not (_is_number(epsilon) and epsilon > 0):
        raise UserError(f"{name}/config.json: layer_norm_eps is {epsilon!r}, expected a small number above 0, as 1e-6.")


def check_processor(name: str, processor: TimesformerVideoProcessor) -> None:
    """Raise `UserError` where the pixel values that a processor makes would not be finite."""
    if processor.do_rescale and not (_is_number(processor.rescale_factor) and processor.rescale_factor > 0):
        raise UserError(f"{name}: the processor's rescale_factor is {processor.rescale_factor!r}, expected a number above 0, as 1/255.")  # fmt: skip
    if not processor.do_normalize:
        return
    for key, least, expected in (("image_mean", -math.inf, "finite numbers"), ("image_std", _SMALLEST_STD, f"numbers from {_SMALLEST_STD:g} on")):  # fmt: skip
        values = getattr(processor, key)
        values = list(values) if isinstance(values, (list, tuple)) else [values]
        if len(values) not in (1, 3) or not all(_is_number(value) and value >= least for value in values):
            raise UserError(f"{name}: the processor's {key} is {values}, expected three {expected}, as {'0.45' if key == 'image_mean' else '0.225'} each.")  # fmt: skip


def check_answers(scores: torch.Tensor, name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return logits `(clips, num_labels)`. Raise `NotFinite` where one is NaN or infinite."""
    if not bool(scores.isfinite().all()):
        remedy = (
            "it was not trained well, or not for this processor" if dtype == torch.float32 else "compute in float32"
        )
        raise NotFinite(f"the scores that {name or 'the model'} gives are NaN or infinite (computed in {str(dtype).removeprefix('torch.')}): {remedy}.")  # fmt: skip
    return scores


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _count(some: Any, of: Any) -> str:
    return f"{len(some)} of {len(of)} weights"
