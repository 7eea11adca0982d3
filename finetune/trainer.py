"""The one Trainer subclass, as thin as it can be, and which checkpoint a run resumes from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from data_prep.errors import UserError
from finetune.clip import Clips

# What a checkpoint needs to go on as if never interrupted; Trainer writes trainer_state.json last.
_RESUME_FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "model.safetensors", "config.json")


class VideoTrainer(Trainer):
    """transformers' Trainer that tells the training clips the epoch, and leaves the model card to `finetune.card`."""

    def __init__(self, *, train_dataset: Clips, **kwargs: Any):
        super().__init__(train_dataset=train_dataset, callbacks=[_TellEpoch(train_dataset)], **kwargs)

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        with self._every_video():
            return super().get_eval_dataloader(*args, **kwargs)

    def get_test_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        with self._every_video():
            return super().get_test_dataloader(*args, **kwargs)

    @contextmanager
    def _every_video(self) -> Iterator[None]:
        """Trainer drops the last batch of evaluation too when --dataloader_drop_last is given."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = drop_last

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: Trainer's card would overwrite ours."""


class _TellEpoch(TrainerCallback):
    def __init__(self, clips: Clips):
        self.clips = clips

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.clips.set_epoch(int(state.epoch or 0))


def checkpoint_to_resume(output_dir: str, asked: str | None) -> str | None:
    """The checkpoint `--resume_from_checkpoint` names: a path, or the newest complete one in `output_dir`.

    Checkpoints are not written atomically: one that a killed run left half-written is passed over. Raises `UserError`.
    """
    if asked is None:
        return None
    if asked.lower() not in ("latest", "true", "yes"):
        if not is_complete(Path(asked)):
            raise UserError(f"--resume_from_checkpoint {asked} is not a complete checkpoint: expected {', '.join(_RESUME_FILES)} in it.")  # fmt: skip
        return asked
    complete = [folder for folder in Path(output_dir).glob("checkpoint-*") if is_complete(folder)]
    if not complete:
        raise UserError(f"--resume_from_checkpoint: there is no complete checkpoint in {output_dir}. Start without it.")
    return str(max(complete, key=lambda folder: int(folder.name.rpartition("-")[2])))


def check_resumed_labels(checkpoint: str, labels: list[str]) -> None:
    """Raises `UserError` when the checkpoint's head was trained on other labels, or on these in another order."""
    config = json.loads((Path(checkpoint) / "config.json").read_text(encoding="utf-8"))
    old = [name for _, name in sorted(config["id2label"].items(), key=lambda item: int(item[0]))]
    if old != labels:
        raise UserError(
            f"--resume_from_checkpoint {checkpoint} was trained on {len(old)} labels, the first {old[0]!r}; the dataset has "
            f"{len(labels)}, the first {labels[0]!r}. Resume with the same dataset, or start a new run."
        )


def is_complete(checkpoint: Path) -> bool:
    return all((checkpoint / name).is_file() for name in _RESUME_FILES)
