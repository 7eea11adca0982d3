"""The one decoder of the project: opens a video safely, measures it, reads frames by index.

A file is untrusted. It is opened by absolute path, after `stat` says it is a regular file, with the demuxers and the
protocol FFmpeg may use named: a playlist, a concat script or an SDP file named `.mp4` is refused, and no file can make
FFmpeg read another file or open a connection. A folder of numbered images is read like a video.

Frames are counted and indexed in the order the decoder delivers them. Timestamps are not trusted for order: packed
B-frames (most UCF101 clips) carry wrong ones on frames that come in the right order. Packets are decoded one by one
on one thread, so that a damaged packet costs itself alone and the same file gives the same frames everywhere.

A pass over a file can leave a `PacketIndex`, by which `read_frames` then decodes only what the wanted frames need; the
pixels are the same.
"""

from __future__ import annotations

import io
import math
import os
import stat
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from data_prep.frame import Box, Clock, Frame, Window, orientation
from data_prep.images import FrameFolder
from data_prep.index import IndexMaker, PacketIndex, Picture0
from data_prep.indexed import StaleIndex, opened_bytes, read_indexed, told
from data_prep.known import Key, key_of, known_index, remember
from data_prep.labeled import Span
from data_prep.limits import MAX_FRAME_RATE, TIME_LIMIT_SECONDS, VideoError, check_size
from data_prep.measure import Measure, VideoInfo, frames_of_span

EXTENSIONS = frozenset(
    [".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".3gp", ".wmv", ".flv", ".ogv", ".gif"]
)  # compared in lower case  # fmt: skip

# Every demuxer that the extensions need, none that follows a reference to another file (hls, concat, sdp, image2).
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,gif,asf,flv,ogg"

_STREAM_FORMATS = "matroska,webm,mpegts,mpeg,flv,avi,mov,mp4,m4a,3gp,3g2,mj2,yuv4mpegpipe,mjpeg,ogg"

_STREAM_BUFFER = 4096  # bytes, which a small picture may take a second to fill

Source = str | os.PathLike[str] | bytes | memoryview
_IN_MEMORY = (bytes, memoryview)


class VideoFile:
    """Frames of one opened video in delivery order, and the count of packets that did not decode."""

    def __init__(self, container: Any, stream: Any, time_limit: float, maker: IndexMaker | None = None):
        self.container, self.stream = container, stream
        self.num_packets = self.num_bad_packets = 0
        self.time_limit, self.deadline = time_limit, time.monotonic() + time_limit
        self.codec: str = stream.codec_context.name
        claimed = stream.average_rate or stream.guessed_rate
        # A claim; None where there is none that can be believed.
        self.fps = float(claimed) if claimed and 0.1 <= claimed <= MAX_FRAME_RATE else None
        # Also a claim; 0 where there is none.
        self.claimed_frames: int = stream.frames or round((container.duration or 0) / av.time_base * (self.fps or 0))
        self.pts: list[int] = []  # of the frames so far
        self._maker, self._decoder, self._picture = maker, None, Picture0((0, 0), 0, False)
        if maker is not None:
            self._decoder = told(stream.codec_context)
            stream.codec_context.copy_opaque = True

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
            upright = Frame(frame, index, clock.seconds(frame.pts, index), turns, mirrored, converters)
            if index == 0:
                self._picture = Picture0(upright.size, turns, mirrored)
            yield upright

    def index(self) -> PacketIndex | None:
        """Of the frames so far, where the file was opened for it; None where it cannot be trusted to be read by one."""
        if self._maker is None or self._decoder is None or self.num_bad_packets:
            return None
        depth = self.stream.codec_context.reorder_depth
        return self._maker.index(replace(self._decoder, reorder_depth=depth), self._picture)

    def _frames(self) -> Iterator[Any]:
        for packet in self._packets():
            self.num_packets += 1
            if self._maker is not None and packet.size:
                changes = any(map(packet.has_sidedata, ("new_extradata", "param_change")))
                packet.opaque = self._maker.add(bytes(packet), None if changes else packet.pos)
            try:
                frames = packet.decode()
            except (av.FFmpegError, ValueError):
                self.num_bad_packets += 1
                continue
            for frame in frames:
                # The size may change in mid-stream: each frame is checked, not only the header.
                check_size(frame.width, frame.height)
                if self._maker is not None:
                    self._maker.deliver(None if frame.is_corrupt else frame.opaque)
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
def open_video(
    source: Source, time_limit: float = TIME_LIMIT_SECONDS, indexing: bool = False
) -> Iterator[VideoFile | FrameFolder]:
    """Opens a file, a file's bytes or a folder of images for one pass over its frames. Raises `VideoError`.

    Reading ends with a `VideoError` when it takes more than `time_limit` seconds. `indexing` prepares `VideoFile.index`.
    """
    if isinstance(source, _IN_MEMORY):
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
        stream = _best_stream(container)
        if not indexing:
            yield VideoFile(container, stream, time_limit)
            return
        with opened_bytes(source if isinstance(source, _IN_MEMORY) else file) as (pread, num_bytes):
            context = stream.codec_context
            maker = IndexMaker(container.format.name, context.name, context.extradata or b"", pread, num_bytes)
            yield VideoFile(container, stream, time_limit, maker)


@contextmanager
def open_stream(file: Any) -> Iterator[VideoFile]:
    """Frames of a live stream for as long as it lasts, from an object whose `read(n)` gives its next bytes.

    Only demuxers that can begin without a seek and follow no reference are tried. Raises `VideoError`.
    """
    options = {"format_whitelist": _STREAM_FORMATS, "protocol_whitelist": "file"}
    # What it is has to be told from its first second: FFmpeg would wait for five.
    options |= {"analyzeduration": "1000000", "fpsprobesize": "4"}
    try:
        container = av.open(file, metadata_errors="ignore", options=options, buffer_size=_STREAM_BUFFER)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"cannot be opened as a stream: {_reason(error)}") from error
    with container:
        yield VideoFile(container, _best_stream(container), math.inf)


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


