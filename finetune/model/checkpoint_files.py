"""Limits on what the files of a checkpoint may ask for: no code of their own, no weights from outside its folder."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

from data_prep.errors import UserError
from data_prep.limits import is_plain_name

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_ADAPTER = "adapter_config.json"
_OWN_CODE = "custom code"  # in every message with which transformers declines to run the code of a checkpoint


def refuse_own_code(name: str, error: Exception) -> None:
    """Raise `UserError` if `error` says that the checkpoint `name` wants to run Python code of its own.

    Every loader gets `trust_remote_code=False`: without it transformers asks on standard input, where a "y" that is
    meant for something else runs the code.
    """
    if _OWN_CODE in str(error):
        raise UserError(
            f"{name} needs Python code of its own (auto_map in its JSON files), which is never run here. Use a checkpoint "
            "whose config.json and processor name classes of transformers."
        ) from error


def check_files(folder: Path) -> None:
    """Raise `UserError` if a file of a local checkpoint names weights that are not in its folder."""
    for index in (folder / name for name in _INDEXES):
        for shard in _shards(index):
            if not is_plain_name(shard):
                raise UserError(
                    f"{index} names weights outside its folder ({shard!r}), which are not read: save the checkpoint again with "
                    "save_pretrained, all files in one folder."
                )
    if (folder / _ADAPTER).is_file():
        raise UserError(
            f"{folder} holds an adapter beside the model ({_ADAPTER}), which is not read: merge it first "
            "(PEFT's merge_and_unload) and save the merged model."
        )


def stored_types(path: str, find: Callable[[str], str | None]) -> dict[str, str]:
    """Return the type of each weight in a file as safetensors names it (F32, BF16, I64, BOOL), or of all the files that
    an index names; `find` gives the path of each. Reads no weights.
    """
    if path.endswith(".index.json"):
        found: dict[str, str] = {}
        for shard in {str(shard) for shard in _shards(Path(path)) if is_plain_name(shard)}:
            found |= stored_types(find(shard) or "", find)
        return found
    if path.endswith(".safetensors"):
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return {key: entry["dtype"] for key, entry in header.items() if key != "__metadata__"}
    if not path:
        return {}
    state = torch.load(path, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(path))
    return {
        key: "F" if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")
        for key, tensor in state.items()
        if isinstance(tensor, torch.Tensor)
    }


def _shards(index: Path) -> list[object]:
    """Return the names of files that an index of weights holds; none if it has another form, which loading refuses."""
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return list(weight_map.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
