"""One decoded frame: when it is shown, which way up, and its pixels at the size that is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Box = tuple[int, int, int, int]  # top, left, height, width in px
Window = Callable[[tuple[int, int]], Box]  # says which part is wanted of frames of (height, width)


class Frame:
    """One decoded frame; `size` is (height, width) in px, upright; `seconds` since the first frame, where known."""

    __slots__ = ("_converters", "_frame", "_mirrored", "_turns", "index", "seconds", "size")

    def __init__(self, frame: Any, index: int, seconds: float | None, turns: int, mirrored: bool, converters: Any):
        self._frame, self._turns, self._mirrored, self._converters = frame, turns, mirrored, converters
        self.index, self.seconds = index, seconds
        self.size = (frame.width, frame.height) if turns % 2 else (frame.height, frame.width)

    def rgb(self, size: tuple[int, int]) -> np.ndarray:
        """uint8 RGB `(height, width, 3)` at `size`, upright."""
        pixels = np.empty((*size, 3), np.uint8)
        self.write_rgb(pixels, size, (0, 0, *size))
        return pixels

    def write_rgb(self, pixels: np.ndarray, size: tuple[int, int], box: Box) -> None:
        """Fills uint8 RGB `pixels` with the part `box` of the upright frame at `size`."""
        height, width = size[::-1] if self._turns % 2 else size
        # threads=1: the default starts one per core for each frame.
        converted = self._converters[0].reformat(self._frame, width=width, height=height, format="rgb24", threads=1)
        plane = converted.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(height, plane.line_size)[:, : 3 * width]
        top, left, box_height, box_width = box
        pixels[:] = self._upright(rows.reshape(height, width, 3))[top : top + box_height, left : left + box_width]

    def gray(self, side: int) -> np.ndarray:
        """uint8 luma `(side, side)` of the whole picture, upright."""
        converted = self._converters[1].reformat(
            self._frame, width=side, height=side, format="gray", interpolation="AREA", threads=1
        )
        return self._upright(converted.to_ndarray())

    def _upright(self, pixels: np.ndarray) -> np.ndarray:
        # The container's rotation, which FFmpeg only reports.
        if self._turns == 0 and not self._mirrored:
            return pixels
        return np.rot90(pixels[:, ::-1] if self._mirrored else pixels, self._turns)


class Clock:
    """Seconds of each frame in delivery order since the first, never decreasing.

    By timestamp until one does not increase (packed B-frames, joined files); from there by the frame's number and the
    claimed `fps` (1/s), which also serves where there are no timestamps.
    """

    def __init__(self, time_base: Any, fps: float | None):
        self.time_base = time_base
        self.fps = fps
        self.first: int | None = None
        self.now, self.trusted = -1.0, bool(time_base)

    def seconds(self, pts: int | None, index: int) -> float | None:
        """Time of the next frame; None where nothing tells."""
        if self.trusted and pts is not None:
            self.first = pts if self.first is None else self.first
            seconds = float((pts - self.first) * self.time_base)
            if seconds > self.now:
                self.now = seconds
                return seconds
        self.trusted = False
        if self.fps is None:
            return None
        self.now = max(self.now, index / self.fps)
        return self.now


def orientation(frame: Any) -> tuple[int, bool]:
    """(quarter turns, whether to mirror left-right before them) that set the frame upright.

    From the display matrix, nine integers of which the first two columns are the linear part (ISO 14496-12, 8.3.2).
    """
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return 0, False
    a, b, _, c, d = (float(value) for value in np.frombuffer(bytes(side_data), np.int32)[:5])
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    if a == b == 0:  # a matrix of zeros says nothing
        return 0, False
    return round(-np.degrees(np.arctan2(b, a)) / 90) % 4, mirrored
