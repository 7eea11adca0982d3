"""Files that are whole or not there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from data_prep.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A file for text that takes the place of `path` when it is written. Line ends are as written, as CSV wants them."""
    with _draft_of(path) as draft, draft.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        yield file


@contextmanager
def _draft_of(path: Path) -> Iterator[Path]:
    """A name beside `path`; what is there in the end takes its place, unless something went wrong."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


# A spreadsheet runs a cell that begins so; "-1" and "+0.5" it takes for what they are.
_FORMULA = r"[=+\-@\t\r](?![\d.]*$)"


def csv_cell(text: str) -> str:
    """A name that somebody else chose, as a cell which no spreadsheet runs: after a `'` where it would be a formula.

    csv_cell("=1+1") == "'=1+1", and `from_csv_cell` takes that back.
    """
    return f"'{text}" if re.match(f"'*{_FORMULA}", text) else text


def from_csv_cell(cell: str) -> str:
    return cell[1:] if re.match(f"'+{_FORMULA}", cell) else cell


def write_json(path: Path, value: Any) -> None:
    with replacing(path) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_bytes(path: Path, data: bytes) -> None:
    with _draft_of(path) as draft:
        draft.write_bytes(data)


def check_writable(path: Path, flag: str) -> None:
    """Before the work: raises `UserError` where a file cannot be written."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UserError(f"{flag} {path}: {'is a directory' if path.is_dir() else 'its directory does not exist'}.")


def check_spares(path: Path | None, flag: str, inputs: Iterable[str]) -> None:
    """Raises `UserError` where what is to be written would take the place of one of the files that are read."""
    if path is None or not path.exists():
        return
    for name in inputs:
        with suppress(OSError, ValueError):  # one that is not there, or no name
            if path.samefile(name):
                raise UserError(f"{flag} {path} is what is read: choose another file.")
