"""Limits on what a media file may cost and may name, and the one error that says why a file is rejected."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

MAX_PIXELS = 8192 * 4352  # per frame; an 8K frame fits. A 200-byte GIF may claim 16000 x 16000 and cost 2 GB.
MAX_FRAMES = 1_000_000  # 9 hours at 30 frames per second
MAX_FRAME_RATE = 1000.0  # 1/s; what claims to be faster claims nonsense
MAX_STORED_BYTES = 1 << 30  # of one video's pictures; an Arrow cell ends at 2 GiB
MAX_INDEX_BYTES = 1 << 20  # of one video's packet index, about three hours; a thousand lie in one Arrow batch
MAX_BAD_PACKETS = 0.2  # share of the packets
MAX_MISSING_BYTES = 0.2  # share of the bytes that a file lacks at its end
MAX_WORKER_BYTES = 8 << 30  # address space of a process that decodes; an 8K film needs about 2 GB
TIME_LIMIT_SECONDS = 600.0  # to scan one video


class VideoError(Exception):
    """A video that cannot be used. The message is the reason, in words for `rejected.csv`."""


def check_size(width: int, height: int) -> None:
    """Raises `VideoError` where one frame would cost too much memory."""
    if width * height > MAX_PIXELS:
        raise VideoError(f"frames of {width}x{height} pixels: more than {MAX_PIXELS} pixels are not opened")


def is_plain_name(name: object) -> bool:
    """Return True if `name` is the name of a file or folder, without a path to it, on every system."""
    if not isinstance(name, str) or name in ("", ".", "..") or "\0" in name:
        return False
    return PurePosixPath(name).name == name and PureWindowsPath(name).name == name
