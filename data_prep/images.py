"""Pictures one by one: stored JPEG frames, and a folder of numbered images that stands for a video."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

from data_prep.frame import Window
from data_prep.frame_series import IMAGE_EXTENSIONS, choose_series
from data_prep.limits import MAX_FRAMES, VideoError, check_size

_IMAGE_FORMATS = ["JPEG", "PNG", "BMP", "WEBP"]
JPEG_QUALITY = 85


def encode_jpeg(frame: np.ndarray) -> bytes:
    """JPEG bytes of one uint8 RGB frame `(height, width, 3)`."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame)).save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def decode_jpegs(frames: Sequence[bytes], window: Window | None = None) -> np.ndarray:
    """uint8 RGB `(frames, height, width, 3)` from JPEG bytes, of one size; `window` says which part is kept.

    Raises `VideoError`.

    With simplejpeg (an extra) in half the time; the pixels are the same, since both are libjpeg-turbo at its defaults.
    """
    height, width = jpeg_size(frames[0])
    check_size(width, height)
    top, left, box_height, box_width = (0, 0, height, width) if window is None else window((height, width))
    pixels = np.empty((len(frames), box_height, box_width, 3), np.uint8)
    part = np.empty((height, width, 3), np.uint8) if window is not None else None
    for at, data in enumerate(frames):
        if jpeg_size(data) != (height, width):
            raise VideoError("its stored frames differ in size")
        whole = pixels[at] if part is None else part
        try:
            if simplejpeg is not None:
                simplejpeg.decode_jpeg(data, buffer=whole)
            else:
                with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
                    whole[:] = np.asarray(image.convert("RGB"))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise VideoError(f"a stored frame is not a JPEG: {error}") from error
        if part is not None:
            pixels[at] = part[top : top + box_height, left : left + box_width]
    return pixels


def decode_jpeg(data: bytes) -> np.ndarray:
    """One uint8 RGB frame `(height, width, 3)` from JPEG bytes. Raises `VideoError`."""
    frame: np.ndarray = decode_jpegs([data])[0]
    return frame


def jpeg_size(data: bytes) -> tuple[int, int]:
    """(height, width) in px, as the header says (ITU-T T.81, B.2.2). Raises `VideoError` where `data` is no JPEG."""
    at = 2 if data[:2] == b"\xff\xd8" else len(data)
    while at + 9 <= len(data) and data[at] == 0xFF:
        # Frame headers are C0 to CF without tables (C4, CC) and extensions (C8).
        if 0xC0 <= data[at + 1] <= 0xCF and data[at + 1] not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise VideoError("a stored frame is not a JPEG")


def frame_paths(folder: str | os.PathLike[str]) -> list[Path]:
    """The frames of a folder of images, in the order of their numbers. Raises `VideoError`."""
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise VideoError(f"cannot be read: {error.strerror}") from error
    names = [name for name in names if os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS]
    if len(names) > MAX_FRAMES:
        raise VideoError(f"has more than {MAX_FRAMES} frames")
    return [Path(folder, name) for name in choose_series(names).names]


class Picture:
    """One image of a folder; `size` is (height, width) in px."""

    seconds = None  # a folder does not say when its frames were taken

    def __init__(self, index: int, pixels: np.ndarray):
        self.index, self.pixels, self.size = index, pixels, pixels.shape[:2]

    def rgb(self, size: tuple[int, int]) -> np.ndarray:
        """uint8 RGB `(height, width, 3)` at `size`."""
        if size == self.size:
            return self.pixels
        return np.asarray(Image.fromarray(self.pixels).resize(size[::-1], Image.Resampling.BILINEAR))

    def gray(self, side: int) -> np.ndarray:
        """uint8 luma `(side, side)` of the whole picture."""
        return np.asarray(Image.fromarray(self.pixels).convert("L").resize((side, side), Image.Resampling.BOX))


class FrameFolder:
    """Frames of a folder of images, like an opened video; images that do not decode are its bad packets."""

    codec, fps = "images", None

    def __init__(self, folder: str | os.PathLike[str]):
        self.paths = frame_paths(folder)
        self.num_packets = self.num_bad_packets = 0

    def __iter__(self) -> Iterator[Picture]:
        index = 0
        for path in self.paths:
            self.num_packets += 1
            try:
                pixels = _read_image(path)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                self.num_bad_packets += 1
                continue
            yield Picture(index, pixels)
            index += 1


def _read_image(path: Path) -> np.ndarray:
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would block for ever
        raise OSError("is not a regular file")
    with Image.open(path, formats=_IMAGE_FORMATS) as image:
        check_size(*image.size)
        return np.asarray(image.convert("RGB"))
