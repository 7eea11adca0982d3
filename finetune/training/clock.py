"""How long a run has trained, over all the parts in which it did."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from finetune.results.output import write_json

_FILE = "training_time.json"  # of a checkpoint


@dataclass
class TrainingClock:
    """`seconds` of training that led to the weights, evaluations in between counted: of the parts until the checkpoints
    from which a run went on, and of the one under way. None where nobody wrote down how long an earlier part took.

    What a killed run did after its last checkpoint is lost, and not counted: it is done again.
    """

    parts: int = 0  # that have begun
    _before: float | None = 0.0
    _began: float | None = None

    @property
    def seconds(self) -> float | None:
        if self._before is None or self._began is None:
            return self._before
        return self._before + time.monotonic() - self._began

    @contextmanager
    def running(self, checkpoint: str | None) -> Iterator[None]:
        """While a part trains that goes on from `checkpoint`."""
        if checkpoint is not None:
            self._read(Path(checkpoint))
        self.parts, self._began = self.parts + 1, time.monotonic()
        try:
            yield
        finally:
            self._before, self._began = self.seconds, None

    def write(self, checkpoint: Path) -> None:
        write_json(checkpoint / _FILE, {"seconds": self.seconds, "parts": self.parts})

    def _read(self, checkpoint: Path) -> None:
        try:
            kept = json.loads((checkpoint / _FILE).read_text(encoding="utf-8"))
            self.parts, self._before = int(kept["parts"]), kept["seconds"]
        except (OSError, ValueError, KeyError, TypeError):  # of before there was such a file
            self.parts, self._before = 1, None
