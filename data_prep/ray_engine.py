"""The same work over a Ray cluster (extra `ray`): the machines see the videos and the work folder under one path.

Every machine needs this project installed. A task is one chunk of videos or one data file, written by the machine that
made it under a name that says what is in it; so a task that Ray repeats, because its machine was lost, writes the same
file again and nothing is doubled. The driver holds facts, never pictures.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from data_prep.errors import UserError
from data_prep.workers import DIED, GRACE_SECONDS, Chunk, Lost, Task

_RETRIES = 3  # of a task whose process or machine was lost


def run_chunks_on_ray(
    chunks: Iterable[Chunk], task: Task, time_limit: float, address: str | None
) -> Iterator[Any | Lost]:
    """Yields what `workers.run_chunks` yields: each chunk's result as it comes, or a `Lost` for an item.

    A chunk that kills its process each time is done again item by item, to find the one.
    """
    ray = connect(address)
    work = ray.remote(num_cpus=1, max_retries=_RETRIES)(_guarded)
    singles: deque[Chunk] = deque()
    waiting: dict[Any, Chunk] = {}
    left = iter(chunks)
    while True:
        for chunk in _next_chunks(singles, left, _window(ray) - len(waiting)):
            waiting[work.remote(chunk, task, time_limit)] = chunk
        if not waiting:
            return
        for done in ray.wait(list(waiting))[0]:
            chunk = waiting.pop(done)
            try:
                yield ray.get(done)
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError):
                if len(chunk) == 1:
                    yield Lost(chunk[0], f"{DIED}, or took more than {time_limit:g} s")
                else:
                    singles.extend([item] for item in chunk)


def run_calls_on_ray(function: Callable[..., None], calls: list[tuple[Any, ...]], address: str | None) -> None:
    """Calls `function` with each tuple of arguments, somewhere in the cluster. Raises what it raises."""
    ray = connect(address)
    remote = ray.remote(num_cpus=1, max_retries=_RETRIES)(function)
    left = iter(calls)
    waiting: list[Any] = []
    while True:
        waiting += [remote.remote(*call) for call in _take(left, _window(ray) - len(waiting))]
        if not waiting:
            return
        done, waiting = ray.wait(waiting)
        ray.get(done)


def connect(address: str | None) -> Any:
    """The `ray` package, connected: to `address`, else to RAY_ADDRESS, else to a cluster of this machine alone."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
    try:
        import ray
    except ImportError as error:
        raise UserError('--engine ray: Ray is not installed. pip install -e ".[ray]".') from error
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"--ray_address {address}: no Ray cluster answers there ({error}).") from error
    return ray


def _window(ray: Any) -> int:
    """Tasks under way at once: enough to keep every core of the cluster busy, and no more in the driver's memory."""
    return 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))


def _next_chunks(first: deque[Chunk], then: Iterator[Chunk], number: int) -> Iterator[Chunk]:
    for _ in range(number):
        chunk = first.popleft() if first else next(then, None)
        if chunk is None:
            return
        yield chunk


def _take(left: Iterator[tuple[Any, ...]], number: int) -> Iterator[tuple[Any, ...]]:
    for _, item in zip(range(number), left):
        yield item


def _guarded(chunk: Chunk, task: Task, time_limit: float) -> Any:
    """The task, in a process that ends itself when one item hangs: Ray has no time limit of its own."""
    timer: list[threading.Timer] = []

    def begin(position: int) -> None:
        for old in timer:
            old.cancel()
        timer[:] = [threading.Timer(time_limit + GRACE_SECONDS, os._exit, [1])]
        timer[0].daemon = True
        timer[0].start()

    try:
        return task(chunk, begin)
    finally:
        for old in timer:
            old.cancel()
