"""Checkpoints of a run: complete or absent, and which one a run goes on from."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from data_prep.errors import UserError

# What a checkpoint needs to go on as if never interrupted.
_RESUME_FILES = ("trainer_state.json", "scheduler.pt", "model.safetensors", "config.json")
_OPTIMIZER_FILES = ("optimizer.pt", "optimizer.bin")  # the latter from FSDP
_SHARDED_WEIGHTS = "pytorch_model_fsdp.bin"  # what FSDP reads; model.safetensors beside it is for everybody else
TRAINING_WEIGHTS = "training_weights.safetensors"  # where model.safetensors holds their moving average
_SHAPE = (
    "attention_type", "num_frames", "image_size", "patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "intermediate_size",
)  # fmt: skip
STAGING = ".saving"  # in output_dir: what is being written, which nobody may take for finished


def is_complete(checkpoint: Path) -> bool:
    def has(name: str) -> bool:
        return (checkpoint / name).is_file()

    return all(map(has, _RESUME_FILES)) and (has("optimizer.pt") or (has("optimizer.bin") and has(_SHARDED_WEIGHTS)))


def is_of_sharded_model(checkpoint: Path) -> bool:
    """Return True if FSDP wrote the checkpoint."""
    return (checkpoint / _SHARDED_WEIGHTS).is_file()


def complete_checkpoints(output_dir: Path) -> list[Path]:
    """Oldest first."""
    found = [folder for folder in output_dir.glob("checkpoint-*") if is_complete(folder)]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def checkpoint_to_resume(output_dir: str, asked: str | None) -> str | None:
    """The checkpoint `--resume_from_checkpoint` names: a path, or the newest complete one in `output_dir`.

    Raises `UserError`.
    """
    if asked is None:
        return None
    if asked.lower() not in ("latest", "true", "yes"):
        if not is_complete(Path(asked)):
            raise UserError(f"--resume_from_checkpoint {asked} is not a complete checkpoint: expected {', '.join(_RESUME_FILES)} and {' or '.join(_OPTIMIZER_FILES)} in it.")  # fmt: skip
        return asked
    complete = complete_checkpoints(Path(output_dir))
    if not complete:
        raise UserError(f"--resume_from_checkpoint: there is no complete checkpoint in {output_dir}. Start without it.")
    return str(complete[-1])


def check_resumed_labels(checkpoint: str, labels: list[str]) -> None:
    """Raises `UserError` when the checkpoint's head was trained on other labels, or on these in another order."""
    config = json.loads((Path(checkpoint) / "config.json").read_text(encoding="utf-8"))
    old = [name for _, name in sorted(config["id2label"].items(), key=lambda item: int(item[0]))]
    if old != labels:
        raise UserError(
            f"--resume_from_checkpoint {checkpoint} was trained on {len(old)} labels, the first {old[0]!r}; the dataset has "
            f"{len(labels)}, the first {labels[0]!r}. Resume with the same dataset, or start a new run."
        )


def check_same_architecture(checkpoint: str, config: Any) -> None:
    """Raises `UserError` when the checkpoint's weights are of another shape, or of another attention, than `config` says."""
    new = json.loads(config.to_json_string(use_diff=False))
    old = json.loads((Path(checkpoint) / "config.json").read_text(encoding="utf-8"))
    for name in _SHAPE:
        was, now = old.get(name), new.get(name)
        if was is not None and was != now:
            raise UserError(f"--resume_from_checkpoint {checkpoint} has {name} {was}, and {now} is asked for: resume with the same model, or start a new run in another --output_dir.")  # fmt: skip


def steps_done(checkpoint: str | None) -> int:
    """Optimizer steps until a checkpoint; 0 without one."""
    if checkpoint is None:
        return 0
    state = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
    return int(state["global_step"])


def publish(staged: Path, place: Path) -> None:
    """Gives what was written to `staged` its name, whole; an older folder of that name goes."""
    if place.exists():
        remove(place)
    _flush(staged)
    staged.rename(place)


def publish_files(staged: Path, folder: Path) -> None:
    """Moves each file of `staged` into `folder`, whole."""
    _flush(staged)
    for path in staged.iterdir():
        path.replace(folder / path.name)
    staged.rmdir()


def remove_old(output_dir: Path, keep: int | None, best: str | None) -> None:
    """Leaves the newest `keep` checkpoints and the best one; None keeps all."""
    if keep is None:
        return
    for folder in complete_checkpoints(output_dir)[:-keep]:
        if best is None or folder.name != Path(best).name:
            remove(folder)


def remove(folder: Path) -> None:
    """Under another name first, so that a kill in the midst leaves no half of a checkpoint."""
    doomed = folder.with_name(f".deleting-{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def _flush(folder: Path) -> None:
    """To the disk, before a name says that it is there."""
    for path in folder.iterdir():
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
