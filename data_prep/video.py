"""The one decoder of the project: opens a video safely, measures it, reads frames by index.

A file is untrusted. It is opened by absolute path, after `stat` says it is a regular file, with the demuxers and the
protocol FFmpeg may use named: a playlist, a concat script or an SDP file named `.mp4` is refused, and no file can make
FFmpeg read another file or open a connection. A folder of numbered images is read like a video.

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

from data_prep.frame import Clock, Frame, orientation
from data_prep.images import FrameFolder, Picture
from data_prep.labeled import Span
from data_prep.limits import MAX_BAD_PACKETS, MAX_FRAMES, TIME_LIMIT_SECONDS, VideoError, check_size

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

MAX_DURATION_SECONDS = 24 * 3600.0

Source = str | os.PathLike[str] | bytes


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What decoding the whole video (or a span of it) measured.

    `fps` in 1/s and `duration` in s are None when the timestamps do not tell; `height` and `width` in px are of the
    upright picture; `num_bad_packets` were left out because they did not decode; `first_frame` is the index in the
    file of a span's first frame.
    """

    num_frames: int
    fps: float | None
    duration: float | None
    height: int
    width: int
    num_bad_packets: int = 0
    codec: str = ""  # as FFmpeg calls it
    first_frame: int = 0


class VideoFile:
    """Frames of one opened video in delivery order, and the count of packets that did not decode."""

    def __init__(self, container: Any, stream: Any, time_limit: float):
        self.container, self.stream = container, stream
        self.num_packets = self.num_bad_packets = 0
        self.time_limit, self.deadline = time_limit, time.monotonic() + time_limit
        self.codec: str = stream.codec_context.name
        claimed = stream.average_rate or stream.guessed_rate
        self.fps = float(claimed) if claimed else None  # a claim; None where there is none
        self.pts: list[int] = []  # of the frames so far

    def __iter__(self) -> Iterator[Frame]:
        # For all frames: a new one would set up its tables for each.
        converters = VideoReformatter(), VideoReformatter()
        clock = Clock(self.stream.time_base, self.fps)
        turns, mirrored = 0, False
        for index, frame in enumerate(self._frames()):
            if index == 0:
                turns, mirrored = orientation(frame)
            if frame.pts is not None:
                self.pts.append(frame.pts)
            yield Frame(frame, index, clock.seconds(frame.pts, index), turns, mirrored, converters)

    def _frames(self) -> Iterator[Any]:
        for packet in self._packets():
            self.num_packets += 1
            try:
                frames = packet.decode()
            except (av.FFmpegError, ValueError):
                self.num_bad_packets += 1
                continue
            for frame in frames:
                # The size may change in mid-stream: each frame is checked, not only the header.
                check_size(frame.width, frame.height)
                yield frame

    def _packets(self) -> Iterator[Any]:
        packets = self.container.demux(self.stream)
        while True:
            if time.monotonic() > self.deadline:
                raise VideoError(f"takes more than {self.time_limit:g} s to decode")
            try:
                yield next(packets)  # the last one is empty and flushes the decoder
            except StopIteration:
                return
            except IndexError:
                # PyAV met a stream that appeared on the way, as in broadcasts; from here on it knows that one.
                packets = self.container.demux(self.stream)
            except av.FFmpegError:
                # The container breaks off here. An empty packet makes the decoder give what it still holds.
                self.num_bad_packets += 1
                flush = av.Packet()
                flush.stream = self.stream
                yield flush
                return


@contextmanager
def open_video(source: Source, time_limit: float = TIME_LIMIT_SECONDS) -> Iterator[VideoFile | FrameFolder]:
    """Opens a file, a file's bytes or a folder of images for one pass over its frames. Raises `VideoError`.

    Reading ends with a `VideoError` when it takes more than `time_limit` seconds.
    """
    if isinstance(source, bytes):
        file: Any = io.BytesIO(source)
    else:
        # Absolute, so that no name can be read as a protocol ("http:...", "concat:a|b").
        file = os.path.abspath(source)
        try:
            mode = os.stat(file)
        except (OSError, ValueError) as error:
            raise VideoError(f"cannot be read: {_reason(error)}") from error
        if stat.S_ISDIR(mode.st_mode):
            yield FrameFolder(file)
            return
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
        yield VideoFile(container, _best_stream(container), time_limit)


