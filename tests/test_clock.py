"""finetune.training.clock: training time is the sum over the parts of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.training.clock import TrainingClock


def test_the_parts_of_a_run_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    first = TrainingClock()
    with first.running(None):
        now[0] += 60
        first.write(tmp_path)
        now[0] += 5  # lost: the run is killed here, and does this again
    assert (first.seconds, first.parts) == (65, 1)
    now[0] = 7.0  # another machine
    second = TrainingClock()
    with second.running(str(tmp_path)):
        now[0] += 10
        assert (second.seconds, second.parts) == (70, 2)
        second.write(tmp_path)
    now[0] += 500  # evaluation and card
    assert second.seconds == 70
    third = TrainingClock()
    with third.running(str(tmp_path)):
        now[0] += 1
    assert (third.seconds, third.parts) == (71, 3)


@pytest.mark.parametrize("kept", [None, "{", "[]", "{}"])
def test_what_was_not_written_down_is_not_guessed(tmp_path: Path, kept: str | None) -> None:
    if kept is not None:
        (tmp_path / "training_time.json").write_text(kept)
    clock = TrainingClock()
    with clock.running(str(tmp_path)):
        clock.write(tmp_path)
    assert (clock.seconds, clock.parts) == (None, 2)
    later = TrainingClock()
    with later.running(str(tmp_path)):
        pass
    assert (later.seconds, later.parts) == (None, 3)
