"""What a training leaves on the disk: checkpoints, complete or absent, and the model; of a moving average, both weights."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer

from data_prep.errors import UserError
from data_prep.staying import Staying
from finetune.training.checkpoints import (
    STAGING,
    TRAINING_WEIGHTS,
    is_of_sharded_model,
    publish,
    publish_files,
    remove_old,
)
from finetune.training.clock import TrainingClock
from finetune.training.ema import MovingAverage

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PROBE_BYTES = 1 << 20
_MOMENTUM = "momentum_buffer"  # which SGD has or has not, as --optim_args say


class SavingTrainer(Trainer):
    """transformers' Trainer, but what it writes appears whole, and the model card is left to `finetune.sharing.card`.

    With an `average` it is the average that is evaluated and saved, beside the weights that training goes on from.
    """

    clock: TrainingClock
    average: MovingAverage | None = None
    output: Staying | None = None  # the run's folder, on the process that writes
    _staging = False  # whether what is saved goes to `STAGING`
    _saved_at: int | None = None  # step of the newest checkpoint, until the ones that it replaces are removed

    def check_sharding(self, checkpoint: str | None) -> None:
        """Raises `UserError` where the launcher shards the model (FSDP) in a way that cannot be saved as it has to be, or
        `checkpoint`, which the run would go on from, was written the other way.
        """
        plugin = self.accelerator.state.fsdp_plugin if self.is_fsdp_enabled else None
        if plugin is not None and (plugin.fsdp_version != 2 or "FULL_STATE_DICT" not in str(plugin.state_dict_type)):
            raise UserError("sharding needs fsdp_version: 2 and fsdp_state_dict_type: FULL_STATE_DICT in the file given to accelerate launch, as in finetune/launch/fsdp2.yaml.")  # fmt: skip
        if checkpoint is not None and is_of_sharded_model(Path(checkpoint)) != (plugin is not None):
            before, now = ("with FSDP", "without") if plugin is None else ("without FSDP", "with it")
            raise UserError(f"{checkpoint} was written by a run {before}, and this one is launched {now}: launch it as before, or start a new run with --model_name_or_path {checkpoint} and another --output_dir.")  # fmt: skip

    # Checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Trainer's, written elsewhere and given its name when it is complete."""
        with self._staged() as staging:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            self._complete_checkpoint(staging / f"checkpoint-{self.state.global_step}")

    def _complete_checkpoint(self, staged: Path) -> None:
        output_dir = Path(self.args.output_dir)
        best = output_dir / f"checkpoint-{self.state.best_global_step}"
        if best.name == staged.name or best.is_dir():
            self.state.best_model_checkpoint = str(best)
        own = self.average.training_weights() if self.average is not None else {}  # together, where they are sharded
        if not self.args.should_save:
            return
        self.clock.write(staged)
        self.state.save_to_json(str(staged / "trainer_state.json"))
        if own:
            save_file(own, staged / TRAINING_WEIGHTS)
        publish(staged, output_dir / staged.name)
        self._saved_at = self.state.global_step

    def remove_old_checkpoints(self) -> None:
        """Remove what is more than --save_total_limit. Not before something was computed with the newest checkpoint: its
        weights may be finite and useless, and then an older one is the last good one.
        """
        if self._saved_at is not None:
            self._saved_at = None
            remove_old(Path(self.args.output_dir), self.args.save_total_limit, self.state.best_model_checkpoint)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's, which deletes the last checkpoint where another is the best: more epochs go on from the last one."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit

    def check_resumed_optimizer(self, checkpoint: str) -> None:
        """Raises `UserError` where `checkpoint` holds the state of another optimizer than `--optim`'s."""
        path = Path(checkpoint) / "optimizer.pt"
        if not path.is_file():  # of FSDP: another file, in another form
            return
        states = torch.load(path, map_location="cpu", mmap=True, weights_only=True)["state"].values()
        kept: dict[str, Any] = next(filter(None, states), {})
        shape = next((value.shape for value in kept.values() if torch.is_tensor(value) and value.dim()), (1,))
        make, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        if _state_names(make, settings, shape) not in (None, set(kept) - {_MOMENTUM}):
            raise UserError(
                f"--resume_from_checkpoint {checkpoint} was trained with another optimizer: its state is {', '.join(kept) or 'empty'}, "
                f"which --optim {self.args.optim.value} cannot use. Give the --optim that its run's recipe.yaml "
                f"names, or start a new run from these weights: --model_name_or_path {checkpoint}, another --output_dir."
            )

    def load_training_weights(self, checkpoint: str) -> None:
        """Of a checkpoint whose model is the average: the weights that training goes on from."""
        if self.average is not None:
            self.average.load_training_weights(load_file(Path(checkpoint) / TRAINING_WEIGHTS))

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        uses_weights = self.control.should_evaluate or self.control.should_save
        averaged = self.average.in_place() if self.average is not None and uses_weights else contextlib.nullcontext()
        with averaged:
            super()._maybe_log_save_evaluate(*args, **kwargs)

    # The model

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Trainer's; in the run's own folder each file appears whole."""
        if output_dir is not None:
            return super().save_model(output_dir, _internal_call)
        with self._staged() as staging:
            super().save_model(str(staging), _internal_call)
            if self.args.should_save:
                publish_files(staging, Path(self.args.output_dir))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: Trainer's card would overwrite ours."""

    # Both

    @contextmanager
    def _staged(self) -> Iterator[Path]:
        """A folder of the run for what is being written; leaves when all processes have."""
        staging = Path(self.args.output_dir) / STAGING
        self._check_output()
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._staging = True
        try:
            yield staging
        except Exception as error:
            if self.args.should_save:
                _name_full_disk(Path(self.args.output_dir), error)
            raise
        finally:
            self._staging = False
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def log(self, *args: Any, **kwargs: Any) -> None:
        self._check_output()
        super().log(*args, **kwargs)

    def _check_output(self) -> None:
        if self.output is not None:
            self.output.check()

    def _get_output_dir(self, trial: Any) -> str:
        """Where Trainer writes and looks for checkpoints."""
        return str(Path(self.args.output_dir) / STAGING) if self._staging else self.args.output_dir


def _state_names(make: Any, settings: dict[str, Any], shape: Sequence[int]) -> set[str] | None:
    """What an optimizer keeps of a parameter after a step; None where that cannot be tried here, as without a GPU."""
    parameter = torch.nn.Parameter(torch.zeros(tuple(shape)))
    parameter.grad = torch.zeros_like(parameter)
    try:
        optimizer = make([parameter], **settings)
        optimizer.step()
    except Exception:
        return None
    return set(optimizer.state[parameter]) - {_MOMENTUM}


def _name_full_disk(output_dir: Path, error: Exception) -> None:
    """Raise `UserError` where `error` comes of a full disk, which torch and safetensors do not say: a file more does."""
    try:
        with TemporaryFile(dir=output_dir) as file:
            file.write(bytes(_PROBE_BYTES))
            os.fsync(file.fileno())
    except OSError as reason:
        if reason.errno not in _FULL:
            return
        shutil.rmtree(output_dir / STAGING, ignore_errors=True)
        raise UserError(
            f"--output_dir {output_dir}: {reason.strerror}. What is written so far stays: make room there, and the same command "
            "goes on from the newest checkpoint. --save_total_limit says how many are kept."
        ) from error
