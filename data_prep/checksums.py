"""Checksums of a dataset's files, so that a bad disk or half a copy is noticed before its bytes are used again."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import fsspec

# By path below the dataset: bytes, and a digest of them; none at a URL, where it would cost a download.
Checksums = dict[str, tuple[int, str | None]]


def checksums(directory: str, parts: Collection[str]) -> Checksums:
    """Of every file in `directory`, a path or URL, that is one of `parts` or lies in one."""
    return {
        name: (num_bytes, digest_of(Path(directory, name)) if "://" not in directory else None)
        for name, num_bytes in _files(directory).items()
        if name.partition("/")[0] in parts
    }


def are_checksums(value: Any) -> bool:
    """Whether a value that came from a file has the form of `Checksums`."""
    return isinstance(value, dict) and all(
        isinstance(pair, list) and len(pair) == 2 and type(pair[0]) is int and isinstance(pair[1], str | None)
        for pair in value.values()
    )


def damaged(directory: str, expected: Checksums, thorough: bool) -> list[str]:
    """The files that are missing or of another length; with `thorough` also those that hold other bytes."""
    found = _files(directory)
    return [
        name
        for name, (num_bytes, digest) in expected.items()
        if found.get(name) != num_bytes or (thorough and digest and digest_of(Path(directory, name)) != digest)
    ]


def _files(directory: str) -> dict[str, int]:
    """Path below the directory -> bytes, of every file."""
    files, root = fsspec.url_to_fs(directory)
    files.invalidate_cache()
    found = files.find(root, detail=True)
    return {path.removeprefix(root).lstrip("/"): found[path]["size"] for path in sorted(found)}


def digest_of(path: Path) -> str | None:
    """A digest of a file's bytes; None where they cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()
