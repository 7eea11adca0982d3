"""The folder of a run: whether it may be written to, whether it holds a run to go on with, and what it begins with."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.format_version import check_format, stamp
from data_prep.sigterm import Interrupted, on_sigterm
from data_prep.staying import Staying
from finetune.results.output import write_json
from finetune.settings.arguments import Settings
from finetune.training.checkpoints import checkpoint_to_resume, complete_checkpoints, step_of
from finetune.training.resumption import RECIPE, UNFINISHED, Earlier, recipe_text


class RunFolder:
    """`--output_dir` of the command `argv`.

    A run that was stopped or killed goes on when the same command is given again. With --overwrite_output_dir it does
    so only if it was told to stop: who kills a run and asks for another wants another. A run that only lacks its push is
    not trained again.

    What the folder holds is read once: the caller has its lock (data_prep/lock.py) from before that to the end.
    """

    def __init__(self, settings: Settings, argv: list[str]):
        self.path = Path(settings.training.output_dir)
        self.argv = argv
        self.is_main = settings.training.process_index == 0  # of a run's processes the one that writes
        self.staying: Staying | None = None  # from `begin` on
        self.overwrite = settings.training.overwrite_output_dir
        self.resume = settings.training.resume_from_checkpoint
        self._unfinished = self._unfinished_of_same_command()
        self.is_trained = bool(self._unfinished.get("trained") and settings.training.push_to_hub)
        self._is_whole = False
        self._begun = False  # whether what the folder holds is of this run
        has_begun = self._same_command_unfinished() and self._unfinished.get("begun", True)
        if has_begun and complete_checkpoints(self.path):
            self.resume, self._begun = "latest", True  # also where the command names the one that it first went on from

    @functools.cached_property
    def checkpoint(self) -> str | None:
        """The one the run goes on from. Raises `UserError` where there is none as asked for."""
        return checkpoint_to_resume(str(self.path), self.resume)

    @functools.cached_property
    def earlier(self) -> Earlier | None:
        """The run that is gone on with, as it was before this one writes anything."""
        return Earlier.of(self.checkpoint) if self.checkpoint else None

    def _unfinished_of_same_command(self) -> dict[str, Any]:
        """Return what unfinished.json says, where the same command left it; else an empty dictionary."""
        try:
            unfinished: dict[str, Any] = json.loads((self.path / UNFINISHED).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        check_format(str(self.path), unfinished)
        return unfinished if unfinished["argv"] == self.argv else {}

    def _same_command_unfinished(self) -> bool:
        if not self._unfinished or self._unfinished.get("trained"):
            return False
        return bool(self._unfinished["stopped"] or not self.overwrite)

    def check(self, needed: list[str]) -> None:
        """Raises `UserError` for a folder that must not be touched; `needed` are paths that this run reads."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--output_dir {self.path} is a file: give a directory.")
        if self.is_trained or not self.path.is_dir() or not any(self.path.iterdir()):
            return
        if self._same_command_unfinished():
            if not self.resume and not self.overwrite and any(self.path.glob("checkpoint-*")):
                raise UserError(f"--output_dir {self.path} holds checkpoints of this run, none of which is complete: look at them, or start anew with --overwrite_output_dir.")  # fmt: skip
            return
        if not self.resume and not self.overwrite:
            raise UserError(f"--output_dir {self.path} exists: choose another, continue it with --resume_from_checkpoint, or replace it with --overwrite_output_dir.")  # fmt: skip
        if not (self.path / RECIPE).is_file():
            raise UserError(f"--output_dir {self.path} is not a run of this project, so it is left alone: choose another.")  # fmt: skip
        self._check_newest()
        for path in needed:
            if not self.resume and self.path.resolve() in (Path(path).resolve(), *Path(path).resolve().parents):
                raise UserError(f"--overwrite_output_dir would delete {path}, which this run needs: choose another --output_dir.")  # fmt: skip

    def _check_newest(self) -> None:
        """Raises `UserError` where the run would go on from one of its older checkpoints, amid the newer ones."""
        if self.checkpoint is None or Path(self.checkpoint).resolve().parent != self.path.resolve():
            return
        newest = complete_checkpoints(self.path)[-1]
        if step_of(newest) > step_of(Path(self.checkpoint)):
            raise UserError(f"--resume_from_checkpoint {self.checkpoint}: {self.path} holds newer ones, to {newest.name}. Give another --output_dir, to go on from it there, or delete the newer ones.")  # fmt: skip

    def begin(self, settings: Settings) -> None:
        """Makes the folder, emptied unless the run goes on in it, with the run's recipe."""
        if self.path.is_dir() and not self.resume:
            for path in self.path.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        self.path.mkdir(parents=True, exist_ok=True)
        self._begun = True
        self._mark(stopped=False)
        (self.path / RECIPE).write_text(recipe_text(settings), encoding="utf-8")
        self.staying = Staying("--output_dir", self.path)

    def through(self) -> AbstractContextManager[None]:
        """While this process writes there: raises `UserError` where somebody deletes or replaces it."""
        return self.staying.through() if self.staying else nullcontext()

    @contextmanager
    def resumable(self) -> Iterator[None]:
        """SIGTERM ends at once what is done here (training saves first), until the run is whole. The folder says so, for
        the scheduler's script and for the same command, which goes on.
        """

        def stop() -> None:
            if self.is_trained and not self._is_whole:
                raise Interrupted(f"stopped by SIGTERM before the push had ended. The model is whole in {self.path}: the same command goes on with the push.")  # fmt: skip
            if not self._is_whole:
                raise Interrupted("stopped by SIGTERM. The run is not finished: the same command goes on.")

        try:
            with on_sigterm(stop):
                yield
        except (Interrupted, SystemExit):
            if self.is_main and not self._is_whole:
                with suppress(OSError):  # a place that cannot be written
                    self.path.mkdir(parents=True, exist_ok=True)
                    self._mark(stopped=True)
            raise

    def finish(self, push_is_left: bool = False) -> None:
        """The run is whole, but for its push."""
        self.is_trained, self._is_whole = True, not push_is_left
        if push_is_left:
            self._mark(stopped=False)
        else:
            (self.path / UNFINISHED).unlink(missing_ok=True)

    def metrics(self) -> dict[str, float]:
        """Return the metrics that a finished run measured."""
        document = json.loads((self.path / "metrics.json").read_text(encoding="utf-8"))
        return {
            name: value
            for name, value in document.items()
            if name.startswith(("test_", "validation_")) and isinstance(value, float)
        }

    def _mark(self, stopped: bool) -> None:
        trained = {"trained": True} if self.is_trained else {}
        write_json(
            self.path / UNFINISHED, {"argv": self.argv, "stopped": stopped, "begun": self._begun, **trained, **stamp()}
        )
