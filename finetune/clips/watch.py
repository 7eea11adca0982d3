"""What the processes that read clips are doing: which video each is at, and how long training waits for them."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.context import BaseContext
from typing import Any

import torch
from torch.utils.data import get_worker_info

from data_prep.errors import UserError
from data_prep.sigterm import ONE_STOP_SECONDS, withheld

if sys.platform != "win32":
    from multiprocessing.context import ForkContext, ForkProcess

_MAX_WORKERS, _NAME_BYTES = 256, 512
_SHARED_MEMORY = ("shared memory", "No space left on device", "Bus error", "unable to open file </torch_")

_listening: int | None = None  # the process that waits for SIGTERM; a fork of it does not


class Watch:
    """In shared memory, so that what a process was reading is known after it was killed."""

    def __init__(self) -> None:
        self._pids = torch.zeros(_MAX_WORKERS, dtype=torch.int64)
        self._names = torch.zeros((_MAX_WORKERS, _NAME_BYTES), dtype=torch.uint8)
        with suppress(RuntimeError):  # no room there: without processes that read none is needed, and else it is said
            self._pids.share_memory_()
            self._names.share_memory_()

    def begin(self, video_id: str) -> None:
        """Called in a loader's process before it reads a video."""
        worker = get_worker_info()
        if worker is None or worker.id >= _MAX_WORKERS:
            return
        name = video_id.encode("utf-8", "backslashreplace")[: _NAME_BYTES - 1]
        self._pids[worker.id] = os.getpid()
        self._names[worker.id, : len(name) + 1] = torch.tensor([*name, 0], dtype=torch.uint8)

    def reading(self, pids: set[int]) -> list[str]:
        """The videos that these processes were at; of all processes where none of them is known."""
        known = self._pids.tolist()
        chosen = [at for at, pid in enumerate(known) if pid in pids] or [at for at, pid in enumerate(known) if pid]
        names = (bytes(self._names[at].tolist()).split(b"\0")[0] for at in chosen)
        return [name.decode("utf-8", "replace") for name in names]


def reader_context(num_workers: int) -> BaseContext | None:
    """How a DataLoader starts its processes so that no signal ends them before they answer to it: its
    `multiprocessing_context`. None where it has none, or where they are not forked or cannot wait for signals.
    """
    can_wait = hasattr(signal, "sigwaitinfo")
    return _Readers() if num_workers and can_wait and multiprocessing.get_start_method() == "fork" else None


if sys.platform != "win32":

    class _Reader(ForkProcess):
        def start(self) -> None:
            with withheld(signal.SIGINT, signal.SIGTERM):
                super().start()

        def run(self) -> None:
            _take_sigterm()
            super().run()

    class _Readers(ForkContext):
        Process = _Reader


def outlive_one_sigterm() -> None:
    """Let a loader's process ignore the first SIGTERM that does not come from its parent.

    Launchers and schedulers signal all processes of a run. The run answers by saving, which a reader that died of the
    signal would spoil. A second one ends it. SIGTERM of the parent is how a loader ends its processes: that one counts
    at once. Only a thread that waits for the signal learns its sender, and it ends a process that hangs in C code too.
    """
    if get_worker_info() is not None:
        _take_sigterm()


def _take_sigterm() -> None:
    global _listening
    if _listening == os.getpid() or not hasattr(signal, "sigwaitinfo"):  # macOS lacks it
        return
    _listening = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_answer_sigterm, args=(os.getppid(),), daemon=True).start()


def _answer_sigterm(parent: int) -> None:
    told = None
    while True:
        sender = signal.sigwaitinfo({signal.SIGTERM}).si_pid
        if sender == parent:
            os._exit(0)
        if told is not None and time.monotonic() - told > ONE_STOP_SECONDS:
            os._exit(128 + signal.SIGTERM)
        told = told or time.monotonic()


@contextmanager
def naming_videos(watch: Watch) -> Iterator[None]:
    """Turns what torch says of a loader's process that died into a `UserError` that says which video it was reading."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if any(sign in text for sign in _SHARED_MEMORY):
            raise UserError(
                "the processes that read clips ran out of shared memory (/dev/shm), through which batches travel. In a "
                "container give it more (docker run --shm-size=8g), or use fewer of them or smaller batches "
                "(--dataloader_num_workers, --per_device_train_batch_size)."
            ) from error
        if "DataLoader worker" not in text or "Original Traceback" in text:
            raise
        pids = {int(number) for number in re.findall(r"\d+", text)}
        names = ", ".join(map(repr, watch.reading(pids))) or "none yet"
        raise UserError(
            f"a process that reads clips was killed ({' '.join(text.split())[:120]}); videos being read: {names}. If the "
            "kernel ran out of memory: fewer --dataloader_num_workers. Else try that video with python -m data_prep."
        ) from error


class Pace:
    """How fast training goes and what it waits for, since the last `take`."""

    def __init__(self) -> None:
        self._waited = self._worked = 0.0
        self._steps = 0
        self._step_began = 0.0
        self.starting = True  # processes start with the first batch, which is no sign of slow reading

    @contextmanager
    def waiting(self) -> Iterator[None]:
        before = time.monotonic()
        yield
        if not self.starting:
            self._waited += time.monotonic() - before
        self.starting = False

    def step_begins(self) -> None:
        self._step_began = time.monotonic()

    def step_ends(self) -> None:
        self._worked += time.monotonic() - self._step_began
        self._steps += 1

    def take(self, clips_per_step: int, steps_left: int) -> dict[str, float]:
        """`data_wait`, the share of time (0 to 1) that steps waited for clips; `clips_per_second`; `seconds_left` of
        training, without evaluation. Empty where no step was taken.
        """
        total, steps = self._waited + self._worked, self._steps
        waited, self._waited, self._worked, self._steps = self._waited, 0.0, 0.0, 0
        if not steps:
            return {}
        return {
            "data_wait": round(waited / total, 4),
            "clips_per_second": float(f"{steps * clips_per_step / total:.4g}"),
            "seconds_left": round(steps_left * total / steps),
        }


def wait_remedy(share: float, num_workers: int, cores: int, store: str | None) -> str:
    """What to do when training waits for data. `cores` this process may use, `store` of the dataset where known."""
    remedies = []
    if num_workers < cores:
        remedies.append(f"raise --dataloader_num_workers from {num_workers} to {cores}")
    if store in (None, "files"):
        remedies.append("prepare the videos with --store clips, which read about ten times as fast")
    elif store == "clips":
        remedies.append("prepare the videos with --store frames, which read about three times as fast")
    remedies.append("use a machine with more cores")
    return f"training waits for clips {share:.0%} of the time: {', or '.join(remedies)}."


def describe_unreadable(found: dict[str, str]) -> list[dict[str, Any]]:
    """For metrics.json: each video that was left out, and why."""
    return [{"video_id": video_id, "reason": reason} for video_id, reason in sorted(found.items())]
