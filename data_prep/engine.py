"""Where the work is done: over the cores of this machine, or over a Ray cluster. The same functions, either way."""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.scan import Scanned
from data_prep.shards import CHUNK_SIZE, Job, scan_task
from data_prep.store import is_url, write_parquet_file
from data_prep.work import ByKey, Work
from data_prep.workers import Lost, run_chunks

_SAMPLE_SIZE = 16  # videos, from which time and disk are estimated


def scan_all(jobs: list[Job], work: Work, options: argparse.Namespace) -> ByKey:
    """Scans what no earlier run has scanned. Prints what it will cost, from a sample that is scanned first."""
    known: ByKey = dict(work.known(options.dataset))
    todo = [job for job in jobs if job.key not in known]
    if len(todo) < len(jobs):
        print(f"{len(jobs) - len(todo)} of {len(jobs)} videos were scanned before", flush=True)
    sample, rest = _apart(todo)
    chunks = chain(_chunks(sample, max(1, len(sample) // (4 * options.num_proc))), _chunks(rest, CHUNK_SIZE))
    progress = tqdm(total=len(todo), desc="decoding", unit="video")
    first = 0.0  # when the first result came: processes have started
    with progress:
        for number, result in enumerate(_run(chunks, work, options)):
            progress.update(_keep(result, known))
            first = first or time.monotonic()
            if rest and number > 0 and all(job.key in known for job in sample):
                progress.write(estimate(todo, known, time.monotonic() - first, options))
                rest = []
    return known


def _keep(result: Any, known: ByKey) -> int:
    """Puts one result into `known`; returns of how many videos it is."""
    if isinstance(result, Lost):
        job: Job = result.item
        known[job.key] = (Scanned(job.key, job.video.video_id, result.reason), None, None)
        return 1
    for scanned, place in result:
        known[scanned.key] = (scanned, place, place)
    return len(result)


def _apart(todo: list[Job]) -> tuple[list[Job], list[Job]]:
    """A sample from all over the list, and the rest; no rest where the list is short."""
    if len(todo) < 8 * _SAMPLE_SIZE:
        return todo, []
    step = len(todo) // _SAMPLE_SIZE
    picked = set(range(0, step * _SAMPLE_SIZE, step))
    return [todo[i] for i in sorted(picked)], [job for i, job in enumerate(todo) if i not in picked]


def _chunks(jobs: list[Job], size: int) -> Iterator[list[Job]]:
    size = min(size, CHUNK_SIZE)
    for start in range(0, len(jobs), size):
        yield jobs[start : start + size]


def _run(chunks: Iterable[list[Job]], work: Work, options: argparse.Namespace) -> Iterator[Any]:
    task = scan_task(work.shards, work.storing)
    if options.engine == "local":
        return run_chunks(chunks, task, options.num_proc, options.time_limit)
    from data_prep.ray_engine import run_chunks_on_ray  # an extra

    return run_chunks_on_ray(chunks, task, options.time_limit, options.ray_address)


def write_files(calls: list[tuple[Any, ...]], options: argparse.Namespace) -> None:
    """Writes the data files of a dataset at a URL."""
    if options.engine == "local":
        for call in tqdm(calls, desc="writing", unit="file"):
            write_parquet_file(*call)
        return
    from data_prep.ray_engine import run_calls_on_ray

    run_calls_on_ray(write_parquet_file, calls, options.ray_address)


def estimate(todo: list[Job], known: ByKey, seconds: float, options: argparse.Namespace) -> str:
    """What is left will cost this in time and disk, by the bytes of the sources. `seconds` it took so far."""
    done = [job for job in todo if job.key in known]
    done_bytes = sum(job.num_bytes for job in done) or 1
    share = sum(job.num_bytes for job in todo) / done_bytes
    text = (
        f"about {_duration(seconds * (share - 1))} for {len(todo) - len(done)} more videos, estimated from {len(done)}"
    )
    stored = share * sum(known[job.key][0].stored_bytes for job in done)
    if not stored:
        return f"{text}; the videos stay where they are"
    text += f"; --store {options.store} takes about {_size(stored)}, twice that while it is written"
    if not is_url(options.dataset):
        free = shutil.disk_usage(_existing(Path(options.dataset))).free
        text += f" ({_size(free)} are free)"
        if free < 2 * stored:
            text += ": THIS MAY NOT BE ENOUGH"
    return text


def _existing(path: Path) -> Path:
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _duration(seconds: float) -> str:
    return (
        f"{seconds / 3600:.1f} h"
        if seconds > 5400
        else f"{seconds / 60:.0f} min"
        if seconds > 90
        else f"{seconds:.0f} s"
    )


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes > 5e8 else f"{num_bytes / 1e6:.1f} MB"
