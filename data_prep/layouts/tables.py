"""Tables of videos: CSV and TSV in every dialect, JSON and JSONL, with splits, groups, spans, one label or several."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.labeled import Found, LabeledVideo, Span
from data_prep.layouts.dialects import Row, Table, is_one_hot, read_table
from data_prep.layouts.listfiles import (
    COLUMNS,
    brief,
    parse_json,
    split_of_name,
)
from data_prep.layouts.rows import Places, Refused, Rows
from data_prep.layouts.source import SPLIT_NAMES, Source, shown

_ROLES = tuple(COLUMNS)


def read_tables(source: Source, paths: list[Path], layout: str = "table") -> Found:
    """Reads the lists as one: several are the splits of one set, as train.csv and val.csv are."""
    rows = Rows(source.root)
    tables = [read_table(path, source.name(path)) for path in paths]
    several = any(table.several for table in tables)
    by_folder = layout == "videofolder"
    for table in tables:
        places = Places(source, table.path)
        split = split_of_name(table.path) if "split" not in table.roles else None
        for row in table.rows:
            try:
                _add(rows, row, table, several, places, split, by_folder)
            except Refused as refused:
                rows.refuse(row.where, row.text or str(row.cells.get("path") or ""), str(refused))
    found = rows.finish(layout)
    found.multi_label = several
    for table in tables:
        if table.classes:
            found.notes.append(f"{table.path.name}: columns of 0 and 1 are the classes: {shown(table.classes)}")
    _check_splits(found.videos, source)
    return found


def _split_of_folder(path: str) -> str | None:
    """_split_of_folder("data/train/1.mp4") == "train" """
    return next((SPLIT_NAMES[part.lower()] for part in path.split("/")[:-1] if part.lower() in SPLIT_NAMES), None)


def _add(rows: Rows, row: Row, table: Table, several: bool, places: Places, split: str | None, by_folder: bool) -> None:
    if row.problem:
        raise Refused(row.problem)
    cells = {role: _text(row.cells.get(role), role) for role in _ROLES if role != "label"}
    file = places.find(cells["path"])
    labels = _labels(row, table, several)
    if by_folder and split is None:
        split = _split_of_folder(file[1])
    if cells["split"]:
        split = SPLIT_NAMES.get(cells["split"].lower())
        if split is None:
            raise Refused(f"split is {cells['split'][:99]!r}, expected one of {', '.join(SPLIT_NAMES)}")
    span = _span(cells["start"], cells["end"])
    group = cells["group"] or (file[1] if "start" in table.roles and "end" in table.roles else None)
    rows.add(row.where, file, labels, split, group, span)


def _text(value: Any, role: str) -> str:
    if value is None:
        return ""
    if isinstance(value, (list, dict)):
        raise Refused(f"{role} is {brief(value)!r}, expected text")
    return str(value).strip()


def _labels(row: Row, table: Table, several: bool) -> tuple[str, ...]:
    """Sorted where there may be several. Outer spaces stay where there is one: their removal is told in a note."""
    if row.one_hot is not None:
        return _one_hot_labels(row.one_hot, table.classes)
    value = row.cells.get("label")
    if isinstance(value, list):
        return tuple(sorted({_one_label(item) for item in value}))
    if not several:
        return (_one_label(value),)
    text = _text(value, "label")
    if text.startswith("["):
        try:
            return tuple(sorted({_one_label(item) for item in parse_json(text)}))
        except (ValueError, TypeError) as error:
            raise Refused(f"label is {text[:99]!r}, which is not a JSON list") from error
    labels = {part.strip() for part in text.split("|")} - {""}
    if not labels:
        raise Refused("label is empty. Give a label, or delete the line.")
    return tuple(sorted(labels))


def _one_label(value: Any) -> str:
    if isinstance(value, (list, dict, bool)):
        raise Refused(f"label is {brief(value)!r}, expected text or a number")
    text = "" if value is None else str(value)
    if not text.strip():
        raise Refused("label is empty. Give a label, or delete the line.")
    return text


def _one_hot_labels(cells: list[str], classes: list[str]) -> tuple[str, ...]:
    wrong = [f"{name}={cell[:20]!r}" for name, cell in zip(classes, cells) if not is_one_hot(cell)]
    if wrong:
        raise Refused(f"{shown(wrong)}: expected 0 or 1")
    return tuple(sorted(name for name, cell in zip(classes, cells) if cell.strip() in ("1", "1.0")))


def _span(start: str, end: str) -> Span | None:
    if not start and not end:
        return None
    try:
        first, last = float(start), float(end)
    except ValueError:
        raise Refused(f"start,end are {start[:40]!r},{end[:40]!r}, expected two numbers (seconds)") from None
    if not (0 <= first < last and math.isfinite(last)):
        raise Refused(f"start,end are {start[:40]},{end[:40]}, expected 0 <= start < end (seconds)")
    return Span(first, last)


def _check_splits(videos: list[LabeledVideo], source: Source) -> None:
    without = [video for video in videos if video.split is None]
    if without and len(without) < len(videos):
        raise UserError(
            f"{source.path}: {len(without)} of {len(videos)} rows have no split, the first {without[0].video_id!r}. "
            "Give every row a split, or none."
        )
