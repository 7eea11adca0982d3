"""Scanned videos -> a `DatasetDict` on disk, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, DatasetInfo, Features, Value
from datasets.exceptions import DatasetGenerationError

from data_prep.errors import UserError
from data_prep.layouts import Found
from data_prep.scan import Scanned
from data_prep.schema import SPLITS, STORE_COLUMN, Store, dataset_features
from data_prep.split import group_of
from data_prep.video import VideoInfo

SUMMARY = "summary.json"
REJECTED = "rejected.csv"


def check_output(directory: Path, source: Path, overwrite: bool) -> None:
    """Raises `UserError` where writing `directory` would destroy something that is not a dataset of ours."""
    directory, source = directory.resolve(), source.resolve()
    if "::" in str(directory) or "://" in str(directory) or not _is_utf8(str(directory)):
        raise UserError(f"DATASET {directory}: a name with '::' or '://', or that is not UTF-8, cannot be written.")
    if directory == source or directory in source.parents or source in directory.parents:
        raise UserError(f"DATASET {directory} and VIDEOS {source} lie in one another: write DATASET somewhere else.")
    if not os.path.lexists(directory):
        return
    if directory.is_dir() and not any(directory.iterdir()):
        return
    if not _is_ours(directory):
        raise UserError(f"{directory} exists and was not written by data_prep: choose another directory.")
    if not overwrite:
        raise UserError(f"{directory} exists: choose another directory, or pass --overwrite.")


def check_no_videos_inside(directory: Path, found: Found) -> None:
    """Raises `UserError` where a video that is to be read lies in `directory`, also through a link."""
    directory = directory.resolve()
    for video in found.videos:
        if directory in video.path.resolve().parents:
            raise UserError(f"video {video.video_id} lies in DATASET {directory}: write DATASET somewhere else.")


def _is_ours(directory: Path) -> bool:
    """Whether `data_prep` wrote all that lies in `directory`."""
    ours = {*SPLITS, "dataset_dict.json", SUMMARY, REJECTED}
    names = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    return {"dataset_dict.json", SUMMARY, REJECTED} <= names <= ours


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def whole_directory(directory: Path) -> Iterator[Path]:
    """A folder to fill; it becomes `directory` when the block ends well, and vanishes when it does not."""
    directory = directory.resolve()
    directory.parent.mkdir(parents=True, exist_ok=True)
    existed = directory.exists()
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        filled = staging / "new"
        filled.mkdir()
        yield filled
        if existed:
            os.rename(directory, staging / "old")
        elif directory.exists() and any(directory.iterdir()):
            raise UserError(f"{directory} appeared while it was being written: choose another directory.")
        try:
            os.rename(filled, directory)
        except BaseException:
            if existed:
                os.rename(staging / "old", directory)
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


class NothingUsable(Exception):
    """Every video was rejected."""


def stage_rows(scanned: Callable[[], Iterator[Scanned]], labels: list[str], store: Store, folder: Path) -> Dataset:
    """Every usable video as one row, in order; with frames, in an Arrow file under `folder`."""
    features = _by_path(dataset_features(labels, store))

    def rows() -> Iterator[dict[str, Any]]:
        num_rows = 0
        for result in scanned():
            if result.info is not None:
                num_rows += 1
                yield _row(result, result.info, store)
        if num_rows == 0:
            raise NothingUsable

    # The fingerprint is given because the generator holds worker processes, which cannot be hashed.
    # One row of frames at a time: a batch of them would soon pass Arrow's 2 GiB.
    try:
        return Dataset.from_generator(
            rows,
            features=features,
            cache_dir=str(folder),
            fingerprint="staged",
            writer_batch_size=1 if store == "frames" else 1000,
            split="train",
        )
    except DatasetGenerationError as error:
        raise error.__cause__ or error from None


def _row(result: Scanned, info: VideoInfo, store: Store) -> dict[str, Any]:
    video = result.video
    pictures: Any = list(result.jpegs) if store == "frames" else {"path": str(video.path.resolve()), "bytes": None}
    return {
        "video_id": video.video_id,
        "label": video.label,
        "group": group_of(video),
        STORE_COLUMN[store]: pictures,
        "num_frames": info.num_frames,
        "fps": info.fps,
        "duration": info.duration,
        "height": info.height,
        "width": info.width,
    }


def _by_path(features: Features) -> Features:
    """`features` with a video stored as the plain (bytes, path) pair that it is."""
    plain = features.copy()
    if "video" in plain:
        plain["video"] = {"bytes": Value("binary"), "path": Value("string")}
    return plain


def write_splits(rows: Dataset, split_of_row: list[str], labels: list[str], store: Store, directory: Path) -> None:
    """Saves `rows` as a `DatasetDict` in `directory`. `labels` are the classes that still have videos."""
    if rows.features["label"].names != labels:
        rows = _relabelled(rows, labels)
    splits = {}
    for split in SPLITS:
        indices = [i for i, name in enumerate(split_of_row) if name == split]
        if indices:
            splits[split] = rows.select(indices)
    DatasetDict(splits).save_to_disk(str(directory))
    # save_to_disk copies the file behind every `Video` cell into the dataset, a thousand at a time in memory. So the
    # cells are saved as plain pairs, which have the same Arrow type, and named `Video` afterwards.
    for split in splits:
        info = DatasetInfo.from_directory(str(directory / split))
        info.features = dataset_features(labels, store)
        info.write_to_directory(str(directory / split), pretty_print=True)


def _relabelled(rows: Dataset, labels: list[str]) -> Dataset:
    names = rows.features["label"].names
    features = rows.features.copy()
    features["label"] = ClassLabel(names=labels)
    return rows.map(
        lambda batch: {"label": [labels.index(names[label]) for label in batch["label"]]},
        batched=True,
        batch_size=16,
        features=features,
    )


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", errors="backslashreplace")
