"""Files that are whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
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


def write_json(path: Path, value: Any) -> None:
    with replacing(path) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_bytes(path: Path, data: bytes) -> None:
    with _draft_of(path) as draft:
        draft.write_bytes(data)


def check_writable(path: Path, flag: str) -> None:
    """Before the work: raises `UserError` where a file cannot be written."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UserError(f"{flag} {path}: {'is a directory' if path.is_dir() else 'its directory does not exist'}.")
