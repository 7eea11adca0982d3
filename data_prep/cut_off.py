"""Whether a file ends before its own end, as half a download does.

Most containers are simply shorter then, and decode without an error. Three say in their first bytes how long they are:
MP4 and MOV (ISO 14496-12, 4.2), AVI (the size in its RIFF header) and Matroska and WebM (RFC 8794, sections 4 and 6.2).
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

_MAX_BOXES = 100_000  # looked at; a box may have 8 bytes
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def missing_share(path: Path) -> float:
    """Share of a regular file's bytes that its container names and that are not there; 0 where it does not say."""
    num_bytes = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF":
            named = _riff_end(head)
        elif head[:4] == _EBML:
            named = _segment_end(file)
        else:
            named = _media_data_end(file, num_bytes)
    return max(0.0, 1 - num_bytes / named) if named else 0.0


def _riff_end(head: bytes) -> int:
    size = int.from_bytes(head[4:8], "little")
    return 8 + size if size < 0xFFFFFFFF else 0  # all ones, or zero: written to a pipe


def _segment_end(file: BinaryIO) -> int:
    file.seek(4)
    header_size = _vint(file)
    if header_size is None or header_size > 1000:
        return 0
    file.seek(header_size, 1)
    size = _vint(file) if file.read(4) == _SEGMENT else None
    return 0 if size is None else file.tell() + size


def _vint(file: BinaryIO) -> int | None:
    """A number of RFC 8794, section 4: as many bytes as its first one has leading zeros, and one. None: unknown."""
    first = file.read(1)
    length = 9 - first[0].bit_length() if first else 9
    if length > 8:
        return None
    bits = 7 * length
    value = int.from_bytes(first + file.read(length - 1), "big") & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else value


def _media_data_end(file: BinaryIO, num_bytes: int) -> int:
    """Where a `mdat` box that does not fit into the file would end; what other boxes claim tells nothing of frames."""
    start = 0
    for _ in range(_MAX_BOXES):
        file.seek(start)
        box = file.read(16)
        size = int.from_bytes(box[:4], "big")
        if size == 1:
            size = int.from_bytes(box[8:], "big")
        start += size
        if size < 8 or start > num_bytes:
            return start if box[4:8] == b"mdat" and size >= 8 else 0
    return 0
