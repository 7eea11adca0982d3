"""What one pass over a video's frames tells: how many, how large, how fast, and which of them belong to a span."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_prep.frame import Frame
from data_prep.images import FrameFolder, Picture
from data_prep.labeled import Span
from data_prep.limits import MAX_BAD_PACKETS, MAX_FRAME_RATE, MAX_FRAMES, VideoError

if TYPE_CHECKING:
    from data_prep.video import VideoFile

MAX_DURATION_SECONDS = 24 * 3600.0


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


def irregular_times(seconds: Sequence[float], fps: float | None) -> list[float] | None:
    """Times in s since the first frame, where they are not those of a constant `fps` (1/s) to a quarter of a frame.

    irregular_times([2.0, 2.1, 2.2], 10) is None
    irregular_times([0, 0.1, 0.5], 4) == [0, 0.1, 0.5]
    """
    if not fps:
        return None
    times = [second - seconds[0] for second in seconds]
    if all(abs(time * fps - number) <= 0.25 for number, time in enumerate(times)):
        return None
    return times


class Measure:
    """Adds up what the frames of one pass tell."""

    def __init__(self, video: VideoFile | FrameFolder):
        self.video = video
        self.num_frames = self.first_frame = 0
        self.size = (0, 0)
        self.seconds: list[float] = []  # of frames whose time is known

    def add(self, frame: Frame | Picture) -> None:
        if self.num_frames == 0:
            self.size, self.first_frame = frame.size, frame.index
            self._first_pts = max(0, len(getattr(self.video, "pts", ())) - 1)
        if self.num_frames == MAX_FRAMES:
            raise VideoError(f"has more than {MAX_FRAMES} frames")
        self.num_frames += 1
        if frame.seconds is not None:
            self.seconds.append(frame.seconds)

    def frame_times(self, fps: float | None) -> list[float] | None:
        """See `irregular_times`; None also where not every frame's time is known."""
        return irregular_times(self.seconds, fps) if len(self.seconds) == self.num_frames else None

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
        where timestamps start again in mid-stream, and then they repeat. An AVI's timestamps are its header's claim.
        """
        if isinstance(self.video, FrameFolder):
            return None
        pts = self.video.pts[self._first_pts : self._first_pts + self.num_frames]
        time_base = self.video.stream.time_base
        if len(set(pts)) == self.num_frames and time_base:
            span = float((max(pts) - min(pts)) * time_base)
            if span > 0 and (self.num_frames - 1) / span <= MAX_FRAME_RATE:
                return (self.num_frames - 1) / span
        return self.video.fps
