"""Divergence of a run, whose numbers become NaN or infinite: found before they are saved, and said with what to do."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from data_prep.errors import UserError
from finetune.model.finite import not_finite
from finetune.training.checkpoints import complete_checkpoints, step_of

_NEVER = 1 << 62
_KINDS = ("loss", "gradient")  # in the order in which a step computes them
# A GradScaler halves its scale for each step that overflows, from 2^16: after so many in a row, smaller scales are no cure.
_MOST_SKIPPED = 30


class Diverged(UserError):
    """A run's loss, gradients, weights or scores are NaN or infinite, mostly by too large a learning rate."""


class Divergence:
    """Record of the first step whose loss or gradient is NaN or infinite.

    What is noted stays on the device, so that no step waits for it; `first` waits. All processes must call `first` together.
    """

    def __init__(self) -> None:
        self._first: torch.Tensor | None = None
        self._skipped = 0

    def note(self, kind: str, value: torch.Tensor | float, step: int) -> None:
        """Take in the loss or the norm of the gradients of an optimizer step, which counts from 1."""
        value = torch.as_tensor(_local(value)).detach()
        if self._first is None:
            self._first = torch.full((len(_KINDS),), _NEVER, device=value.device)
        found = torch.where(value.isfinite().all(), _NEVER, step)
        first = self._first[_KINDS.index(kind)]
        first.copy_(torch.minimum(first, found))

    def note_scaled(self, was_skipped: bool, step: int) -> None:
        """Take in whether float16's scaler left out a step: some that overflow are how it finds its scale."""
        self._skipped = self._skipped + 1 if was_skipped else 0
        if self._skipped >= _MOST_SKIPPED:
            self.note("gradient", float("nan"), step)

    def first(self, device: torch.device, world_size: int) -> tuple[int, str] | None:
        """Return the step and whether it was the loss or the gradient; None where all were finite."""
        found = torch.full((len(_KINDS),), _NEVER) if self._first is None else self._first
        if world_size > 1:
            found = found.to(device)
            torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MIN)
        steps = found.tolist()
        return None if min(steps) == _NEVER else (min(steps), _KINDS[steps.index(min(steps))])


def spoiled_weights(weights: Iterable[tuple[str, torch.Tensor]], device: torch.device, world_size: int) -> str | None:
    """Return the words that name a NaN or infinite weight on any process; None where there is none."""
    wrong = not_finite((name, _local(weight)) for name, weight in weights)
    count = torch.tensor(len(wrong), device=device)
    if world_size > 1:
        torch.distributed.all_reduce(count)
    return (
        f"{int(count)} weights are NaN or infinite{f', the first {wrong[0]},' if wrong else ''}" if int(count) else None
    )


def diverged(what: str, step: int, max_steps: int, good_until: int, args: Any, is_lora: bool) -> Diverged:
    """The error to raise: `what` says which numbers are NaN or infinite at `step`; checkpoints until `good_until` are good."""
    good = [folder for folder in complete_checkpoints(Path(args.output_dir)) if step_of(folder) <= good_until]
    kept = f"The last good checkpoint is {good[-1]}" if good else "There is no good checkpoint"
    if good and not is_lora:
        kept += f": a new run with another --output_dir starts from it with --model_name_or_path {good[-1]}"
    smaller = [f"a smaller --learning_rate (it is {args.learning_rate:g})"]
    if not 0 < args.max_grad_norm <= 1:
        smaller.append("--max_grad_norm 1")
    if args.fp16:
        smaller.append("--bf16 true in place of --fp16")
    smaller.append("a longer --warmup_steps")
    return Diverged(
        f"training diverged: {what} at step {step} of {max_steps}. It was stopped, and nothing of that was saved. "
        f"{kept}. Train again with one of: {', '.join(smaller)} (--overwrite_output_dir to start anew)."
    )


def _local(value: Any) -> Any:
    """The part of a sharded tensor that is on this process."""
    return value.to_local() if hasattr(value, "to_local") else value
