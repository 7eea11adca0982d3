"""An output that is deleted or replaced while a command works: noticed, and said in one line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data_prep.errors import UserError


class Staying:
    """A file or folder that has to stay as long as a command writes to it; `name` is what a user calls it, as `--output`.

    It is held open meanwhile: else a folder that is made anew at its path could get its number (inode).
    """

    def __init__(self, name: str, path: str | Path):
        self.name, self.path = name, path
        self._held: int | None = None
        found = os.stat(path)
        self._identity = (found.st_dev, found.st_ino)
        with suppress(OSError):  # a folder on Windows, which cannot be deleted while it is used
            self._held = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self._held is not None:
            with suppress(OSError):
                os.close(self._held)

    @property
    def lost(self) -> str | None:
        """What happened to it, as a message begins; None while it is there."""
        try:
            found = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return f"{self.name} {self.path} was deleted while this command worked"
        if (found.st_dev, found.st_ino) != self._identity:
            return f"{self.name} {self.path} was replaced by another while this command worked"
        return None

    def check(self) -> None:
        """Raises `UserError` where it is not there any more."""
        if self.lost:
            raise UserError(f"{self.lost}: give the same command again.")

    @contextmanager
    def through(self) -> Iterator[None]:
        """Check a block that writes to it at its end, and after an error: where it is gone, that is the cause."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if self.lost:
                raise UserError(f"{self.lost}: give the same command again.") from error
            if isinstance(error, FileNotFoundError) and _lies_in(error.filename, self.path):
                raise UserError(f"{error.filename} was deleted while this command worked: give the same command again.") from error  # fmt: skip
            raise
        self.check()


def _lies_in(path: object, folder: str | Path) -> bool:
    return isinstance(path, str | os.PathLike) and Path(folder).absolute() in Path(os.path.abspath(path)).parents
