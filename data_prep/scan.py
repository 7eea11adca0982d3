"""Scans one video: decodes it once, and on the way measures it, fingerprints it and stores its pictures."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from data_prep.checksums import digest_of
from data_prep.cut_off import missing_share
from data_prep.encode import ClipWriter, even
from data_prep.fingerprint import SIZE, Fingerprint
from data_prep.frame import Frame
from data_prep.images import FrameFolder, Picture, encode_jpeg, frame_paths
from data_prep.index import PacketIndex
from data_prep.labeled import LabeledVideo
from data_prep.limits import MAX_INDEX_BYTES, MAX_MISSING_BYTES, MAX_STORED_BYTES, MAX_WORKER_BYTES, VideoError
from data_prep.measure import Measure, VideoInfo, frames_of_span, irregular_times
from data_prep.video import VideoFile, index_video, open_video, shrunk

T = TypeVar("T")

_UNKNOWN_FRAME_RATE = 25.0  # 1/s, of pictures whose times nobody knows
_HDR_TRANSFERS = (16, 18)  # PQ and HLG, in the numbers of ITU-T H.273, table 3


@dataclass(frozen=True, slots=True)
class Storing:
    """What is kept of each video. A scan under other settings is another scan."""

    store: str  # one of schema.STORES
    short_side: int = 256  # px at most, of clips and frames
    frame_rate: float | None = None  # 1/s at most, of clips and frames
    embed: bool = False  # of files: their bytes too
    time_limit: float = 600.0  # s per video


@dataclass(frozen=True, slots=True)
class Scanned:
    """What is known of one video after its scan; `stored` is None when it was refused, and `reason` says why."""

    key: str
    video_id: str
    reason: str = ""
    source: VideoInfo | None = None
    stored: VideoInfo | None = None
    num_bytes: int = 0  # of the source
    stored_bytes: int = 0
    digest: str = ""  # of the source's bytes
    brightness: float | None = None  # mean luma, 0 to 255
    decode_seconds: float = 0.0  # CPU time to decode the source once
    hdr: bool = False  # for bright screens: shown as it is, it looks pale

    @property
    def is_damaged(self) -> bool:
        """Whether it is kept without a part of it."""
        return self.source is not None and self.source.num_bad_packets > 0


@dataclass(frozen=True, slots=True)
class Pictures:
    """What the store keeps: `frames` JPEGs, or a `video`'s bytes, or neither; and what stands beside them."""

    fingerprint: bytes = b""
    frames: list[bytes] | None = None
    video: bytes | None = None
    packet_index: bytes | None = None
    frame_times: list[float] | None = None


