"""The work folder: what was scanned and is not yet in the dataset, kept until it is."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath

import fsspec

from data_prep.checksums import damaged
from data_prep.errors import UserError
from data_prep.lock import only_writer
from data_prep.output import beside
from data_prep.parquet import Place
from data_prep.scan import Scanned, Storing
from data_prep.shards import finished, read_placed
from data_prep.staying import Staying
from data_prep.store import SCANNED, is_url, read_json, read_summary, write_json
from data_prep.workers import is_lost

# What is known of a video by its key: facts, where its fingerprint lies, where its stored pictures lie.
ByKey = dict[str, tuple[Scanned, Place | None, Place | None]]

_VERSION = 3  # of what a scan yields


class Work:
    """`folder` holds `settings.json`, the shards, and in the end the filled dataset. May be an fsspec URL."""

    def __init__(self, folder: str, storing: Storing):
        self.folder, self.storing = folder, storing
        self.shards = f"{folder}/shards"

    def known(self, dataset: str) -> ByKey:
        """By key, what was scanned before: by an interrupted run, or for the `dataset` that will be replaced."""
        found: ByKey = {scanned.key: (scanned, place, place) for scanned, place in finished(self.shards)}
        for scanned, facts, pictures in self._stored(dataset):
            found.setdefault(scanned.key, (scanned, facts, pictures))
        # Another time limit, or a machine with more memory, may be kinder.
        return {key: known for key, known in found.items() if not is_lost(known[0].reason)}

    def _stored(self, dataset: str) -> Iterator[tuple[Scanned, Place, Place | None]]:
        """What the finished `dataset` holds, but for what lies in damaged files: that is scanned again."""
        summary = read_summary(dataset)
        if is_url(dataset) or summary.get("scan_settings") != _settings(self.storing):
            return
        broken = damaged(dataset, summary["checksums"], thorough=True)
        for name in broken:
            print(f"{dataset}/{name} is damaged: what it holds is scanned again", file=sys.stderr)
        splits = {f"{dataset}/{name.partition('/')[0]}" for name in broken}
        if SCANNED not in broken:
            for scanned, facts, pictures in read_placed(f"{dataset}/{SCANNED}", dataset):
                # A usable video that is not in the dataset (its label was doubted) left nothing to make its row from.
                if pictures.path not in splits if pictures is not None else scanned.stored is None:
                    yield scanned, facts, pictures


def _settings(storing: Storing) -> dict[str, object]:
    # The time limit changes only what is refused; a scan that ended is as good under another one.
    return {"version": _VERSION, "av": importlib.metadata.version("av"), **asdict(replace(storing, time_limit=0.0))}


def scan_settings(storing: Storing) -> dict[str, object]:
    """For `summary.json`: what the next run compares its own settings with."""
    return _settings(storing)


def work_folder_of(dataset: str, parent: str | None) -> str:
    """Hidden beside the dataset, or below its URL; or in `parent`. A folder of its own, because it is deleted in the end."""
    name = f".{PurePosixPath(dataset).name or 'dataset'}.work"
    if parent is not None:
        return f"{parent if is_url(parent) else os.path.abspath(parent)}/{name}"
    if is_url(dataset):
        return f"{dataset}/_work"
    return str(Path(os.path.abspath(dataset)).with_name(f".{Path(os.path.abspath(dataset)).name}.work"))


@contextmanager
def work_folder(folder: str, storing: Storing) -> Iterator[Work]:
    """The work folder, ours alone; it goes when the block ends well, and stays for the next run when it does not.

    Raises `UserError` where another run has it.
    """
    work = Work(folder, storing)
    if is_url(folder):
        _begin(work)
        yield work
        _remove(folder)
        return
    with only_writer(("the work folder", folder)):
        try:
            _begin(work)
            with Staying("the work folder", folder).through():
                yield work
        except BaseException as error:
            if isinstance(error, OSError):
                error.filename = error.filename or folder  # where the disk is full
            if any(Path(work.shards).glob("*.parquet")):
                print(f"what was scanned is kept in {folder}: the same command goes on from there", file=sys.stderr)
            else:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        else:
            shutil.rmtree(folder, ignore_errors=True)


def clear_leftovers(dataset: str, folder: str) -> None:
    """Removes what a run that was killed at its very end left beside a `dataset` that is whole; not at a URL.

    Where another run is at work in `folder`, this is its business.
    """
    if is_url(dataset) or is_url(folder) or not any(path.exists() for path in (Path(folder), *beside(dataset))):
        return
    with suppress(UserError), only_writer(("the work folder", folder)):
        for leftover in (*beside(dataset), folder):
            shutil.rmtree(leftover, ignore_errors=True)


def _begin(work: Work) -> None:
    """Throws away shards of other settings."""
    path = f"{work.folder}/settings.json"
    files, inner = fsspec.url_to_fs(work.folder)
    if read_json(path).get("scan_settings") == _settings(work.storing):
        return
    shards = f"{inner}/shards"
    if files.exists(shards):
        files.rm(shards, recursive=True)
    files.makedirs(shards, exist_ok=True)
    write_json(path, {"scan_settings": _settings(work.storing)})


def _remove(folder: str) -> None:
    files, inner = fsspec.url_to_fs(folder)
    files.invalidate_cache()
    with suppress(FileNotFoundError):
        files.rm(inner, recursive=True)
