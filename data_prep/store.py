"""Scanned videos -> the dataset: a `DatasetDict` on disk, or Parquet files at any fsspec URL."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pyarrow as pa
from datasets import DatasetInfo, Features

from data_prep.checksums import are_checksums
from data_prep.errors import UserError
from data_prep.format_version import check_format
from data_prep.limits import is_plain_name
from data_prep.parquet import Place, Rows, parquet_file
from data_prep.scan import Scanned
from data_prep.schema import FRAME_TIMES, PACKET_INDEX, SPLITS, STORE_COLUMN, Store

SUMMARY = "summary.json"
REJECTED = "rejected.csv"
SCANNED = "scan.parquet"
PAGE = "report.html"
PICTURES = "report"

FILE_BYTES = 500 << 20  # of one data file, as `datasets` makes them
# What lies in a dataset, beside the report.
DATA_PARTS = (*SPLITS, "dataset_dict.json", "data", REJECTED, SCANNED)


def is_url(directory: str) -> bool:
    """Whether this is no local path but an fsspec URL as s3://bucket/name."""
    return "://" in directory


@dataclass(frozen=True, slots=True)
class Row:
    """A video of the dataset: where what its scan kept lies, and the cells beside that."""

    place: Place
    cells: dict[str, Any]
    num_bytes: int


def make_row(scanned: Scanned, path: Path, cells: dict[str, Any], place: Place | None) -> Row:
    """`cells` holds label or labels, group, and what else the layout gives."""
    info = scanned.stored
    if info is None or place is None:
        raise ValueError(f"{scanned.video_id} was refused, so it has no row")
    measured = {name: getattr(info, name) for name in ("num_frames", "fps", "duration", "height", "width")}
    cells = {"video_id": scanned.video_id, "path": str(path), **cells, **measured}
    return Row(place, cells, scanned.stored_bytes)


def write_dataset(
    directory: Path, features: Features, store: Store, rows_of_split: dict[str, list[Row]]
) -> dict[str, list[tuple[str, int]]]:
    """A directory that `datasets.load_from_disk` opens. Returns where the rows went: by split, (file, row number).

    The files are written here and not by `save_to_disk`, which would copy the bytes behind every `Video` cell into
    the dataset and write stored pictures twice; the format is that of datasets 5.2 (arrow_dataset.py, save_to_disk).
    """
    for split, rows in rows_of_split.items():
        folder = directory / split
        folder.mkdir(parents=True)
        names = []
        for number, part in enumerate(parts_of(rows)):
            names.append(f"data-{number:05d}.arrow")
            _write_arrow(folder / names[-1], features, full_rows(part, store))
        state = dict.fromkeys(("_format_columns", "_format_type")) | {
            "_data_files": [{"filename": name} for name in names],
            "_fingerprint": f"data_prep-{split}",
            "_format_kwargs": {},
            "_output_all_columns": False,
            "_split": split,
        }
        write_json(folder / "state.json", state)
        DatasetInfo(features=features).write_to_directory(str(folder), pretty_print=True)
    write_json(directory / "dataset_dict.json", {"splits": list(rows_of_split)})
    return {split: [(split, row) for row in range(len(rows))] for split, rows in rows_of_split.items()}


def write_parquet(
    directory: str,
    features: Features,
    store: Store,
    rows_of_split: dict[str, list[Row]],
    run: Callable[[list[tuple[Any, ...]]], None],
) -> dict[str, list[tuple[str, int]]]:
    """Parquet files `data/<split>-*.parquet` at a fsspec URL, one call of `write_parquet_file` each, done by `run`."""
    files, path = fsspec.url_to_fs(f"{directory}/data")
    if files.exists(path):  # of the dataset that is replaced
        files.rm(path, recursive=True)
    calls = []
    where: dict[str, list[tuple[str, int]]] = {}
    for split, rows in rows_of_split.items():
        parts = list(parts_of(rows))
        where[split] = []
        for number, part in enumerate(parts):
            name = f"data/{split}-{number:05d}-of-{len(parts):05d}.parquet"
            calls.append((f"{directory}/{name}", features, store, part))
            where[split] += [(name, row) for row in range(len(part))]
    run(calls)
    return where


def write_parquet_file(path: str, features: Features, store: Store, rows: list[Row]) -> None:
    """One data file, whole or not at all."""
    with parquet_file(path, features.arrow_schema) as write:
        for row, cells in zip(rows, full_rows(rows, store)):
            write(features.encode_example(cells), row.num_bytes)