def probe(source: Source, span: Span | None = None) -> VideoInfo:
    """Decodes the whole video (or span) once and says what is really there. Raises `VideoError`."""
    return probe_times(source, span)[0]


def probe_times(source: Source, span: Span | None = None) -> tuple[VideoInfo, list[float] | None]:
    """Likewise; and each frame's time in s since the first, where the rate is not constant.

    The index that this gives is remembered for `read_frames`.
    """
    key = key_of(source)
    with open_video(source, indexing=key is not None) as video:
        measure = Measure(video)
        for frame in frames_of_span(video, span):
            measure.add(frame)
        remember(key, video.index() if isinstance(video, VideoFile) else None)
        info = measure.info()
        return info, measure.frame_times(info.fps)


def index_video(source: Source) -> PacketIndex | None:
    """The index of a whole file, which is decoded for it; None where it has to be decoded from its start each time."""
    with open_video(source, indexing=True) as video:
        for _ in video:
            pass
        return video.index() if isinstance(video, VideoFile) else None


def shrunk(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """`(height, width)` with the short side at most `short_side` px; never enlarged."""
    if min(size) <= short_side:
        return size
    height, width = (max(1, round(side * short_side / min(size))) for side in size)
    return height, width


def read_frames(
    source: Source,
    indices: Sequence[int],
    index: PacketIndex | None = None,
    short_side: int | None = None,
    window: Window | None = None,
) -> np.ndarray:
    """Frames at `indices` (any order, repeats allowed): uint8 RGB `(len(indices), height, width, 3)`, upright.

    With the file's `index`, or where this process has passed over the file before, only what the wanted frames need is
    decoded; else everything up to the last of them. Only wanted frames are converted, and in the same step scaled to a
    `short_side` of so many px where they are larger; `window` says which part of them is kept. Where the size changes in
    mid-stream, frames are scaled to the first frame's size. Raises `VideoError`.
    """
    wanted = sorted(set(indices))
    if wanted and wanted[0] < 0:
        raise VideoError(f"has no frame {wanted[0]}")
    key = key_of(source)
    index = index or known_index(key)
    frames = None
    if index is not None and wanted[-1] < index.num_frames:
        size, box = _size_and_box(index.picture.size, short_side, window)
        with suppress(StaleIndex):
            memory = source if isinstance(source, _IN_MEMORY) else os.path.abspath(source)
            frames = read_indexed(memory, index, wanted, size, box)
    if frames is None:
        frames = _read_from_start(source, wanted, short_side, window, key if index is None else None)
    if wanted == list(indices):
        return frames
    place = {number: at for at, number in enumerate(wanted)}
    return frames[[place[number] for number in indices]]


def _size_and_box(size: tuple[int, int], short_side: int | None, window: Window | None) -> tuple[tuple[int, int], Box]:
    """At which size frames of `size` are read, and the part of them that is kept."""
    size = size if short_side is None else shrunk(size, short_side)
    return size, (0, 0, *size) if window is None else window(size)


def _read_from_start(
    source: Source, wanted: list[int], short_side: int | None, window: Window | None, key: Key | None
) -> np.ndarray:
    """Decodes up to the last wanted frame; on to the end for the index, under `key`, where that is not far."""
    frames: dict[int, np.ndarray] = {}
    last, num_frames = wanted[-1], 0
    size, box = (0, 0), (0, 0, 0, 0)
    with open_video(source, indexing=key is not None) as video:
        ordered: Iterator[Any] = iter(video)
        for frame in ordered:
            num_frames = frame.index + 1
            if frame.index == 0:
                size, box = _size_and_box(frame.size, short_side, window)
            if frame.index in wanted:
                frames[frame.index] = frame.rgb(size)[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]
            if frame.index == last:
                if key is not None and isinstance(video, VideoFile) and 0 < video.claimed_frames <= 2 * num_frames:
                    with suppress(VideoError):
                        deque(ordered, maxlen=0)
                        remember(key, video.index())
                return np.stack([frames[i] for i in wanted])
    raise VideoError(f"has {num_frames} frames, but frame {last} was asked for")
