"""What a user points at, for a prediction: files, folders, globs, lists, and a list on standard input."""

from __future__ import annotations

import glob
import io
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.errors import UserError
from data_prep.layouts.dialects import split_cells
from data_prep.layouts.listfiles import column_roles, read_lines
from data_prep.layouts.source import extension, numbered_images, walk
from data_prep.video import EXTENSIONS

_LISTS = (".csv", ".tsv", ".txt")
_FEWEST_IMAGES = 2  # that make a folder a video


@dataclass(frozen=True)
class Input:
    """A file, or a folder of numbered images, and its label where a list gave one."""

    path: str
    label: str | None = None


def find_inputs(texts: Iterable[str]) -> list[Input]:
    """In their order, each path once. What is missing or cannot be read stays, for its error row. Raises `UserError`
    where nothing is meant, and where a path comes twice with two labels.

    A folder stands for the videos under it, sorted, and for the folders of numbered images that are videos; links are
    followed. A glob, for what it matches, of a folder likewise. A list (.csv, .tsv, .txt: path and optionally label, with
    a header or without), for its paths, which start at the list's folder. `-`, for the paths on standard input, one a line.
    """
    found: dict[str, Input] = {}
    for text in texts:
        for one in _meant_by(text):
            before = found.get(one.path)
            if before is None or before.label is None:
                found[one.path] = one
            elif one.label not in (None, before.label):
                raise UserError(f"{one.path} has two labels, {before.label!r} and {one.label!r}: leave one out.")
    return list(found.values())


def _meant_by(text: str) -> Iterable[Input]:
    if not text:  # which a shell makes of a variable that is not set, and Python of a Path the folder it is in
        raise UserError("an INPUT is empty, expected a file, a folder, a glob or a list.")
    path = Path(text)
    if text == "-":
        if isinstance(sys.stdin, io.TextIOWrapper):  # names of files are bytes, which need not be UTF-8
            sys.stdin.reconfigure(errors="surrogateescape")
        found = [Input(line.rstrip("\r\n")) for line in sys.stdin if line.strip()]
        return _some(found, "standard input holds no paths, expected one a line.")
    if path.is_dir():
        shown = " ".join(sorted(EXTENSIONS))
        return _some(list(_in_folder(path)), f"{text} holds no videos (extensions {shown}).")
    if not path.exists() and glob.has_magic(text):
        matches = sorted(glob.glob(text, recursive=True))
        found = [
            one for match in matches for one in (_in_folder(Path(match)) if os.path.isdir(match) else [Input(match)])
        ]
        return _some(found, f"{text} matches no file.")
    if path.suffix.lower() in _LISTS and path.is_file():
        return _some(list(_in_list(path)), f"{text} names no video.")
    return [Input(text)]


def _some(found: list[Input], otherwise: str) -> list[Input]:
    if not found:
        raise UserError(otherwise)
    return found


def _in_folder(folder: Path) -> Iterator[Input]:
    """Also what is named like a video and is a folder without any, and folders that cannot be listed: for error rows."""
    tree = walk(folder)
    names = sorted([*tree.videos, *tree.frame_folders, *(name.rstrip("/") for name, _ in tree.rejected)])
    yield from (Input(os.path.join(folder, name)) for name in names)
    if not names and (extension(folder.name) in EXTENSIONS or len(numbered_images(str(folder))) >= _FEWEST_IMAGES):
        yield Input(str(folder))


def _in_list(path: Path) -> Iterator[Input]:
    roles = {"path": 0, "label": 1}
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    for at, (number, line) in enumerate(read_lines(path)):
        cells = split_cells(line, separator)
        if cells is None:
            raise UserError(f"{path} line {number}: its quotes do not match, expected path or path{separator}label.")
        header = column_roles(cells) if at == 0 else {}
        if "path" in header:
            roles = header
            continue
        name = _cell(cells, roles["path"])
        if not name:
            raise UserError(f"{path} line {number}: path is empty. Give a path, or delete the line.")
        yield Input(os.path.join(path.parent, name), _cell(cells, roles.get("label")) or None)


def _cell(cells: list[str], at: int | None) -> str:
    return cells[at].strip() if at is not None and at < len(cells) else ""
