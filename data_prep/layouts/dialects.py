"""Files of rows -> cells by their meaning: CSV and TSV with any header or none, JSON, JSONL. No row is judged here."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.layouts.listfiles import (
    MAX_LINE,
    brief,
    column_roles,
    looks_like_video,
    parse_json,
    read_json,
    read_lines,
)
from data_prep.layouts.source import SPLIT_NAMES, extension, shown

EXPECTED = "columns path,label and optionally split,group,start,end"


@dataclass(slots=True)
class Row:
    where: str  # "labels.csv line 3"
    cells: dict[str, Any]  # by role; {} where the row cannot be read
    one_hot: list[str] | None = None  # cells of the columns that are classes
    problem: str = ""
    text: str = ""  # of an unreadable row


@dataclass
class Table:
    path: Path
    roles: dict[str, int]
    classes: list[str]  # of one-hot columns; else empty
    rows: list[Row]
    several: bool = False  # rows may have several labels


def read_table(path: Path, name: str) -> Table:
    if extension(path.name) == ".json":
        return _entries(path, name)
    if extension(path.name) == ".jsonl":
        rows = [_object_row(f"{name} line {number}", line) for number, line in read_lines(path)]
        return _objects(path, rows)
    return _delimited(path, name)


def _entries(path: Path, name: str) -> Table:
    content = read_json(path)
    if isinstance(content, dict) and content and all(looks_like_video(key) for key in content):
        content = [{"path": key, "label": value} for key, value in content.items()]
    if not isinstance(content, list):
        raise UserError(f"{path} holds {type(content).__name__}, expected a list of entries with {EXPECTED}.")
    return _objects(path, [_row_of(f"{name} entry {number}", entry) for number, entry in enumerate(content, start=1)])


def _object_row(where: str, line: str) -> Row:
    if len(line) > MAX_LINE:
        return Row(where, {}, problem=f"has {len(line)} characters: it is no row of a list", text=line[:99])
    try:
        return _row_of(where, parse_json(line))
    except ValueError as error:
        return Row(where, {}, problem=f"is not JSON ({error})", text=line[:99])


def _row_of(where: str, entry: Any) -> Row:
    if not isinstance(entry, dict):
        return Row(where, {}, problem=f"is {brief(entry)!r}, expected an object with path and label")
    keys = list(entry)
    return Row(where, {role: entry[keys[index]] for role, index in column_roles(keys).items()})


def _objects(path: Path, rows: list[Row]) -> Table:
    roles = {role: 0 for row in rows for role in row.cells}
    if not {"path", "label"} <= set(roles):
        raise UserError(f"{path}: no entry has both a path and a label, expected objects with {EXPECTED}.")
    values = [row.cells.get("label") for row in rows]
    several = any(isinstance(value, list) or (isinstance(value, str) and "|" in value) for value in values)
    return Table(path, roles, [], rows, several)


def _delimited(path: Path, name: str) -> Table:
    lines = list(read_lines(path))
    if not lines:
        raise UserError(f"{path} is empty, expected {EXPECTED}.")
    if len(lines[0][1]) > MAX_LINE:
        raise UserError(f"{path} line {lines[0][0]} has {len(lines[0][1])} characters, expected {EXPECTED}.")
    for separator in ",;\t":
        header = split_cells(lines[0][1], separator)
        roles = column_roles(header or [])
        if header and "path" in roles and len(header) > 1:
            _check_header(path, lines[0][0], header, roles)
            return _with_header(path, name, lines[1:], separator, header, roles)
    separator, roles = _without_header(path, [line for _, line in lines[:200]], lines[0][0])
    return _with_header(path, name, lines, separator, [], roles)


def _check_header(path: Path, number: int, header: list[str], roles: dict[str, int]) -> None:
    names = [cell.strip().lower() for cell in header]
    twice = [names[index] for index in roles.values() if names.count(names[index]) > 1]
    if twice:
        raise UserError(f"{path} line {number}: there are two columns called {twice[0]!r}.")


def split_cells(line: str, separator: str) -> list[str] | None:
    """None where the quotes of the line do not match. Each line is read on its own: a quote spoils one line."""
    if '"' not in line:
        return line.split(separator)
    try:
        return next(csv.reader([line], delimiter=separator, strict=True, skipinitialspace=True), [])
    except csv.Error:
        return None


def _with_header(
    path: Path, name: str, lines: list[tuple[int, str]], separator: str, header: list[str], roles: dict[str, int]
) -> Table:
    hot: list[int] = []
    if "label" not in roles:
        hot = _one_hot_columns([line for _, line in lines[:1000]], separator, header, set(roles.values()))
        if not hot:
            raise UserError(f"{path} line 1: got columns {shown([cell.strip()[:40] for cell in header])}, expected columns path,label (or one column of 0 and 1 for each class).")  # fmt: skip
    rows = [_delimited_row(f"{name} line {number}", line, separator, roles, hot, len(header)) for number, line in lines]
    several = bool(hot)
    if (
        "label" in roles
        and header
        and header[roles["label"]].strip().strip('"').lower() in ("label", "labels", "tags", "classes")
    ):
        several = any(_is_list_of_labels(row.cells.get("label", "")) for row in rows)
    return Table(path, roles, [header[index].strip() for index in hot], rows, several)


def _is_list_of_labels(cell: str) -> bool:
    return "|" in cell or (cell.lstrip().startswith('["') and cell.rstrip().endswith("]"))


def _delimited_row(
    where: str, line: str, separator: str, roles: dict[str, int], hot: list[int], num_columns: int
) -> Row:
    if len(line) > MAX_LINE:
        return Row(where, {}, problem=f"has {len(line)} characters: it is no row of a list", text=line[:99])
    cells = split_cells(line, separator)
    if cells is None:
        return Row(where, {}, problem=f"cannot be read: its quotes do not match: {line[:99]}", text=line[:99])
    if num_columns and len(cells) > num_columns and any(cell.strip() for cell in cells[num_columns:]):
        problem = (
            f"has {len(cells)} cells, the header has {num_columns}: put quotes around a cell that holds {separator!r}"
        )
        return Row(where, {}, problem=problem, text=line[:99])
    row = Row(where, {role: cells[index] if index < len(cells) else "" for role, index in roles.items()})
    if hot:
        row.one_hot = [cells[index] if index < len(cells) else "?" for index in hot]
    return row


def _one_hot_columns(lines: list[str], separator: str, header: list[str], taken: set[int]) -> list[int]:
    """Columns of which nearly all cells are 0 or 1; a wrong cell among them spoils its row, not the column."""
    rows = [cells for cells in (split_cells(line, separator) for line in lines) if cells]
    columns = []
    for index in range(len(header)):
        values = [row[index] for row in rows if index < len(row)]
        if index not in taken and values and sum(map(is_one_hot, values)) >= 0.8 * len(values) and any(map(str.strip, values)):  # fmt: skip
            columns.append(index)
    return columns if len(columns) > 1 else []


def _without_header(path: Path, lines: list[str], number: int) -> tuple[str, dict[str, int]]:
    """The separator, and which column is what, judged by what the cells hold. Raises `UserError` where they do not tell."""
    for separator in ",;\t":
        rows = [cells for cells in (split_cells(line, separator) for line in lines) if cells and len(cells) > 1]
        if len(rows) * 2 <= len(lines):
            continue
        columns = [[cell.strip() for cell in column] for column in zip(*rows)]
        paths = [i for i, cells in enumerate(columns) if sum(map(looks_like_video, cells)) * 2 > len(cells)]
        splits = [i for i, cells in enumerate(columns) if {cell.lower() for cell in cells if cell} <= set(SPLIT_NAMES)]
        others = [i for i in range(len(columns)) if i not in paths and i not in splits]
        if len(paths) == 1 and len(others) == 1 and len(splits) < 2:
            roles = {"path": paths[0], "label": others[0]}
            return separator, roles | ({"split": splits[0]} if splits else {})
    raise UserError(f"{path} line {number}: got {lines[0][:100]!r}, expected {EXPECTED} named in a first line (or, without one, two columns: paths that end as videos do, and labels).")  # fmt: skip


def is_one_hot(cell: str) -> bool:
    return cell.strip() in ("0", "1", "0.0", "1.0", "")
