"""Opens and decodes every video once, over several processes: what is really there, or why it cannot be used."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from data_prep.layouts import LabeledVideo
from data_prep.video import VideoError, VideoInfo, probe, probe_and_encode


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Scanned:
    video: LabeledVideo
    info: VideoInfo | None  # None: rejected
    reason: str = ""
    jpegs: tuple[bytes, ...] = ()


def scan_videos(videos: list[LabeledVideo], num_proc: int, short_side: int | None) -> Iterator[Scanned]:
    """Yields each video's result in order. With `short_side` (px) its frames come as JPEG bytes.

    Decoding runs in worker processes, so that a file that kills the decoder (out of memory, a bug in a codec) costs
    itself and not the run: it is tried once more alone, and rejected when its process dies again.
    """
    window = 8 * num_proc  # bounds what waits in memory
    for start in range(0, len(videos), window):
        if start == 0:
            pool = _new_pool(num_proc)
        batch = videos[start : start + window]
        futures = [pool.submit(_scan_one, video.path, short_side) for video in batch]
        died = False
        for video, future in zip(batch, futures):
            try:
                yield _result(video, future)
            except BrokenProcessPool:
                died = True
                yield _scan_alone(video, short_side)
        if died:
            pool.shutdown()
            pool = _new_pool(num_proc)
    pool.shutdown()


def _new_pool(num_proc: int) -> ProcessPoolExecutor:
    # Spawned, not forked: a fork of a process with threads (progress bars, Arrow) may hang.
    return ProcessPoolExecutor(num_proc, multiprocessing.get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for its next video for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def _scan_one(path: Path, short_side: int | None) -> tuple[VideoInfo, list[bytes]]:
    if short_side is None:
        return probe(path), []
    return probe_and_encode(path, short_side)


def _result(video: LabeledVideo, future: Future[tuple[VideoInfo, list[bytes]]]) -> Scanned:
    try:
        info, jpegs = future.result()
    except VideoError as error:
        return Scanned(video, None, str(error))
    except BrokenProcessPool:
        raise
    except Exception as error:  # an untrusted file met a case unknown to us: it is refused, and named
        return Scanned(video, None, f"cannot be decoded: {type(error).__name__}: {error}")
    return Scanned(video, info, jpegs=tuple(jpegs))


def _scan_alone(video: LabeledVideo, short_side: int | None) -> Scanned:
    with _new_pool(1) as pool:
        try:
            return _result(video, pool.submit(_scan_one, video.path, short_side))
        except BrokenProcessPool:
            return Scanned(video, None, "decoding it killed its process (out of memory, or a fault in the decoder)")
