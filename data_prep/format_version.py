"""The version that wrote a dataset, a run or predictions, so that one which cannot read them says which can."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from data_prep.errors import UserError, printable

# Of what is written today. A version that writes what this one could not read adds one; what says nothing is of 1.
FORMAT_VERSION = 1
_FORMAT, _WRITER = "format_version", "written_by"
STAMP_KEYS = frozenset([_FORMAT, _WRITER])


def stamp() -> dict[str, Any]:
    """Cells of a JSON file: the version of the format, and the project's, which can read it."""
    return {_FORMAT: FORMAT_VERSION, _WRITER: _project_version()}


def check_format(place: str, document: Mapping[str, Any]) -> None:
    """Raises `UserError` where a later version wrote `place` in a format that this one does not know."""
    found = document.get(_FORMAT)
    if isinstance(found, int) and found > FORMAT_VERSION:
        writer = printable(str(document.get(_WRITER, "unknown")))
        raise UserError(f"{place} was written by version {writer} of this project in format {found}, and this is version {_project_version()}, which reads formats to {FORMAT_VERSION}: use version {writer} or a later one.")  # fmt: skip


def _project_version() -> str:
    try:
        return importlib.metadata.version("timesformer-finetuning")
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
        return "unknown"
