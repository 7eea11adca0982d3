"""finetune.clips.watch: what a person is told when loader processes die or are slow."""

from __future__ import annotations

import pytest

from data_prep.errors import UserError
from finetune.clips import watch
from finetune.clips.watch import Pace, Watch, naming_videos, wait_remedy


@pytest.mark.parametrize(
    "text",
    [
        "unable to open shared memory object </torch_12_3> in read-write mode: No space left on device (28)",
        "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's workers are out of shared memory.",
    ],
)
def test_a_lack_of_shared_memory_gives_advice(text: str) -> None:
    with pytest.raises(UserError, match="--shm-size"), naming_videos(Watch()):
        raise RuntimeError(text)


def test_a_killed_process_is_told_with_its_video(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Watch()
    for worker, pid in ((0, 111), (1, 222)):
        monkeypatch.setattr(watch, "get_worker_info", lambda worker=worker: type("Info", (), {"id": worker}))
        monkeypatch.setattr(watch.os, "getpid", lambda pid=pid: pid)
        seen.begin(f"class/é{pid}.mp4")
    with pytest.raises(UserError, match=r"videos being read: 'class/é222.mp4'\."), naming_videos(seen):
        raise RuntimeError("DataLoader worker (pid 222) is killed by signal: Killed. ")
    with pytest.raises(UserError, match="'class/é111.mp4', 'class/é222.mp4'"), naming_videos(seen):
        raise RuntimeError("DataLoader worker (pid(s) 9) exited unexpectedly")


def test_other_errors_pass_through() -> None:
    for text in ("CUDA out of memory", "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback ..."):
        with pytest.raises(RuntimeError, match=text[:10]), naming_videos(Watch()):
            raise RuntimeError(text)


def test_pace_and_the_share_of_waiting_leave_out_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    pace = Pace()
    assert pace.take(8, 30) == {}
    for seconds in (50.0, 1.0, 2.0):  # the first is the start of the processes
        with pace.waiting():
            now[0] += seconds
        pace.step_begins()
        now[0] += 3
        pace.step_ends()
    assert pace.take(8, 30) == {"data_wait": 0.25, "clips_per_second": 2.0, "seconds_left": 120}
    assert pace.take(8, 30) == {}


def test_the_remedy_fits_the_machine_and_the_store() -> None:
    assert "raise --dataloader_num_workers from 1 to 8, or prepare the videos with --store clips" in wait_remedy(
        0.3, 1, 8, "files"
    )
    full = wait_remedy(0.3, 8, 8, "frames")
    assert "30% of the time" in full and "--dataloader_num_workers" not in full and "--store" not in full
