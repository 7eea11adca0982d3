"""The indexes of files that this process has passed over, for when it reads them again."""

from __future__ import annotations

import os
from collections import OrderedDict

from data_prep.index import PacketIndex

Key = tuple[str, int, int, int, int]

_indexes: OrderedDict[Key, PacketIndex] = OrderedDict()
_MAX_INDEXES = 4096  # of some kB each


def key_of(source: str | os.PathLike[str] | bytes | memoryview) -> Key | None:
    """Names a file as it is now; None for bytes, whose index whoever keeps them has to keep."""
    if isinstance(source, (bytes, memoryview)):
        return None
    try:
        status = os.stat(source)
    except (OSError, ValueError):
        return None
    return os.path.abspath(source), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def known_index(key: Key | None) -> PacketIndex | None:
    """The file's index, if it was remembered."""
    return _indexes.get(key) if key is not None else None


def remember(key: Key | None, index: PacketIndex | None) -> None:
    """Keeps an index; the oldest goes where there are many."""
    if key is not None and index is not None:
        _indexes[key] = index
        if len(_indexes) > _MAX_INDEXES:
            _indexes.popitem(last=False)
