"""Runs chunks of videos over several processes, each of which may die or hang without harm to the run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from data_prep.limits import MAX_WORKER_BYTES
from data_prep.sigterm import withheld

Chunk = list[Any]
# Works through a chunk, calling its second argument with each position as it starts on it.
Task = Callable[[Chunk, Callable[[int], None]], Any]

DIED = "decoding it killed its process (out of memory, or a fault in the decoder)"
_TOO_LONG = "takes more than"
GRACE_SECONDS = 20.0  # for what is not decoding, and for a busy machine
_START_SECONDS = 120.0  # for a process to start and to begin its chunk


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_lost(reason: str) -> bool:
    """Whether a video was refused for what its scan took, and not for what it is."""
    return reason.startswith((DIED, _TOO_LONG))


@dataclass
class Lost:
    """An item whose process died or hung on it, twice; `reason` in words for `rejected.csv`."""

    item: Any
    reason: str


@dataclass
class _Worker:
    process: Any
    connection: Connection
    chunk: Chunk | None = None
    position: int = -1  # in the chunk; -1: not begun
    deadline: float = field(default=float("inf"))


def run_chunks(chunks: Iterable[Chunk], task: Task, num_proc: int, time_limit: float) -> Iterator[Any | Lost]:
    """Yields `task`'s result of each chunk as it comes, or a `Lost` for an item that cannot be worked on.

    A process that dies or takes much longer than `time_limit` seconds over one item is replaced; the rest of its chunk
    is done again without that item, and the item once more alone at the end, when nothing else takes memory.
    An exception of `task` itself, as of a full disk, ends the run.
    """
    suspects: list[Any] = []
    pool = _Pool(task, time_limit)
    try:
        for lost in pool.run(deque(), iter(chunks), num_proc):
            if isinstance(lost, Lost) and lost.reason == DIED:
                suspects.append(lost.item)
            else:
                yield lost
        for item in suspects:
            yield from pool.run(deque([[item]]), iter(()), 1)
    finally:
        pool.close()


class _Pool:
    def __init__(self, task: Task, time_limit: float):
        self.task, self.time_limit = task, time_limit
        self.workers: list[_Worker] = []
        self.deaths_at_start = 0

    def run(self, again: deque[Chunk], chunks: Iterator[Chunk], num_proc: int) -> Iterator[Any | Lost]:
        while True:
            self._hand_out(again, chunks, num_proc)
            busy = [worker for worker in self.workers if worker.chunk is not None]
            if not busy:
                return
            nearest = min(worker.deadline for worker in busy)
            ready = wait([worker.connection for worker in busy], timeout=max(0.0, nearest - time.monotonic()))
            for worker in busy:
                if worker.connection in ready:
                    yield from self._listen(worker, again)
                elif time.monotonic() > worker.deadline:
                    yield from self._give_up(worker, again, f"{_TOO_LONG} {self.time_limit:g} s")

    def _hand_out(self, again: deque[Chunk], chunks: Iterator[Chunk], num_proc: int) -> None:
        idle = [worker for worker in self.workers if worker.chunk is None]
        while len(self.workers) - len(idle) < num_proc:
            chunk = again.popleft() if again else next(chunks, None)
            if chunk is None:
                return
            if not idle:
                idle.append(_start(self.task))
                self.workers.append(idle[-1])
            worker = idle.pop()
            worker.chunk, worker.position = chunk, -1
            worker.deadline = time.monotonic() + _START_SECONDS
            with suppress(OSError):  # it died while idle: the next wait finds that out
                worker.connection.send(chunk)

    def _listen(self, worker: _Worker, again: deque[Chunk]) -> Iterator[Any | Lost]:
        try:
            kind, value = worker.connection.recv()
        except (EOFError, OSError):
            yield from self._give_up(worker, again, DIED)
            return
        if kind == "at":
            worker.position = value
            worker.deadline = time.monotonic() + self.time_limit + GRACE_SECONDS
        elif kind == "failed":
            raise value
        else:
            worker.chunk, worker.deadline = None, float("inf")
            yield value

    def _give_up(self, worker: _Worker, again: deque[Chunk], reason: str) -> Iterator[Lost]:
        """Ends the worker; its chunk is done again without the item that it was at."""
        self.workers.remove(worker)
        _end(worker)
        chunk = worker.chunk or []
        if worker.position < 0:
            self.deaths_at_start += 1
            if self.deaths_at_start > 3:
                raise RuntimeError("the processes that decode die before they begin: see their messages above")
            again.append(chunk)
            return
        rest = chunk[: worker.position] + chunk[worker.position + 1 :]
        if rest:
            again.append(rest)
        yield Lost(chunk[worker.position], reason)

    def close(self) -> None:
        for worker in self.workers:
            _end(worker)


def _start(task: Task) -> _Worker:
    # Spawned, not forked: a fork of a process with threads (progress bars, Arrow) may hang.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, task), daemon=True)
    resource_tracker.ensure_running()  # when it starts it lets through what is withheld
    with withheld(signal.SIGINT):
        process.start()
    theirs.close()
    return _Worker(process, ours)


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.connection.close()


def _work(connection: Connection, task: Task) -> None:
    """A worker's life: receive a chunk, say where it is, send the result."""
    _end_with_parent()
    _limit_memory()
    while True:
        try:
            chunk = connection.recv()
        except (EOFError, OSError):
            return
        try:
            result = ("done", task(chunk, lambda position: connection.send(("at", position))))
        except Exception as error:
            result = ("failed", error)
        connection.send(result)


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on, or wait for its next chunk for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = MAX_WORKER_BYTES if hard == resource.RLIM_INFINITY else min(MAX_WORKER_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
