"""Where the dataset goes: what may be replaced there, and how a filled folder takes its place in one moment."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

from data_prep.errors import UserError
from data_prep.labeled import Found
from data_prep.staying import Staying
from data_prep.store import DATA_PARTS, PAGE, PICTURES, REJECTED, SUMMARY, is_url


def check_output(dataset: str, source: Path, overwrite: bool) -> None:
    """Raises `UserError` where writing `dataset` would destroy something that is not a dataset of ours."""
    if is_url(dataset):
        _check_url(dataset, overwrite)
        return
    directory, source = Path(dataset).resolve(), source.resolve()
    if "::" in str(directory) or "://" in str(directory) or not _is_utf8(str(directory)):
        raise UserError(f"DATASET {directory}: a name with '::' or '://', or that is not UTF-8, cannot be written.")
    if directory == source or directory in source.parents or source in directory.parents:
        raise UserError(f"DATASET {directory} and VIDEOS {source} lie in one another: write DATASET somewhere else.")
    if not os.path.lexists(directory):
        return
    if directory.is_dir() and not any(directory.iterdir()):
        return
    if not is_ours(directory):
        raise UserError(f"{directory} exists and was not written by data_prep: choose another directory.")
    if not overwrite:
        raise UserError(f"{directory} exists: choose another directory, or pass --overwrite.")


def _check_url(url: str, overwrite: bool) -> None:
    try:
        files, path = fsspec.url_to_fs(url)
        files.invalidate_cache()
        exists = files.exists(f"{path}/{SUMMARY}")
        others = (
            not exists and files.exists(path) and any(not name.endswith("/_work") for name in files.ls(path, False))
        )
    except (ImportError, ValueError) as error:  # no such protocol, or its package is not installed
        raise UserError(f"DATASET {url}: {error}.") from error
    if others:
        raise UserError(f"{url} holds other files: choose another place.")
    if exists and not overwrite:
        raise UserError(f"{url} exists: choose another place, or pass --overwrite.")


def check_no_videos_inside(dataset: str, found: Found) -> None:
    """Raises `UserError` where a video that is to be read lies in `dataset`, also through a link."""
    if is_url(dataset):
        return
    inside = os.path.join(os.path.realpath(dataset), "")
    for video in found.videos:
        if os.path.realpath(video.path).startswith(inside):
            raise UserError(f"video {video.video_id} lies in DATASET {dataset}: write DATASET somewhere else.")


def is_ours(directory: Path) -> bool:
    """Whether `data_prep` wrote all that lies in `directory`."""
    ours = {*DATA_PARTS, SUMMARY, PAGE, PICTURES}
    names = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    return {"dataset_dict.json", SUMMARY, REJECTED} <= names <= ours


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def place_for(dataset: str) -> Iterator[str]:
    """A folder to fill, which becomes `dataset` when the block ends well, and vanishes when it does not.

    It takes the place of what `check_output` let pass. An object store has no such moment: there the files go to their
    place one by one, and `summary.json`, written last, says that all are there.
    """
    if is_url(dataset):
        yield dataset
        return
    directory = Path(dataset).resolve()
    directory.parent.mkdir(parents=True, exist_ok=True)
    filled, aside = beside(dataset)
    for leftover in (filled, aside):  # of a run that was killed
        _remove(leftover)
    filled.mkdir()
    try:
        with Staying(f"{dataset}: the folder that becomes it,", filled).through():
            yield str(filled)
        existed = directory.exists()
        if existed and any(directory.iterdir()) and not is_ours(directory):
            raise UserError(f"{directory} appeared while it was being written: choose another directory.")
        if existed:
            os.rename(directory, aside)
        try:
            os.rename(filled, directory)
        finally:
            restore(dataset)
        _remove(aside)
    except OSError as error:
        error.filename = error.filename or dataset  # Arrow does not say where the disk is full
        raise
    finally:
        _remove(filled)


def beside(dataset: str) -> tuple[Path, Path]:
    """Where a local dataset is filled, and where the one it replaces goes until the new one is in its place."""
    directory = Path(dataset).resolve()
    filled, aside = (directory.with_name(f".{directory.name}.{word}") for word in ("new", "old"))
    return filled, aside


def restore(dataset: str) -> None:
    """Puts the old dataset back where a run ended after it was moved aside and before the new one was there."""
    if not is_url(dataset) and not os.path.lexists(dataset) and (aside := beside(dataset)[1]).is_dir():
        os.rename(aside, Path(dataset).resolve())


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
