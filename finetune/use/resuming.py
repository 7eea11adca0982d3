"""What an output that grows video by video was begun with: only the same model, asked the same, may go on with it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import UserError
from data_prep.format_version import STAMP_KEYS, check_format, stamp
from finetune.results.output import write_json

if TYPE_CHECKING:
    from finetune.use.classifier import Ask, Classifier

Settings = dict[str, Any]


def settings_of(classifier: Classifier, ask: Ask) -> Settings:
    """All that a row depends on, but for its video."""
    return {
        "checkpoint": digest(classifier),
        "top_k": ask.top_k,
        "views": str(ask.views),
        "average": ask.average,
        "dtype": str(classifier.dtype).removeprefix("torch."),
    }


def digest(classifier: Classifier) -> str:
    """Names a checkpoint by the weights in its file, its labels and what it does to a video, wherever it lies."""
    from finetune.model.weights import load_checkpoint
    from finetune.use.export_example import preprocessing

    found = hashlib.blake2b(json.dumps(preprocessing(classifier), allow_nan=False).encode(), digest_size=16)
    model, _ = load_checkpoint(
        classifier.name, classifier.revision
    )  # `classifier.model` holds products of some weights
    for name, weight in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(weight.contiguous().numpy().tobytes())
    return found.hexdigest()


def begin(output: Path, settings: Settings) -> None:
    """Says beside an output what it is about to be written with."""
    write_json(_beside(output), {**settings, **stamp()})


def check_same(output: Path, settings: Settings) -> None:
    """Raises `UserError` where the output was begun with other settings, or by something else."""
    try:
        begun = json.loads(_beside(output).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        begun = None
    if not isinstance(begun, dict):
        raise not_ours(output)
    check_format(str(output), begun)
    if begun.keys() - STAMP_KEYS != settings.keys():
        raise not_ours(output)
    for name, value in settings.items():
        if begun[name] != value:
            what = "another checkpoint" if name == "checkpoint" else f"--{name} {begun[name]}, not {value}"
            raise UserError(f"--output {output} was begun with {what}: choose another file, or delete it.")


def is_begun(output: Path) -> bool:
    """Return True where `begin` said beside an output what it is written with."""
    return _beside(output).is_file()


def not_ours(output: Path) -> UserError:
    return UserError(f"--output {output} exists and was not written by this command, or {_beside(output).name} beside it is gone: choose another file.")  # fmt: skip


def _beside(output: Path) -> Path:
    return output.with_name(f"{output.name}.settings.json")
