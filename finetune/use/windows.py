"""Clips of a sliding window over frames that pass by once: what is kept is what open windows wait for, however long it takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from finetune.clips.sampling import Sampling

T = TypeVar("T")


@dataclass(frozen=True)
class Slide:
    """A window of `window_seconds` every `stride_seconds`, and the instants in it (s from its start) a clip is taken at."""

    window_seconds: float
    stride_seconds: float
    instants: tuple[float, ...]


def slide_for(sampling: Sampling, num_frames: int, fps: float, window_seconds: float, stride_seconds: float) -> Slide:
    """As the model was trained to see: `uniform` the start of equal parts of the window, `segments` their middle,
    `dense` frames as far apart as in training (of a video of `fps`, 1/s), in the middle of the window.
    """
    if sampling.strategy == "dense":
        apart = sampling.frame_stride / (sampling.target_fps or fps)
        first = (window_seconds - (num_frames - 1) * apart) / 2
    else:
        apart = window_seconds / num_frames
        first = apart / 2 if sampling.strategy == "segments" else 0.0
    return Slide(window_seconds, stride_seconds, tuple(max(0.0, first + i * apart) for i in range(num_frames)))


@dataclass
class _Open:
    number: int
    pictures: list[Any] = field(default_factory=list)


def sliding_clips(
    frames: Iterable[Any], slide: Slide, picture: Callable[[Any], T], to_the_end: bool = True
) -> Iterator[tuple[float, list[T]]]:
    """(start in s, pictures) of each window, in order. A frame is shown from its `seconds` until the next one's.

    `picture` is called at most once for a frame, and only for one that a window needs. Windows begin at 0, one stride
    apart. Where the frames end, those still needed to cover what is left repeat the last one, if `to_the_end`.
    Raises `ValueError` where a frame has no time.

    Frames at 0, 1, 2, 3 s, a window of 2 s every 1 s, instants 0 and 1: (0, [0, 1]), (1, [1, 2]), (2, [2, 3]).
    """
    passing = _Passing(slide, picture)
    for frame in frames:
        if frame.seconds is None:
            raise ValueError("its frames have no times")
        yield from passing.until(frame.seconds)
        passing.show(frame)
    if to_the_end:
        yield from passing.finish()


class _Passing:
    # Containers round times to a millisecond: without this, a frame wanted at its own time would come one late.
    HAIR = 1e-3

    def __init__(self, slide: Slide, picture: Callable[[Any], Any]):
        self.slide, self.picture = slide, picture
        self.open: deque[_Open] = deque()
        self.num_opened, self.covered, self.now = 0, 0.0, 0.0
        self.frame: Any = None
        self.taken: Any = None  # of `frame`

    def show(self, frame: Any) -> None:
        self.frame, self.taken, self.now = frame, None, frame.seconds

    def until(self, seconds: float) -> Iterator[tuple[float, list[Any]]]:
        """Takes the frame that is shown for all that is wanted before `seconds`; gives the windows that this completes."""
        if self.frame is None:
            return
        for window in self.open:
            self._fill(window, seconds)
        yield from self._close_full()
        while self.num_opened * self.slide.stride_seconds + self.slide.instants[0] < seconds - self.HAIR:
            self.open.append(_Open(self.num_opened))
            self.num_opened += 1
            self._fill(self.open[-1], seconds)
            yield from self._close_full()  # here, because a frame may be shown for hours

    def _fill(self, window: _Open, seconds: float) -> None:
        start, instants = window.number * self.slide.stride_seconds, self.slide.instants
        while len(window.pictures) < len(instants) and start + instants[len(window.pictures)] < seconds - self.HAIR:
            if self.taken is None:
                self.taken = self.picture(self.frame)
            window.pictures.append(self.taken)

    def _close_full(self) -> Iterator[tuple[float, list[Any]]]:
        while self.open and len(self.open[0].pictures) == len(self.slide.instants):
            yield self._close()

    def _close(self) -> tuple[float, list[Any]]:
        window = self.open.popleft()
        start = window.number * self.slide.stride_seconds
        self.covered = start + self.slide.window_seconds
        return start, window.pictures

    def finish(self) -> Iterator[tuple[float, list[Any]]]:
        # One hair later, the last frame is shown; it has a length, which nothing tells.
        yield from self.until(self.now + 2 * self.HAIR)
        while self.open and self.covered <= self.now + self.HAIR:
            self._fill(self.open[0], float("inf"))
            yield self._close()
