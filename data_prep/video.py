"""The one decoder of the project: opens a video safely, measures it, reads frames by index.

A file is untrusted. It is opened by absolute path, after `stat` says it is a regular file, with the demuxers and the
protocol FFmpeg may use named: a playlist, a concat script or an SDP file named `.mp4` is refused, and no file can make
FFmpeg read another file or open a connection.

Frames are counted and indexed in the order the decoder delivers them. Timestamps are not trusted for order: packed
B-frames (most UCF101 clips) carry wrong ones on frames that come in the right order. Packets are decoded one by one
on one thread, so that a damaged packet costs itself alone and the same file gives the same frames everywhere.
"""

from __future__ import annotations

import io
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

EXTENSIONS = frozenset(
    [
        ".mp4",
        ".m4v",
        ".mov",
        ".avi",
        ".mkv",
        ".webm",
        ".mpg",
        ".mpeg",
        ".ts",
        ".mts",
        ".3gp",
        ".wmv",
        ".flv",
        ".ogv",
        ".gif",
    ]
)  # compared in lower case

# Every demuxer that the extensions need, none that follows a reference to another file (hls, concat, sdp, image2).
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,gif,asf,flv,ogg"

MAX_PIXELS = 8192 * 4352  # per frame; an 8K frame fits. A 200-byte GIF may claim 16000 x 16000 and cost 2 GB.
MAX_FRAMES = 1_000_000  # 9 hours at 30 frames per second
MAX_DECODE_SECONDS = 600.0
MAX_STORED_BYTES = 1 << 30  # of one video's JPEGs; an Arrow cell ends at 2 GiB
MAX_BAD_PACKETS = 0.2  # share of the packets
JPEG_QUALITY = 90


class VideoError(Exception):
    """A video that cannot be used. The message is the reason, in words for `rejected.csv`."""


@dataclass(frozen=True)
class VideoInfo:
    """What decoding the whole video measured.

    `fps` in 1/s and `duration` in s are None when the timestamps do not tell; `height` and `width` in px are of the
    upright picture; `num_bad_packets` were left out because they did not decode.
    """

    num_frames: int
    fps: float | None
    duration: float | None
    height: int
    width: int
    num_bad_packets: int = 0


class _Decoder:
    """Frames of one opened video in delivery order, and the count of packets that did not decode."""

    def __init__(self, container: Any, stream: Any):
        self.container, self.stream = container, stream
        self.converter = VideoReformatter()  # one for all frames: a new one would set up its tables for each
        self.num_packets = self.num_bad_packets = 0
        self.deadline = time.monotonic() + MAX_DECODE_SECONDS

    def __iter__(self) -> Iterator[Any]:
        for packet in self._packets():
            self.num_packets += 1
            if time.monotonic() > self.deadline:
                raise VideoError(f"takes more than {MAX_DECODE_SECONDS:.0f} s to decode")
            try:
                frames = packet.decode()
            except (av.FFmpegError, ValueError):
                self.num_bad_packets += 1
                continue
            for frame in frames:
                # The size may change in mid-stream: each frame is checked, not only the header.
                _check_size(frame.width, frame.height)
                yield frame

    def _packets(self) -> Iterator[Any]:
        packets = self.container.demux(self.stream)
        while True:
            try:
                yield next(packets)  # the last one is empty and flushes the decoder
            except StopIteration:
                return
            except av.FFmpegError:
                # The container breaks off here. An empty packet makes the decoder give what it still holds.
                self.num_bad_packets += 1
                flush = av.Packet()
                flush.stream = self.stream
                yield flush
                return


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise VideoError(f"frames of {width}x{height} pixels: more than {MAX_PIXELS} pixels are not opened")


@contextmanager
def _open(source: str | os.PathLike[str] | bytes) -> Iterator[_Decoder]:
    if isinstance(source, bytes):
        file: Any = io.BytesIO(source)
    else:
        # Absolute, so that no name can be read as a protocol ("http:...", "concat:a|b").
        file = os.path.abspath(source)
        try:
            mode = os.stat(file)
        except OSError as error:
            raise VideoError(f"cannot be read: {error.strerror}") from error
        if not stat.S_ISREG(mode.st_mode):
            raise VideoError("is not a regular file")
        if mode.st_size == 0:
            raise VideoError("is empty")
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
    try:
        # Latin-1 tags (most HMDB51 clips) must not fail the file: metadata is never used.
        container = av.open(file, metadata_errors="ignore", options=options)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"cannot be opened as a video: {_reason(error)}") from error
    with container:
        yield _Decoder(container, _best_stream(container))


def _best_stream(container: Any) -> Any:
    stream = container.streams.best("video")
    if stream is None:
        raise VideoError("holds no video stream")
    if stream.codec_context is None:
        raise VideoError("its video codec is unknown")
    if stream.disposition & av.stream.Disposition.attached_pic:
        raise VideoError("holds only a cover picture, no video")
    _check_size(stream.codec_context.width, stream.codec_context.height)
    # With threads, the outcome on damaged files depends on their number.
    stream.thread_type = "NONE"
    return stream


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _upright(decoder: _Decoder, frame: Any, height: int, width: int) -> np.ndarray:
    """RGB, uint8, `(height, width, 3)`; the container's rotation applied, which FFmpeg only reports."""
    turns = _quarter_turns(frame)
    if turns % 2:
        height, width = width, height
    rgb = decoder.converter.reformat(frame, width=width, height=height, format="rgb24")
    return np.rot90(rgb.to_ndarray(), turns)


