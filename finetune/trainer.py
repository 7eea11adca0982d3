"""The one Trainer subclass, as thin as it can be, and which checkpoint a run resumes from."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from data_prep.errors import UserError
from data_prep.workers import available_cores
from finetune.batch import normalise
from finetune.clip import IGNORED, Clips
from finetune.stream import StreamedClips
from finetune.watch import DataWait, wait_remedy

# What a checkpoint needs to go on as if never interrupted; Trainer writes trainer_state.json last.
_RESUME_FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "model.safetensors", "config.json")


_WAIT_WARNING = 0.1  # share of the time


class VideoTrainer(Trainer):
    """transformers' Trainer for uint8 clips, which it normalises on the device.

    It tells the training clips the epoch, logs the share of time that steps waited for data (`data_wait`), keeps which
    videos could not be read (`unreadable`, {video_id: reason}), and leaves the model card to `finetune.card`.
    """

    def __init__(self, *, train_dataset: Clips | StreamedClips, store: str | None = None, **kwargs: Any):
        self.data_wait, self.store = DataWait(), store
        self.unreadable: dict[str, str] = {}
        self._warned = False
        super().__init__(train_dataset=train_dataset, callbacks=[_Follow(train_dataset, self.data_wait)], **kwargs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        with self.data_wait.waiting():
            return super().get_batch_samples(*args, **kwargs)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self.unreadable.update(inputs.pop("unreadable", ()))
        inputs = super()._prepare_inputs(inputs)
        inputs["pixel_values"] = normalise(inputs["pixel_values"], self.processing_class)
        return inputs

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any) -> Any:
        """Of a batch without any readable video the loss is 0, where the mean over no video would be NaN."""
        empty = bool(self.unreadable) and bool((inputs["labels"] == IGNORED).all())
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if empty:
            loss = outputs["logits"].sum() * 0
        return (loss, outputs) if return_outputs else loss

    def gather_unreadable(self) -> None:
        """Every process learns which videos the others could not read."""
        if self.args.world_size > 1:
            found: list[Any] = [None] * self.args.world_size
            torch.distributed.all_gather_object(found, self.unreadable)
            self.unreadable = {video_id: reason for one in found for video_id, reason in one.items()}

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and (share := self.data_wait.take()) is not None:
            logs["data_wait"] = round(share, 4)
            if share > _WAIT_WARNING and not self._warned and self.is_world_process_zero():
                self._warned = True
                cores = max(1, available_cores() // max(1, self.args.world_size))
                print(wait_remedy(share, self.args.dataloader_num_workers, cores, self.store), file=sys.stderr)
        super().log(logs, *args, **kwargs)

    def get_train_dataloader(self) -> DataLoader:
        """A stream deals itself to processes: accelerate, which would deal it again, is left out."""
        if not isinstance(self.train_dataset, StreamedClips):
            return super().get_train_dataloader()
        workers = self.args.dataloader_num_workers
        return DataLoader(
            self.train_dataset,
            self._train_batch_size,
            collate_fn=self.data_collator,
            num_workers=workers,
            prefetch_factor=self.args.dataloader_prefetch_factor if workers else None,
            pin_memory=self.args.dataloader_pin_memory,
        )

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


class _Follow(TrainerCallback):
    def __init__(self, clips: Clips | StreamedClips, data_wait: DataWait):
        self.clips, self.data_wait = clips, data_wait

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.clips.set_epoch(int(state.epoch or 0))
        self.data_wait.starting = True

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.data_wait.step_begins()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.data_wait.step_ends()


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


def steps_done(checkpoint: str | None) -> int:
    """Optimizer steps until a checkpoint; 0 without one."""
    if checkpoint is None:
        return 0
    state = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
    return int(state["global_step"])


def is_complete(checkpoint: Path) -> bool:
    return all((checkpoint / name).is_file() for name in _RESUME_FILES)
