"""Where the work is done: over the cores of this machine, or over a Ray cluster. The same functions, either way."""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterable, Iterator
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
    with tqdm(total=len(todo), desc="decoding", unit="video") as progress:
        started = time.monotonic()
        _scan(_chunks(sample, max(1, len(sample) // (4 * options.num_proc))), work, options, known, progress)
        if rest:
            seconds = time.monotonic() - started
            progress.write(estimate([known[job.key][0] for job in sample], sample, rest, seconds, options))
        _scan(_chunks(rest, CHUNK_SIZE), work, options, known, progress)
    return known


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


def _scan(chunks: Iterable[list[Job]], work: Work, options: argparse.Namespace, known: ByKey, progress: Any) -> None:
    for result in _run(chunks, work, options):
        if isinstance(result, Lost):
            job: Job = result.item
            known[job.key] = (Scanned(job.key, job.video.video_id, result.reason), None, None)
            progress.update()
            continue
        for scanned, place in result:
            known[scanned.key] = (scanned, place, place)
        progress.update(len(result))


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


def estimate(
    scanned: list[Scanned], sample: list[Job], rest: list[Job], seconds: float, options: argparse.Namespace
) -> str:
    """What the rest will cost in time and disk, by the bytes of the sources. `seconds` the sample took."""
    sample_bytes = sum(job.num_bytes for job in sample) or 1
    share = sum(job.num_bytes for job in rest) / sample_bytes
    stored = sum(one.stored_bytes for one in scanned) * (1 + share)
    text = f"about {_duration(seconds * share)} for {len(rest)} more videos, estimated from {len(sample)}"
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