def _best_stream(container: Any) -> Any:
    stream = container.streams.best("video")
    if stream is None:
        raise VideoError("holds no video stream")
    if stream.codec_context is None:
        raise VideoError("its video codec is unknown")
    if stream.disposition & av.stream.Disposition.attached_pic:
        raise VideoError("holds only a cover picture, no video")
    check_size(stream.codec_context.width, stream.codec_context.height)
    # With threads, the outcome on damaged files depends on their number.
    stream.thread_type = "NONE"
    return stream


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def frames_of_span(video: VideoFile | FrameFolder, span: Span | None) -> Iterator[Frame | Picture]:
    """The frames of a span, or all. Raises `VideoError` where the span holds none, or cannot be found."""
    if span is None:
        yield from video
        return
    position, found = None, False
    for frame in video:
        position = frame.index if span.unit == "frames" else frame.seconds
        if position is None:
            raise VideoError("its frames have no times: a part of it cannot be found by seconds")
        if position >= span.end:
            break
        if position >= span.start:
            found = True
            yield frame
    if not found and position is not None:
        raise VideoError(
            f"has no frame from {span.start:g} to {span.end:g} {span.unit}: the last one is at {position:g}"
        )


class Measure:
    """Adds up what the frames of one pass tell."""

    def __init__(self, video: VideoFile | FrameFolder):
        self.video = video
        self.num_frames = self.first_frame = 0
        self.size = (0, 0)

    def add(self, frame: Frame | Picture) -> None:
        if self.num_frames == 0:
            self.size, self.first_frame = frame.size, frame.index
            self._first_pts = max(0, len(getattr(self.video, "pts", ())) - 1)
        if self.num_frames == MAX_FRAMES:
            raise VideoError(f"has more than {MAX_FRAMES} frames")
        self.num_frames += 1

    def info(self) -> VideoInfo:
        """What was measured. Raises `VideoError` where that is no usable video."""
        if self.num_frames == 0:
            raise VideoError("no frame decodes")
        bad, packets = self.video.num_bad_packets, self.video.num_packets
        if bad > MAX_BAD_PACKETS * packets:
            raise VideoError(f"is damaged: {bad} of {packets} packets do not decode")
        if self.num_frames == 1:
            raise VideoError("has only one frame: it is a picture, not a video")
        fps = self._frame_rate()
        duration = self.num_frames / fps if fps else None
        if duration is not None and duration > MAX_DURATION_SECONDS:
            raise VideoError(f"lasts {duration / 3600:.0f} hours by its timestamps, more than 24")
        return VideoInfo(self.num_frames, fps, duration, *self.size, bad, self.video.codec, self.first_frame)

    def _frame_rate(self) -> float | None:
        """Frames per second, 1/s: from the span of the timestamps, else what the container claims, else None.

        The span is right for packed B-frames too, whose timestamps are a permutation of the right ones. It is wrong
        where timestamps start again in mid-stream, and then they repeat.
        """
        if isinstance(self.video, FrameFolder):
            return None
        pts = self.video.pts[self._first_pts : self._first_pts + self.num_frames]
        time_base = self.video.stream.time_base
        if len(set(pts)) == self.num_frames and time_base:
            span = float((max(pts) - min(pts)) * time_base)
            if span > 0:
                return (self.num_frames - 1) / span
        return self.video.fps


def probe(source: Source, span: Span | None = None) -> VideoInfo:
    """Decodes the whole video (or span) once and says what is really there. Raises `VideoError`."""
    with open_video(source) as video:
        measure = Measure(video)
        for frame in frames_of_span(video, span):
            measure.add(frame)
        return measure.info()


def shrunk(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """`(height, width)` with the short side at most `short_side` px; never enlarged."""
    if min(size) <= short_side:
        return size
    height, width = (max(1, round(side * short_side / min(size))) for side in size)
    return height, width


def read_frames(source: Source, indices: Sequence[int]) -> np.ndarray:
    """Frames at `indices` (any order, repeats allowed): uint8 RGB `(len(indices), height, width, 3)`, upright.

    Only wanted frames are converted, and decoding ends at the last of them. Where the size changes in mid-stream,
    frames are scaled to the first frame's size. Raises `VideoError`.
    """
    wanted, last = set(indices), max(indices)
    frames: dict[int, np.ndarray] = {}
    num_frames, size = 0, (0, 0)
    with open_video(source) as video:
        for frame in video:
            num_frames = frame.index + 1
            if frame.index == 0:
                size = frame.size
            if frame.index in wanted:
                frames[frame.index] = frame.rgb(size)
            if frame.index == last:
                return np.stack([frames[i] for i in indices])
    raise VideoError(f"has {num_frames} frames, but frame {last} was asked for")