def video_key(video: LabeledVideo) -> tuple[str, int]:
    """A name for a video's content without reading it (where it lies, its size and times, the span), and its bytes."""
    facts: list[object] = [os.path.abspath(video.path), repr(video.span)]
    num_bytes = 0
    try:
        statuses = [(video.path, os.stat(video.path))]
        if stat.S_ISDIR(statuses[0][1].st_mode):
            statuses = [(path, os.stat(path)) for path in frame_paths(video.path) if path.exists()]
        for path, status in statuses:
            facts.append((path.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
            num_bytes += status.st_size
    except (OSError, ValueError, VideoError) as error:  # the scan will say so
        facts.append(str(error))
    return hashlib.blake2b(repr(facts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest(), num_bytes


def scan_video(video: LabeledVideo, key: str, storing: Storing) -> tuple[Scanned, Pictures]:
    """Never raises for what a file holds: a video that cannot be used is refused with a reason."""
    try:
        return _scan(video, key, storing)
    except VideoError as error:
        reason = str(error)
    except OSError as error:  # without the path: it is told beside, and not from the root of this machine
        reason = f"cannot be read: {error.strerror or type(error).__name__}"
    except MemoryError:
        reason = f"needs more than {MAX_WORKER_BYTES >> 30} GB of memory to decode"
    except Exception as error:  # an untrusted file met a case unknown to us: it is refused, and named
        reason = f"cannot be decoded: {type(error).__name__}: {error}"
    return Scanned(key, video.video_id, reason), Pictures()


def _scan(video: LabeledVideo, key: str, storing: Storing) -> tuple[Scanned, Pictures]:
    fingerprint = Fingerprint()
    brightness: list[float] = []
    decoding = _Stopwatch()
    with open_video(video.path, storing.time_limit, indexing=storing.store == "files") as opened:
        measure, pictures = Measure(opened), _keeper(storing, opened.fps)
        for frame in decoding.of_each(frames_of_span(opened, video.span)):
            measure.add(frame)
            seconds = _seconds(frame, opened.fps)
            if fingerprint.wants(seconds):
                gray = frame.gray(SIZE)
                fingerprint.add(gray, seconds)
                brightness.append(float(gray.mean()))
            pictures.add(frame, seconds)
        source = _without_its_end(measure.info(), opened, video)
        hdr = isinstance(opened, VideoFile) and opened.stream.codec_context.color_trc in _HDR_TRANSFERS
        index = opened.index() if isinstance(opened, VideoFile) else None
    digest, num_bytes = _digest(video.path)
    stored = pictures.info(source)
    kept = replace(
        pictures.close(video.path, index),
        fingerprint=fingerprint.to_bytes(),
        frame_times=irregular_times(pictures.seconds, stored.fps),
    )
    scanned = Scanned(
        key,
        video.video_id,
        source=source,
        stored=stored,
        num_bytes=num_bytes,
        stored_bytes=sum(map(len, kept.frames or ())) + len(kept.video or b""),
        digest=digest if video.span is None else f"{digest} {video.span}",
        brightness=float(np.mean(brightness)) if brightness else None,
        decode_seconds=decoding.seconds,
        hdr=hdr,
    )
    return scanned, kept


class _Stopwatch:
    """Adds up the CPU time, in s, that items take to come."""

    seconds = 0.0

    def of_each(self, items: Iterator[T]) -> Iterator[T]:
        while True:
            before = time.thread_time()
            item = next(items, None)
            self.seconds += time.thread_time() - before
            if item is None:
                return
            yield item


def _without_its_end(source: VideoInfo, opened: VideoFile | FrameFolder, video: LabeledVideo) -> VideoInfo:
    """What a file that lacks its end is: `VideoError`, or with one bad packet at least, where little is missing.

    A file that gives all the frames it claims lacks something else. Claims tell nothing where no byte is missing: a
    phone's edit list leaves frames out on purpose. A part of a file has its own end.
    """
    if isinstance(opened, FrameFolder) or video.span is not None or 0 < opened.stream.frames <= source.num_frames:
        return source
    missing = missing_share(video.path)
    if missing > MAX_MISSING_BYTES:
        raise VideoError(f"is cut off: {missing:.0%} of its bytes are missing at the end")
    return replace(source, num_bad_packets=max(1, source.num_bad_packets)) if missing else source


def _seconds(frame: Frame | Picture, fps: float | None) -> float:
    return frame.index / (fps or _UNKNOWN_FRAME_RATE) if frame.seconds is None else frame.seconds


class _Files:
    """Keeps the video as it is: by path, or its bytes too."""

    def __init__(self, embed: bool):
        self.embed = embed
        self.seconds: list[float] = []

    def add(self, frame: Frame | Picture, seconds: float) -> None:
        self.seconds.append(seconds)

    def info(self, source: VideoInfo) -> VideoInfo:
        return source

    def close(self, path: Path, index: PacketIndex | None) -> Pictures:
        packets = _packed(index)
        if not self.embed:
            return Pictures(packet_index=packets)
        if path.is_dir():
            raise VideoError("is a folder of frames, which has no bytes to embed: use --store clips or frames")
        if path.stat().st_size > MAX_STORED_BYTES:
            raise VideoError(f"is larger than {MAX_STORED_BYTES >> 30} GB, too large to embed: use --store clips")
        return Pictures(video=path.read_bytes(), packet_index=packets)


class _Frames:
    """Keeps frames as JPEGs or as an H.264 clip: shrunk, and not more per second than asked for."""

    def __init__(self, storing: Storing, fps: float | None):
        self.storing, self.fps = storing, fps
        self.size = (0, 0)
        self.jpegs: list[bytes] = []
        self.clip: ClipWriter | None = None
        self.num_bytes = self.num_frames = 0
        self.seconds: list[float] = []  # of what is kept

    def add(self, frame: Frame | Picture, seconds: float) -> None:
        if self.num_frames == 0:
            self.size = shrunk(frame.size, self.storing.short_side)
            if self.storing.store == "clips":
                self.size = even(self.size)
                self.clip = ClipWriter(self.size, min(filter(None, (self.fps, self.storing.frame_rate)), default=None))
        rate = self.storing.frame_rate
        # A hair's breadth, so that 30 frames per second at a cap of 15 are every second one in spite of rounding.
        if rate is not None and self.seconds and seconds - self.seconds[0] < self.num_frames / rate - 1e-3:
            return
        self.num_frames += 1
        self.seconds.append(seconds)
        picture = frame.rgb(self.size)
        if self.clip is not None:
            self.clip.add(picture, seconds - self.seconds[0])
            return
        self.jpegs.append(encode_jpeg(picture))
        self.num_bytes += len(self.jpegs[-1])
        if self.num_bytes > MAX_STORED_BYTES:
            raise VideoError("is too long to store its frames: cut it, cap --frame_rate, or use --store files")

    def info(self, source: VideoInfo) -> VideoInfo:
        fps = source.fps and source.fps * self.num_frames / source.num_frames
        codec = "h264" if self.clip is not None else "mjpeg"
        return VideoInfo(self.num_frames, fps, source.duration, *self.size, source.num_bad_packets, codec)

    def close(self, path: Path, index: PacketIndex | None) -> Pictures:
        if self.clip is None:
            return Pictures(frames=self.jpegs)
        video = self.clip.close()
        return Pictures(video=video, packet_index=_packed(index_video(video)))


def _packed(index: PacketIndex | None) -> bytes | None:
    packed = index.to_bytes() if index is not None else b""
    return packed if 0 < len(packed) <= MAX_INDEX_BYTES else None


def _keeper(storing: Storing, fps: float | None) -> _Files | _Frames:
    return _Files(storing.embed) if storing.store == "files" else _Frames(storing, fps)


def _digest(path: Path) -> tuple[str, int]:
    """A digest of the file's bytes (of all its frames, for a folder), and how many they are."""
    if not path.is_dir():
        if (digest := digest_of(path)) is None:
            raise VideoError("could be decoded, but then no longer be read")
        return digest, path.stat().st_size
    # Only regular files: a pipe would block, a device has no end.
    parts = [part for part in frame_paths(path) if os.path.isfile(part)]
    digests = "".join(digest_of(part) or "" for part in parts)
    return hashlib.blake2b(digests.encode(), digest_size=16).hexdigest(), sum(part.stat().st_size for part in parts)
