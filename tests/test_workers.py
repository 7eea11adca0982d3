"""data_prep.workers: a process that dies or hangs costs its own item, and no other."""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.workers import Lost, run_chunks


def square(chunk: list[int], begin: Callable[[int], None], poison: int | None = None, how: str = "") -> list[int]:
    done = []
    for position, item in enumerate(chunk):
        begin(position)
        if item == poison:
            if how == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif how == "hang":
                time.sleep(1000)
            elif how == "memory":
                bytearray(1 << 40)
            else:
                raise OSError(28, "No space left on device")
        done.append(item * item)
    return done


def results(task: Callable, num_proc: int, time_limit: float = 60) -> tuple[list[int], list[Lost]]:
    chunks = [list(range(start, start + 4)) for start in range(0, 20, 4)]
    done = list(run_chunks(chunks, task, num_proc, time_limit))
    return sorted(n for one in done if not isinstance(one, Lost) for n in one), [o for o in done if isinstance(o, Lost)]


@pytest.mark.parametrize("num_proc", [1, 3])
def test_every_chunk_is_done_once(num_proc: int) -> None:
    assert results(square, num_proc) == ([n * n for n in range(20)], [])


@pytest.mark.parametrize("num_proc", [1, 2])
def test_an_item_that_kills_its_process_is_lost_alone(num_proc: int) -> None:
    done, lost = results(functools.partial(square, poison=6, how="die"), num_proc)
    assert done == [n * n for n in range(20) if n != 6]
    assert [one.item for one in lost] == [6] and "killed its process" in lost[0].reason


def test_an_item_that_dies_only_beside_others_is_done_in_the_end(tmp_path: Path) -> None:
    """As where the memory of all together is too small: it is tried again alone."""
    done, lost = results(functools.partial(_die_once, folder=tmp_path), 2)
    assert (done, lost) == (list(range(20)), [])


def _die_once(chunk: list[int], begin: Callable[[int], None], folder: Path) -> list[int]:
    for position, item in enumerate(chunk):
        begin(position)
        if item == 9 and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return chunk


def test_an_item_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.workers.GRACE_SECONDS", 0.5)
    done, lost = results(functools.partial(square, poison=19, how="hang"), 2, time_limit=1)
    assert done == [n * n for n in range(19)]
    assert [(one.item, one.reason) for one in lost] == [(19, "takes more than 1 s")]


def test_memory_has_a_bound() -> None:
    with pytest.raises(MemoryError):
        results(functools.partial(square, poison=3, how="memory"), 1)


def test_an_error_that_is_not_of_an_item_ends_the_run() -> None:
    with pytest.raises(OSError, match="No space left"):
        results(functools.partial(square, poison=3), 2)
