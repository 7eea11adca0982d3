"""Ranges of the numbers in transformers' TrainingArguments, which checks few of them itself."""

from __future__ import annotations

from typing import Any

from data_prep.errors import UserError

# Setting -> its limit. A setting that is None was not given.
_AT_LEAST: dict[str, float] = {
    "seed": 0, "data_seed": 0, "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1, "eval_accumulation_steps": 1, "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": 1, "learning_rate": 0, "weight_decay": 0, "adam_beta1": 0, "adam_beta2": 0,
    "max_grad_norm": 0, "warmup_steps": 0, "label_smoothing_factor": 0, "neftune_noise_alpha": 0, "eval_delay": 0,
    "logging_steps": 0, "eval_steps": 0, "save_steps": 0, "ddp_bucket_cap_mb": 1, "ddp_timeout": 1,
}  # fmt: skip
_LESS_THAN: dict[str, float] = {"seed": 2**32, "adam_beta1": 1, "adam_beta2": 1, "label_smoothing_factor": 1}
_MORE_THAN: dict[str, float] = {"adam_epsilon": 0}


def check_training_ranges(training: Any, has_steps: bool) -> None:
    """Raise `UserError` for a number of `TrainingArguments` out of its range.

    Args:
        training: the arguments; their numbers are finite.
        has_steps: whether training goes by epochs and steps, as all but a linear probe does.
    """
    for limits, fits, words in (
        (_AT_LEAST, lambda value, limit: value >= limit, "at least"),
        (_LESS_THAN, lambda value, limit: value < limit, "less than"),
        (_MORE_THAN, lambda value, limit: value > limit, "more than"),
    ):
        for name, limit in limits.items():
            value = getattr(training, name)
            if value is not None and not fits(value, limit):
                raise UserError(f"--{name} is {value:.12g}, expected {words} {limit:.12g}.")
    if not has_steps:
        return
    if training.max_steps < -1 or training.max_steps == 0:
        raise UserError(f"--max_steps is {training.max_steps}, which trains nothing: expected at least 1, or -1 for --num_train_epochs.")  # fmt: skip
    if training.max_steps < 0 and training.num_train_epochs <= 0:
        raise UserError(f"--num_train_epochs is {training.num_train_epochs:g}, which trains nothing: expected more than 0, as 10.")  # fmt: skip
