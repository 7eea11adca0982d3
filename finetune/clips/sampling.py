"""Which frames make a clip: pure functions of numbers.

Frames are chosen from a list of frame numbers, which is all of a video's frames, or those that are shown at `target_fps`
instants a second. Randomness comes as a generator, so a clip is a function of (seed, epoch, video).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.errors import UserError

if TYPE_CHECKING:
    import torch

STRATEGIES = ("uniform", "segments", "dense")
MAX_TARGET_FPS = 1000


def uniform_indices(video_frames: int, num_frames: int, view: int = 0, num_views: int = 1) -> list[int]:
    """First frame of each of `num_frames` equal segments of the whole video, as transformers' pipeline takes them.

    Of several views, the first frame of part number `view` of `num_views` equal parts of each segment. A video shorter
    than the clip repeats its last frame, as the authors' code does.

    uniform_indices(100, 4) == [0, 25, 50, 75]
    uniform_indices(100, 4, 1, 2) == [12, 37, 62, 87]
    uniform_indices(3, 5) == [0, 1, 2, 2, 2]
    """
    if video_frames < num_frames:
        return [min(i, video_frames - 1) for i in range(num_frames)]
    bounds = [i * video_frames // num_frames for i in range(num_frames + 1)]
    return [start + view * (end - start) // num_views for start, end in zip(bounds, bounds[1:])]


def centre_indices(video_frames: int, num_frames: int, view: int = 0, num_views: int = 1) -> list[int]:
    """Middle frame of each of `num_frames` equal segments (TSN, arXiv 1608.00859, its test protocol).

    Of several views, the middle frame of part number `view` of `num_views` equal parts of each segment.

    centre_indices(100, 4) == [12, 37, 62, 87]
    centre_indices(100, 4, 1, 2) == [18, 43, 68, 93]
    centre_indices(3, 5) == [0, 1, 2, 2, 2]
    """
    starts = uniform_indices(video_frames, num_frames)
    if video_frames < num_frames:
        return starts
    ends = [*starts[1:], video_frames]
    odd = 2 * view + 1  # middles of the parts are at odd multiples of half a part
    return [start + max(0, odd * (end - start) - num_views) // (2 * num_views) for start, end in zip(starts, ends)]


def random_indices(video_frames: int, num_frames: int, generator: torch.Generator) -> list[int]:
    """A random frame of each of `num_frames` equal segments of the whole video (TSN, arXiv 1608.00859, section 3.1).

    The first frame of each segment is what `uniform_indices` gives; short videos are treated as there.
    """
    starts = uniform_indices(video_frames, num_frames)
    if video_frames < num_frames:
        return starts
    ends = [*starts[1:], video_frames]
    return [_draw(start, end, generator) for start, end in zip(starts, ends)]


def _draw(low: int, high: int, generator: torch.Generator) -> int:
    """From `low` up to `high`, without it."""
    import torch  # takes seconds, which the processes that read for a prediction, and draw nothing, do without

    return int(torch.randint(low, high, (1,), generator=generator))


def dense_indices(video_frames: int, num_frames: int, frame_stride: int, start: int) -> list[int]:
    """`num_frames` frames, `frame_stride` apart, from `start`; the last frame repeats where the video ends.

    dense_indices(10, 4, 3, 2) == [2, 5, 8, 9]
    """
    return [min(start + i * frame_stride, video_frames - 1) for i in range(num_frames)]


def last_start(video_frames: int, num_frames: int, frame_stride: int) -> int:
    """The last start from which a dense clip lies within the video; 0 where none does.

    last_start(10, 4, 3) == 0; last_start(100, 8, 4) == 71
    """
    return max(0, video_frames - (num_frames - 1) * frame_stride - 1)


def view_starts(last: int, num_views: int) -> list[int]:
    """Starts of `num_views` dense clips, evenly from 0 to `last`; a single one in the middle.

    view_starts(90, 1) == [45]; view_starts(90, 4) == [0, 30, 60, 90]
    """
    if num_views == 1:
        return [last // 2]
    return [round(i * last / (num_views - 1)) for i in range(num_views)]


def frames_at_rate(times: Sequence[float], target_fps: float) -> list[int]:
    """The frame that is shown at each of 0, 1, 2, ... / `target_fps` s, up to the last frame's `times` (s since frame 0).

    Right for variable rates; a frame is shown until the next one. Repeats frames where the video is slower.

    frames_at_rate([0, 0.1, 0.2, 0.3, 0.4], 5) == [0, 2, 4]
    frames_at_rate([0, 0.1, 0.9], 5) == [0, 1, 1, 1, 1]
    frames_at_rate([0, 0.5], 4) == [0, 0, 1]
    """
    # Containers round times to a millisecond: without this, every third frame of 30 a second would come one late.
    hair = min(1e-3, 0.1 / target_fps)
    instants = np.arange(int((times[-1] + hair) * target_fps) + 1) / target_fps
    shown: list[int] = (np.searchsorted(np.asarray(times), instants + hair, side="right") - 1).tolist()
    return shown


@dataclass(frozen=True)
class Sampling:
    """How clips are taken, in training and in evaluation; part of what a checkpoint has learned, so saved with it.

    `uniform`: a random frame of each of equal segments; in evaluation the first, as transformers' pipeline does.
    `segments`: likewise, in evaluation the middle one. `dense`: frames `frame_stride` apart, from a random start; in
    evaluation from the middle, or from evenly placed starts. With `target_fps` (1/s) frames are counted at that rate.
    """

    strategy: str = "uniform"
    frame_stride: int = 1
    target_fps: float | None = None

    def training(self, frames: Sequence[int], num_frames: int, generator: torch.Generator) -> list[int]:
        """One clip, chosen from `frames`."""
        if self.strategy == "dense":
            last = last_start(len(frames), num_frames, self.frame_stride)
            start = _draw(0, last + 1, generator)
            chosen = dense_indices(len(frames), num_frames, self.frame_stride, start)
        else:
            chosen = random_indices(len(frames), num_frames, generator)
        return [frames[i] for i in chosen]

    def evaluation(self, frames: Sequence[int], num_frames: int, num_views: int = 1) -> list[list[int]]:
        """`num_views` clips chosen from `frames`: from evenly placed starts of a dense sampling; of the others, which see
        the whole video, from evenly placed parts of each segment (some repeat where segments are shorter than that).
        """
        if self.strategy == "dense":
            starts = view_starts(last_start(len(frames), num_frames, self.frame_stride), num_views)
            clips = [dense_indices(len(frames), num_frames, self.frame_stride, start) for start in starts]
        else:
            take = centre_indices if self.strategy == "segments" else uniform_indices
            clips = [take(len(frames), num_frames, view, num_views) for view in range(num_views)]
        return [[frames[i] for i in clip] for clip in clips]

    def frames(self, num_frames: int, fps: float | None, times: Sequence[float] | None) -> Sequence[int]:
        """The frame numbers to choose from, of a video of `num_frames` at `fps` (1/s), or at `times` (s) where uneven.

        Raises `ValueError` where `target_fps` is set and the video's times are not known.
        """
        if self.target_fps is None:
            return range(num_frames)
        if times is None and not fps:
            raise ValueError("its frames have no times")
        if times is not None and not (
            len(times) == num_frames and np.isfinite(times).all() and (np.diff(times) >= 0).all()
        ):
            raise ValueError("its frame_times are not one finite number for each frame, in rising order")
        return frames_at_rate(times or [number / (fps or 1) for number in range(num_frames)], self.target_fps)

    @property
    def is_the_pipelines(self) -> bool:
        """Whether transformers' pipeline takes the same frames of a video."""
        return self.strategy == "uniform" and self.target_fps is None

    def write_to(self, config: Any) -> None:
        """Into a model's config."""
        config.clip_sampling, config.clip_frame_stride = self.strategy, self.frame_stride
        config.clip_target_fps = self.target_fps

    @classmethod
    def read_from(cls, config: Any) -> Sampling:
        """Of a model's config, which somebody else may have written; uniform where it does not say. Raises `UserError`."""
        strategy, stride = getattr(config, "clip_sampling", "uniform"), getattr(config, "clip_frame_stride", 1)
        fps = getattr(config, "clip_target_fps", None)
        known_rate = fps is None or (isinstance(fps, (int, float)) and 0 < fps <= MAX_TARGET_FPS)
        if strategy not in STRATEGIES or not isinstance(stride, int) or stride < 1 or not known_rate:
            raise UserError(
                f"the model's config.json has clip_sampling {strategy!r}, clip_frame_stride {stride!r} and clip_target_fps {fps!r}, "
                f"expected one of {', '.join(STRATEGIES)}, a whole number from 1, and null or frames per second up to {MAX_TARGET_FPS}."
            )
        return cls(strategy, stride, fps)

    def in_training(self) -> str:
        """In words, for a card."""
        if self.strategy == "dense":
            return f"frames {self.frame_stride} apart from a random start{self._rate()}"
        return f"a random frame of each segment{self._rate()}"

    def in_evaluation(self, num_frames: int, num_views: int = 1) -> str:
        """In words, for a card."""
        if self.strategy == "dense":
            where = "from the middle of the video" if num_views == 1 else f"from {num_views} evenly placed starts"
            return f"{num_frames} frames, {self.frame_stride} apart, {where}{self._rate()}"
        which = "middle one" if self.strategy == "segments" else "first"
        words = f"{num_frames} frames, the {which} of each of {num_frames} equal segments of the whole video"
        return words + (", shifted within them from clip to clip" if num_views > 1 else "") + self._rate()

    def _rate(self) -> str:
        return f", counted at {self.target_fps:g} frames per second" if self.target_fps else ""
