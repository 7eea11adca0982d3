"""Checks of a dataset's rows where they arrive: the labels, and the numbers that say how a row is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from datasets import Dataset

from data_prep.errors import UserError, printable

# Column -> its least value. `num_frames` is needed; the others may be absent or null.
_LEAST = {"num_frames": 1, "first_frame": 0, "fps": 0, "duration": 0, "start": 0, "end": 0}
_LABEL_COLUMNS = ("label", "labels")
_BATCH_ROWS = 10_000  # read at a time
_NO_LABEL = -1  # the id of `datasets.ClassLabel` for a label that is not told

Row = Mapping[str, Any]


def check_rows(rows: Dataset, name: str, split: str) -> None:
    """Raise `UserError` for the first row whose numbers cannot be, or whose label is no label's number.

    Rows without a label are left to `check_labels`.
    """
    num_labels = num_labels_of(rows.features)
    _refuse(rows, wrong_number, tuple(_LEAST), name, split, "Run data_prep again, or leave such rows out")
    remedy = _leave_out(rows.features, num_labels)
    _refuse(rows, lambda row: _wrong_label(row, num_labels), _LABEL_COLUMNS, name, split, remedy)


def check_labels(rows: Dataset, name: str, split: str) -> None:
    """Raise `UserError` where rows have no label (None or -1): how many, the first, and what to do."""
    remedy = f"Label them, or leave them out: {_leave_out(rows.features, num_labels_of(rows.features))}"
    _refuse(rows, _missing_label, _LABEL_COLUMNS, name, split, remedy)


def has_labels(rows: Dataset) -> bool:
    """Return False where no row has a label, as in the test split of a challenge."""
    return any(_missing_label(row) is None and row.get("labels") != [] for row in _cells(rows, _LABEL_COLUMNS))


def check_row(row: Row, num_labels: int) -> None:
    """Raise `UserError` for a streamed row that cannot be read as it says, or has no usable label."""
    problem = wrong_number(row) or _wrong_label(row, num_labels) or _missing_label(row)
    if problem:
        raise UserError(printable(f"--streaming: video {row['video_id']!r}: {problem}. Write the Parquet files anew, without such rows."))  # fmt: skip


def check_streamed_labels(labels: Iterable[Any], num_labels: int) -> list[int]:
    """The labels of all rows of a stream. Raises `UserError` where one is missing or no label's number."""
    checked = []
    for number, label in enumerate(labels):
        problem = _wrong_label({"label": label}, num_labels) or _missing_label({"label": label})
        if problem:
            raise UserError(f"--streaming: row {number}: {problem}. Write the Parquet files anew, without such rows.")
        checked.append(int(label))
    return checked


def num_labels_of(features: Mapping[str, Any]) -> int:
    """The number of classes of the column `label` or `labels`."""
    return len((features["labels"].feature if "labels" in features else features["label"]).names)


def wrong_number(row: Row) -> str | None:
    """The problem with the numbers of a row, or None."""
    for column, least in _LEAST.items():
        value = row.get(column)
        if value is None and column != "num_frames":
            continue
        if not isinstance(value, (int, float)) or not math.isfinite(value) or value < least:
            return f"its {column} is {value}, expected {'a finite number of ' if isinstance(value, float) else ''}at least {least}"
    start, end = row.get("start"), row.get("end")
    if start is not None and end is not None and end < start:
        return f"its end {end:g} s is before its start {start:g} s"
    return None


def _numbers(row: Row) -> Sequence[Any]:
    """The label ids of a row, None and -1 among them."""
    if "labels" in row:
        return [None] if row["labels"] is None else row["labels"]
    return [row["label"]]


def _wrong_label(row: Row, num_labels: int) -> str | None:
    for number in _numbers(row):
        if number not in (None, _NO_LABEL) and not 0 <= number < num_labels:
            return f"its label is {number}, expected 0 to {num_labels - 1}"
    return None


def _missing_label(row: Row) -> str | None:
    return "it has no label (None or -1)" if any(number in (None, _NO_LABEL) for number in _numbers(row)) else None


def _leave_out(features: Mapping[str, Any], num_labels: int) -> str:
    """Code that leaves out rows without a usable label."""
    if "labels" in features:
        return f'dataset[split] = dataset[split].filter(lambda labels: labels is not None and all(n in range({num_labels}) for n in labels), input_columns="labels"), then dataset.save_to_disk'
    return f'dataset[split] = dataset[split].filter(lambda label: label in range({num_labels}), input_columns="label"), then dataset.save_to_disk'


def _cells(rows: Dataset, columns: tuple[str, ...]) -> Iterator[Row]:
    """Yield those of the columns that there are, row by row; no video is touched."""
    wanted = [column for column in columns if column in rows.column_names]
    for batch in rows.select_columns(wanted).with_format("arrow").iter(_BATCH_ROWS):
        yield from batch.to_pylist()


def _refuse(
    rows: Dataset, find: Callable[[Row], str | None], columns: tuple[str, ...], name: str, split: str, remedy: str
) -> None:
    """Raise `UserError` if `find` has a problem with the columns of some row."""
    bad = [(number, problem) for number, row in enumerate(_cells(rows, columns)) if (problem := find(row)) is not None]
    if bad:
        number, problem = bad[0]
        video_id = rows.select_columns("video_id")[number]["video_id"]
        raise UserError(printable(f"{name}, split {split}: {len(bad)} of {len(rows)} videos cannot be used; the first, {video_id!r}: {problem}. {remedy}."))  # fmt: skip
