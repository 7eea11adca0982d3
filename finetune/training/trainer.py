"""The one Trainer that trains here, as thin as it can be."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Sampler
from transformers import EarlyStoppingCallback, TrainerCallback

from data_prep.errors import UserError
from data_prep.workers import available_cores
from finetune.clips.batch import normalise
from finetune.clips.clip import IGNORED, Clips
from finetune.clips.stream import StreamedClips, steps_per_pass
from finetune.clips.watch import Pace, reader_context, wait_remedy
from finetune.model.finite import NotFinite
from finetune.model.modeling import MULTI_LABEL
from finetune.settings.learning import LearningArguments
from finetune.training.clock import TrainingClock
from finetune.training.divergence import Diverged, Divergence, diverged, spoiled_weights
from finetune.training.ema import MovingAverage
from finetune.training.first_batch import plot_batch
from finetune.training.interruption import Interruption
from finetune.training.losses import Loss, as_targets, balanced_weights
from finetune.training.mixing import Mixing
from finetune.training.optimizer import milestone_schedule, parameter_groups
from finetune.training.sampler import VideoSampler
from finetune.training.saving import SavingTrainer

_WAIT_WARNING = 0.1  # share of the time
_CHECKED_STEPS = 10  # on an accelerator, which a check waits for: how often it is looked for divergence at least


class VideoTrainer(SavingTrainer):
    """transformers' Trainer for uint8 clips, which it normalises on the device, learning as `LearningArguments` say.

    It logs the share of time that steps waited for data (`data_wait`), clips a second and the time left, and keeps which
    videos could not be read (`unreadable`, {video_id: reason}). Everything random is a function of the seed and of the
    epoch or step, so that a run which was stopped and resumed ends with the weights of one that was not.
    """

    def __init__(
        self,
        *,
        train_dataset: Clips | StreamedClips,
        learning: LearningArguments | None = None,
        store: str | None = None,
        **kwargs: Any,
    ):
        self.learning, self.pace, self.store = learning or LearningArguments(), Pace(), store
        self.unreadable: dict[str, str] = {}
        self.interruption, self.clock, self.divergence = Interruption(), TrainingClock(), Divergence()
        self._warned = self._pictured = False
        self.batch_of_step = 0  # of the optimizer step under way
        self.sampler: VideoSampler | None = None
        self.optimizer: Any
        self.lr_scheduler: Any
        with warnings.catch_warnings():
            # Trainer smooths one label alone, and warns; `Loss` smooths several too.
            warnings.filterwarnings("ignore", message="Label smoothing is not compatible")
            super().__init__(train_dataset=train_dataset, compute_loss_func=self._loss_of_outputs, **kwargs)
        self.label_smoother = None  # `Loss` smooths
        self.multi_label = self.model.config.problem_type == MULTI_LABEL
        self.loss = self._make_loss()
        self.mixing = Mixing(self.learning.mixup_alpha, self.learning.cutmix_alpha, self.learning.cutmix_probability)
        for callback in (_Follow(self), self.interruption):
            self.add_callback(callback)
        if self.learning.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(self.learning.early_stopping_patience))

    # What learns, and how fast

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            model = self.model if model is None else model
            optimizer, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
            groups = parameter_groups(
                model, self.args.learning_rate, self.args.weight_decay, self.learning.weight_decay_on,
                self.learning.layer_decay,
            )  # fmt: skip
            self.optimizer = optimizer(groups, **settings)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None and self.learning.lr_milestones:
            epochs = self.args.num_train_epochs
            if self.args.max_steps > 0:
                epochs = num_training_steps / self._steps_of_an_epoch()
            multiplier = milestone_schedule(
                self.learning.lr_milestones, self.learning.lr_milestone_factor, epochs,
                num_training_steps, self.args.get_warmup_steps(num_training_steps),
            )  # fmt: skip
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, multiplier)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def check_warmup(self) -> None:
        """Raise `UserError` where the warmup is longer than the run, which then never reaches its learning rate."""
        steps, args = self.args.max_steps, self.args
        if steps <= 0:
            steps = math.ceil(args.num_train_epochs * self._steps_of_an_epoch())
        warmup = args.get_warmup_steps(steps)
        if warmup > steps and not self.learning.linear_probe:
            raise UserError(f"--warmup_steps is {warmup}, but the run has {steps} steps: give fewer, or a share of them, as 0.1.")  # fmt: skip

    def _steps_of_an_epoch(self) -> int:
        batch, world, accumulated = self._train_batch_size, self.args.world_size, self.args.gradient_accumulation_steps
        if isinstance(self.train_dataset, StreamedClips):
            return steps_per_pass(len(self.train_dataset.rows), batch, world, accumulated)
        batches = len(self.train_dataset) * self.learning.repeated_augmentation / (batch * world)
        whole = math.floor(batches) if self.args.dataloader_drop_last else math.ceil(batches)
        return max(1, math.ceil(whole / accumulated))

    def _inner_training_loop(self, batch_size: int | None = None, **kwargs: Any) -> Any:
        """Where --auto_find_batch_size has made batches smaller, a step takes more of them, to about the same number."""
        if batch_size is not None:
            self._fit_accumulation(batch_size)
        return super()._inner_training_loop(batch_size=batch_size, **kwargs)

    def _fit_accumulation(self, batch_size: int) -> None:
        target = self.learning.target_batch_size
        if self.args.auto_find_batch_size and target is not None:
            steps = max(1, round(target / (batch_size * self.args.world_size)))
            self.args.gradient_accumulation_steps = self.accelerator.gradient_accumulation_steps = steps

    # Going on

    def planned_steps(self, state: dict[str, Any]) -> tuple[int, int]:
        """Steps of the whole training, and of an epoch, where it goes on from a checkpoint with the Trainer's `state`."""
        if self.args.auto_find_batch_size and state.get("train_batch_size"):
            self._train_batch_size = state["train_batch_size"]  # as `Trainer.train` takes it
            self._fit_accumulation(self._train_batch_size)
        of_an_epoch = self._steps_of_an_epoch()
        whole = self.args.max_steps if self.args.max_steps > 0 else math.ceil(self.args.num_train_epochs * of_an_epoch)
        return whole, of_an_epoch

    def _load_callback_state(self) -> None:
        """Trainer's, but how patient early stopping is is what the command says."""
        super()._load_callback_state()
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback) and self.learning.early_stopping_patience is not None:
                callback.early_stopping_patience = self.learning.early_stopping_patience

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Trainer's, unless the checkpoint that training went on from was its end: the last step, or early stopping."""
        if self.state.global_step >= self.state.max_steps or self._is_out_of_patience():
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _is_out_of_patience(self) -> bool:
        return any(
            isinstance(callback, EarlyStoppingCallback)
            and callback.early_stopping_patience_counter >= callback.early_stopping_patience
            for callback in self.callback_handler.callbacks
        )

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        """Trainer's; then the model has the parameters that learn, which sharding makes anew, and the average can be made."""
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if self.learning.ema_decay:
            self.average = MovingAverage(self.model, self.learning.ema_decay)
            if resume_from_checkpoint is not None:
                self.load_training_weights(resume_from_checkpoint)
        return prepared

    def train(self, *args: Any, **kwargs: Any) -> Any:
        with self.interruption.listening():
            output = super().train(*args, **kwargs)
        best_is_loaded = self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None
        if self.average is not None and not best_is_loaded:
            self.average.load_average()
        return output

    # Divergence

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.divergence.note("loss", loss, self.state.global_step + 1)
        return loss

    def _maybe_log_save_evaluate(self, tr_loss: torch.Tensor, grad_norm: Any, *args: Any, **kwargs: Any) -> None:
        """Before anything is logged, evaluated or saved, that it is worth it."""
        step, control = self.state.global_step, self.control
        if self.accelerator.scaler is not None:
            self.divergence.note_scaled(self.accelerator.optimizer_step_was_skipped, step)
        elif grad_norm is not None:
            self.divergence.note("gradient", grad_norm, step)
        uses_weights = control.should_evaluate or control.should_save or control.should_training_stop
        alone_on_cpu = self.args.device.type == "cpu" and self.args.world_size == 1
        if uses_weights or control.should_log or alone_on_cpu or step % _CHECKED_STEPS == 0:
            self._check_steps()
            if self._saved_at is not None and self._saved_at < step:
                self.remove_old_checkpoints()
        if uses_weights:
            self.check_weights()
        try:
            super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)
        except NotFinite as error:
            raise self._diverged(str(error), step) from error

    def _check_steps(self) -> None:
        found = self.divergence.first(self.args.device, self.args.world_size)
        if found is not None:
            step, kind = found
            good_until = step - 2 if kind == "loss" else step - 1  # a loss is of the weights of the step before
            raise self._diverged(f"the {kind} is NaN or infinite", step, good_until)

    def check_weights(self) -> None:
        """Raises `UserError` where the model or its moving average holds NaN or infinite numbers. For all processes."""
        averages = {} if self.average is None else self.average.weights
        weights = (*self.model.named_parameters(), *averages.items())
        wrong = spoiled_weights(weights, self.args.device, self.args.world_size)
        if wrong is not None:
            raise self._diverged(wrong, self.state.global_step)

    def _diverged(self, what: str, step: int, good_until: int | None = None) -> Diverged:
        last = step - 1 if good_until is None else good_until
        return diverged(what, step, self.state.max_steps, last, self.args, bool(self.learning.lora_rank))

    def _determine_best_metric(self, *args: Any, **kwargs: Any) -> bool:
        """Of --save_strategy best it decides whether is saved; a run that is told to stop is, whatever it measures."""
        return bool(super()._determine_best_metric(*args, **kwargs)) or self.interruption.stopping

    # Batches and their loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        clips = self.train_dataset
        if not isinstance(clips, Clips):
            return None
        labels = clips.labels() if self.learning.sampler == "balanced" else None
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self.sampler = VideoSampler(len(clips), seed, labels, self.learning.repeated_augmentation)
        return self.sampler

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        with self.pace.waiting():
            return super().get_batch_samples(*args, **kwargs)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self.unreadable.update(inputs.pop("unreadable", ()))
        inputs = super()._prepare_inputs(inputs)
        inputs["pixel_values"] = normalise(inputs["pixel_values"], self.processing_class)
        return inputs

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if model.training:
            inputs = self._mixed(inputs)
            self._picture_first(inputs)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _mixed(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Targets in place of labels, mixed with other clips of the batch; not where a video could not be read."""
        pixels, targets = inputs["pixel_values"], as_targets(inputs["labels"], self.model.config.num_labels)
        if self.mixing.is_on and not (targets == IGNORED).any():  # which waits for the device
            place = (self.args.seed, self.state.global_step, self.batch_of_step, self.args.process_index)
            pixels, targets = self.mixing(pixels, targets, np.random.default_rng(place))
        self.batch_of_step += 1
        return {**inputs, "pixel_values": pixels, "labels": targets}

    def _loss_of_outputs(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        """In evaluation the plain one, whatever is trained with: comparable between runs."""
        logits = outputs["logits"]
        loss = self.loss if self.model.training else Loss(self.multi_label)
        targets = as_targets(labels, logits.shape[-1])
        if num_items_in_batch is None:
            num_items_in_batch = (labels != IGNORED).sum()
        return loss(logits, targets, num_items_in_batch.clamp(min=1))  # of no readable video the loss is 0, not NaN

    def _make_loss(self) -> Loss:
        weights = None
        if self.learning.class_weights is not None:
            weights = balanced_weights(self.train_dataset.labels(), self.model.config.num_labels)
        return Loss(self.multi_label, self.args.label_smoothing_factor, weights, self.learning.focal_gamma)

    def _picture_first(self, inputs: dict[str, Any]) -> None:
        path = Path(self.args.output_dir) / "first_batch.png"
        if not self._pictured and self.is_world_process_zero() and not path.exists():
            names = [self.model.config.id2label[i] for i in range(self.model.config.num_labels)]
            plot_batch(inputs["pixel_values"], inputs["labels"], self.processing_class, names, path)
        self._pictured = True

    def gather_unreadable(self) -> None:
        """Every process learns which videos the others could not read."""
        if self.args.world_size > 1:
            found: list[Any] = [None] * self.args.world_size
            torch.distributed.all_gather_object(found, self.unreadable)
            self.unreadable = {video_id: reason for one in found for video_id, reason in one.items()}

    # Logs

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            clips = self._train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
            logs |= self.pace.take(clips, self.state.max_steps - self.state.global_step)
            self._warn_of_waiting(logs.get("data_wait", 0))
        if not math.isfinite(logs.get("grad_norm", 0)):  # of a step that float16's scaler left out
            del logs["grad_norm"]
        super().log(logs, *args, **kwargs)

    def _warn_of_waiting(self, share: float) -> None:
        if share > _WAIT_WARNING and not self._warned and self.is_world_process_zero():
            self._warned = True
            cores = max(1, available_cores() // max(1, self.args.world_size))
            print(wait_remedy(share, self.args.dataloader_num_workers, cores, self.store), file=sys.stderr)

    # Loaders

    def get_train_dataloader(self) -> DataLoader:
        """A stream deals itself to processes: accelerate, which would deal it again, is left out."""
        if not isinstance(self.train_dataset, StreamedClips):
            loader = super().get_train_dataloader()
            if not len(loader):
                batch = self._train_batch_size * self.args.world_size
                raise UserError(
                    f"{len(self.train_dataset)} training videos do not fill one batch of {batch}, and --dataloader_drop_last leaves out "
                    "what fills none: pass --dataloader_drop_last false, or a smaller --per_device_train_batch_size."
                )
            return loader
        workers = self.args.dataloader_num_workers
        return DataLoader(
            self.train_dataset,
            self._train_batch_size,
            collate_fn=self.data_collator,
            num_workers=workers,
            multiprocessing_context=reader_context(workers),
            prefetch_factor=self.args.dataloader_prefetch_factor if workers else None,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        given = self.args.dataloader_multiprocessing_context
        self.args.dataloader_multiprocessing_context = given or reader_context(self.args.dataloader_num_workers)
        try:
            return super()._get_dataloader(*args, **kwargs)
        finally:
            self.args.dataloader_multiprocessing_context = given

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


class _Follow(TrainerCallback):
    """Tells clips, order and moving average where training is."""

    def __init__(self, trainer: VideoTrainer):
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        epoch = int(state.epoch or 0)
        self.trainer.train_dataset.set_epoch(epoch)
        if self.trainer.sampler is not None:
            self.trainer.sampler.set_epoch(epoch)
        self.trainer.pace.starting = True

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.batch_of_step = 0
        self.trainer.pace.step_begins()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.average is not None:
            self.trainer.average.update(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.pace.step_ends()
