"""A run that is told to stop (SIGTERM, as batch schedulers send it) saves first, and says that it is not finished."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback

from data_prep.sigterm import Interrupted, on_sigterm

_AT_ONCE = "stopped by SIGTERM. The run is not finished: the same command goes on."


class Interruption(TrainerCallback):
    """Ends training after the step at which any process was told to stop, with a checkpoint of that step.

    It raises `Interrupted` as soon as that is saved: nothing is evaluated, deleted or reported as if training was done.
    At the last step of an epoch, what is due there comes first, so that resuming changes nothing.
    """

    def __init__(self) -> None:
        self.told = False
        self.stopping = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While training: SIGTERM is noted; a second one ends the process at once."""

        def note() -> None:
            self.told = True

        with on_sigterm(note):
            yield
        if self.told:  # after the last step, with nothing left to save
            raise Interrupted(_AT_ONCE)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop a run that was told after its last checkpoint, which nothing has noticed yet."""
        if self._any_told(args):
            raise Interrupted(_AT_ONCE)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._any_told(args):
            self.stopping = True
            control.should_training_stop = True
            control.should_save = not _ends_epoch(state)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.stopping:
            control.should_save = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save after an evaluation in which the run was told to stop: after the last one no step follows."""
        if self._any_told(args):
            self.stopping = True
            control.should_training_stop = control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.stopping or self._any_told(args):
            raise Interrupted(
                f"stopped by SIGTERM after step {state.global_step} of {state.max_steps}, and saved. The run is not finished: "
                "the same command goes on."
            )

    def _any_told(self, args: Any) -> bool:
        if args.world_size == 1:
            return self.told
        flag = torch.tensor(float(self.told), device=args.device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        return bool(flag)


def _ends_epoch(state: Any) -> bool:
    return abs(state.epoch - round(state.epoch)) < 1e-9
