"""Writes the `clips` store's videos: H.264 in short groups of pictures, which a reader can enter almost anywhere."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np

from data_prep.limits import MAX_STORED_BYTES, VideoError

# Groups of 8 pictures: an I-frame, a P-frame at the end, and between them B-frames that no other frame needs. A reader
# decodes at most three pictures for a wanted one. No deblocking and no arithmetic coding, which cost a decoder most.
# Groups of 16 at crf 23 were 0.8 dB better and cost a reader a third more; groups of 6 cost less where the wanted frames
# lie far apart and more where they lie close. Without adaptive quantisation PSNR was better and SSIM worse.
# No mbtree: with it, x264 gave other bytes in every run.
_OPTIONS: dict[str, object] = {
    "preset": "veryfast",
    "tune": "fastdecode",
    "crf": "24",
    "g": "8",
    "bf": "7",
    "x264-params": "b-pyramid=none:b-adapt=0:scenecut=0:mbtree=0:log-level=none",
}
_TIME_BASE = Fraction(1, 90_000)
_UNKNOWN_FRAME_RATE = 25


class ClipWriter:
    """An mp4 in memory. Frames come in order, uint8 RGB `(height, width, 3)` of one even size, with their times."""

    def __init__(self, size: tuple[int, int], fps: float | None):
        self._file = io.BytesIO()
        self._container = av.open(self._file, "w", format="mp4")
        self._fps = fps or _UNKNOWN_FRAME_RATE
        self._stream = self._container.add_stream("libx264", rate=Fraction(self._fps).limit_denominator(1001))
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = _TIME_BASE
        self._stream.codec_context.thread_count = 1  # one process per core does the rest
        self._stream.options = _OPTIONS
        self._num_frames, self._last = 0, -1

    def add(self, frame: np.ndarray, seconds: float | None) -> None:
        """`seconds` since the first frame, or None where the source has no times."""
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")
        time = self._num_frames / self._fps if seconds is None else seconds
        self._last = max(round(time / _TIME_BASE), self._last + 1)  # the muxer wants them to increase
        picture.pts, picture.time_base = self._last, _TIME_BASE
        self._container.mux(self._stream.encode(picture))
        self._num_frames += 1
        if self._file.tell() > MAX_STORED_BYTES:
            raise VideoError("is too long to store as a clip: cut it, or use --store files")

    def close(self) -> bytes:
        """Ends the video and gives its bytes."""
        self._container.mux(self._stream.encode())
        self._container.close()
        return self._file.getvalue()


def even(size: tuple[int, int]) -> tuple[int, int]:
    """`size` with each side even, at least 2: H.264 keeps one colour value for two by two pixels.

    even((240, 427)) == (240, 426)
    """
    height, width = (max(2, side // 2 * 2) for side in size)
    return height, width