def _quarter_turns(frame: Any) -> int:
    # A display matrix of zeros comes as the smallest integer.
    return round(frame.rotation / 90) % 4 if abs(frame.rotation) <= 360 else 0


def _upright_size(frame: Any) -> tuple[int, int]:
    size = (frame.height, frame.width)
    return size[::-1] if _quarter_turns(frame) % 2 else size


def probe(source: str | os.PathLike[str] | bytes) -> VideoInfo:
    """Decodes the whole video once and says what is really there. Raises `VideoError`."""
    info, _ = _scan(source, short_side=None)
    return info


def probe_and_encode(source: str | os.PathLike[str] | bytes, short_side: int) -> tuple[VideoInfo, list[bytes]]:
    """`probe`, and every frame as JPEG bytes with its short side at most `short_side` px. Raises `VideoError`.

    The info's height and width are those of the JPEGs.
    """
    return _scan(source, short_side)


def _scan(source: str | os.PathLike[str] | bytes, short_side: int | None) -> tuple[VideoInfo, list[bytes]]:
    pts: list[int] = []
    jpegs: list[bytes] = []
    num_frames, num_bytes, size = 0, 0, (0, 0)
    with _open(source) as decoder:
        for frame in decoder:
            if num_frames == 0:
                size = _shrunk(_upright_size(frame), short_side)
            if num_frames == MAX_FRAMES:
                raise VideoError(f"has more than {MAX_FRAMES} frames")
            num_frames += 1
            if frame.pts is not None:
                pts.append(frame.pts)
            if short_side is not None:
                jpegs.append(encode_jpeg(_upright(decoder, frame, *size)))
                num_bytes += len(jpegs[-1])
                if num_bytes > MAX_STORED_BYTES:
                    raise VideoError("is too long to store its frames: cut it, or use --store files")
        _check_decoded(decoder, num_frames)
        fps = _frame_rate(pts, num_frames, decoder.stream)
    duration = num_frames / fps if fps else None
    return VideoInfo(num_frames, fps, duration, *size, decoder.num_bad_packets), jpegs


def _check_decoded(decoder: _Decoder, num_frames: int) -> None:
    if num_frames == 0:
        raise VideoError("no frame decodes")
    if decoder.num_bad_packets > MAX_BAD_PACKETS * decoder.num_packets:
        raise VideoError(f"is damaged: {decoder.num_bad_packets} of {decoder.num_packets} packets do not decode")
    if num_frames == 1:
        raise VideoError("has only one frame: it is a picture, not a video")


def _frame_rate(pts: list[int], num_frames: int, stream: Any) -> float | None:
    """Frames per second, 1/s: from the span of the timestamps, else what the container claims, else None.

    The span is right for packed B-frames too, whose timestamps are a permutation of the right ones. It is wrong where
    timestamps start again in mid-stream, and then they repeat.
    """
    if len(set(pts)) == num_frames and stream.time_base:
        span = float((max(pts) - min(pts)) * stream.time_base)
        if span > 0:
            return (num_frames - 1) / span
    claimed = stream.average_rate or stream.guessed_rate
    return float(claimed) if claimed else None


def _shrunk(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """`(height, width)` with the short side at most `short_side`; never enlarged."""
    if short_side is None or min(size) <= short_side:
        return size
    height, width = (max(1, round(side * short_side / min(size))) for side in size)
    return height, width


def read_frames(source: str | os.PathLike[str] | bytes, indices: Sequence[int]) -> np.ndarray:
    """Frames at `indices` (any order, repeats allowed): uint8 RGB `(len(indices), height, width, 3)`, upright.

    Only wanted frames are converted, and decoding ends at the last of them. Where the size changes in mid-stream,
    frames are scaled to the first frame's size. Raises `VideoError`.
    """
    wanted, last = set(indices), max(indices)
    frames: dict[int, np.ndarray] = {}
    num_frames, size = 0, (0, 0)
    with _open(source) as decoder:
        for index, frame in enumerate(decoder):
            num_frames = index + 1
            if index == 0:
                size = _upright_size(frame)
            if index in wanted:
                frames[index] = _upright(decoder, frame, *size)
            if index == last:
                return np.stack([frames[i] for i in indices])
    raise VideoError(f"has {num_frames} frames, but frame {last} was asked for")


def encode_jpeg(frame: np.ndarray) -> bytes:
    """JPEG bytes of one uint8 RGB frame `(height, width, 3)`."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame)).save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def decode_jpeg(data: bytes) -> np.ndarray:
    """One uint8 RGB frame `(height, width, 3)` from JPEG bytes. Raises `VideoError`."""
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            _check_size(*image.size)
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise VideoError(f"a stored frame is not a JPEG: {error}") from error