def parts_of(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows of one data file after the other."""
    part: list[Row] = []
    num_bytes = 0
    for row in rows:
        if part and num_bytes + row.num_bytes > FILE_BYTES:
            yield part
            part, num_bytes = [], 0
        part.append(row)
        num_bytes += row.num_bytes
    yield part


def full_rows(rows: Iterable[Row], store: Store) -> Iterator[dict[str, Any]]:
    """Each row's cells with its pictures."""
    column = STORE_COLUMN[store]
    beside = [FRAME_TIMES] if store == "frames" else [FRAME_TIMES, PACKET_INDEX]
    pictures = Rows([column, *beside])
    try:
        for row in rows:
            cells = dict(row.cells)
            path = cells.pop("path")
            kept = pictures.read(row.place)
            read = kept[column]
            cells |= {name: kept[name] for name in beside}
            if store == "frames":
                cells[column] = read
            else:
                data = read["bytes"] if isinstance(read, dict) else read
                # Beside bytes only a name: the path of a machine is nobody's business, and would win over the bytes.
                name = path if data is None else f"{Path(path).stem}.mp4" if store == "clips" else Path(path).name
                cells[column] = {"bytes": data, "path": name}
            yield cells
    finally:
        pictures.close()


def _write_arrow(path: Path, features: Features, rows: Iterator[dict[str, Any]]) -> None:
    schema = features.arrow_schema
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
        batch: list[dict[str, Any]] = []
        for cells in rows:
            batch.append(features.encode_example(cells))
            # One row of pictures at a time: a batch of them would soon pass Arrow's 2 GiB.
            if len(batch) == 1000 or "frames" in cells or cells["video"]["bytes"] is not None:
                stream.write_table(pa.Table.from_pylist(batch, schema=schema))
                batch.clear()
        if batch:
            stream.write_table(pa.Table.from_pylist(batch, schema=schema))


def write_json(path: str | Path, value: Any) -> None:
    """Writes a value to a path or URL; texts that are not UTF-8 with backslashes."""
    with fsspec.open(str(path), "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str) -> dict[str, Any]:
    """The object in a file at a path or URL; empty where there is none."""
    try:
        with fsspec.open(path, "r", encoding="utf-8") as file:
            value = json.load(file)
    except (OSError, ValueError, ImportError):
        return {}
    return value if isinstance(value, dict) else {}


def read_summary(dataset: str) -> dict[str, Any]:
    """What a dataset's `summary.json` says; empty where there is none, or one of another form."""
    summary = read_json(f"{dataset}/{SUMMARY}")
    return summary if are_checksums(summary.get("checksums")) else {}


@contextmanager
def whole_directory(directory: Path) -> Iterator[Path]:
    """A folder to fill; it becomes `directory` when the block ends well, and vanishes when it does not."""
    directory = directory.resolve()
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        filled = staging / "new"
        filled.mkdir()
        yield filled
        os.rename(filled, directory)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check_inside(directory: Path) -> None:
    """Raise `UserError` if the JSON files of a dataset name splits or data files that are not in its folder.

    `datasets` joins these names to the folder as they are, so "../x" and "/x" would read files from elsewhere.
    """
    splits = read_json(str(directory / "dataset_dict.json")).get("splits")
    named = [(directory / "dataset_dict.json", name) for name in splits or ()]
    for state in directory.glob("*/state.json"):
        files = read_json(str(state)).get("_data_files")
        named += [(state, file["filename"]) for file in files or () if isinstance(file, dict) and "filename" in file]
    for path, name in named:
        if not is_plain_name(name):
            raise UserError(
                f"{path} names data outside its folder ({name!r}), which is not read: prepare the dataset again."
            )


def open_dataset(directory: Path) -> datasets.DatasetDict:
    """A dataset that data_prep wrote. Raises `UserError` where it does not open."""
    _check_inside(directory)
    check_format(str(directory), read_json(str(directory / SUMMARY)))
    try:
        return datasets.load_from_disk(str(directory))
    except (OSError, ValueError) as error:
        raise UserError(f"{directory} does not open as a dataset ({error}): prepare it again.") from error


def earlier_splits(directory: Path) -> dict[str, str]:
    """{video_id: split} of an earlier dataset."""
    if not (directory / "dataset_dict.json").is_file():
        raise UserError(f"--keep_splits {directory}: expected a dataset that data_prep wrote.")
    return {
        video_id: split
        for split, rows in open_dataset(directory).items()
        for video_id in rows.select_columns("video_id")["video_id"]
    }
