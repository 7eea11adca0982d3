"""Publishes a dataset on the Hub: Parquet files with the videos in them, and a card that says what is there."""

from __future__ import annotations

import glob
import itertools
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_prep.apart import LIMIT_MINUTES, Upload, check_nothing_private, telling_how_to_go_on, upload_apart
from data_prep.dataset_card import render_card
from data_prep.errors import UserError
from data_prep.parquet import parquet_file
from data_prep.store import FILE_BYTES, open_dataset

_BYTES_A_MINUTE = 60e6  # 1 MB/s, at the least


def publish(
    directory: Path, repo_id: str, private: bool, summary: dict[str, Any], limit_minutes: float | None, again: str
) -> None:
    """Uploads the dataset that data_prep wrote in `directory`. Raises `UserError`; what is on disk stays.

    The caller holds the dataset's lock (data_prep/lock.py). All that is sent lies beside it first, so that what is on the Hub can be compared with it afterwards.
    """
    place = directory.resolve()
    prefix = f".{place.name}.push."
    for leftover in place.parent.glob(f"{glob.escape(prefix)}*"):  # of a push that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    with (
        telling_how_to_go_on(directory, repo_id, again),
        tempfile.TemporaryDirectory(prefix=prefix, dir=place.parent) as folder,
    ):
        names = write_repository(Path(folder), directory, repo_id, summary)
        check_nothing_private(Path(folder), names)
        num_bytes = sum(Path(folder, name).stat().st_size for name in names)
        limit = LIMIT_MINUTES + num_bytes / _BYTES_A_MINUTE if limit_minutes is None else limit_minutes
        upload = Upload(Path(folder), names, repo_id, "dataset", private, outdated=["data/*.parquet"])
        upload_apart(upload, directory, limit, again)
    print(f"published {directory} as {repo_id}{' (private)' if private else ''}")


def write_repository(folder: Path, directory: Path, repo_id: str, summary: dict[str, Any]) -> list[str]:
    """Writes the files of the repository, and returns their names. The same dataset gives the same bytes."""
    dataset = open_dataset(directory)
    if "train" in dataset:  # who streams it mixes only neighbours, which are of one class on disk
        dataset["train"] = dataset["train"].shuffle(seed=0, keep_in_memory=True)
    names = ["README.md"]
    for split, rows in dataset.items():
        for number, part in itertools.groupby(_whole_rows(rows), key=lambda one: one[0]):
            names.append(f"data/{split}-{number:05d}.parquet")
            with parquet_file(str(folder / names[-1]), rows.features.arrow_schema) as write:
                for _, row, num_bytes in part:
                    write(rows.features.encode_example(row), num_bytes)
    features = next(iter(dataset.values())).features
    (folder / "README.md").write_text(render_card(repo_id, summary, features, list(dataset)), encoding="utf-8")
    return names


def _whole_rows(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any], int]]:
    """(number of its file, row with its pictures, bytes of these). A file of the machine is named by its last part only;
    `video_id` tells it from others.
    """
    number = filled = 0
    for row in rows:
        video = row.get("video")
        if video is not None:
            row["video"] = video = {"bytes": _bytes_of(video), "path": Path(video["path"]).name}
        num_bytes = len(video["bytes"]) if video is not None else sum(map(len, row["frames"]))
        if filled and filled + num_bytes > FILE_BYTES:
            number, filled = number + 1, 0
        filled += num_bytes
        yield number, row, num_bytes


def _bytes_of(video: dict[str, Any]) -> bytes:
    if video["bytes"] is not None:
        return bytes(video["bytes"])
    try:
        return Path(video["path"]).read_bytes()
    except OSError as error:
        raise UserError(f"--push_to_hub: {video['path']} cannot be read any more ({error.strerror}). Prepare the dataset again.") from error  # fmt: skip
