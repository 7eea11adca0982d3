"""One clip of a file that nothing is known of, decoded once where its container says rightly how many frames it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from data_prep.limits import MAX_FRAMES
from data_prep.measure import Measure, VideoInfo
from data_prep.video import Source, open_video, read_frames

# Frame numbers of a clip, of a video with so many frames, at so many per second, at these times where they are uneven.
Choose = Callable[[int, float | None, Sequence[float] | None], Sequence[int]]


def probe_and_read(source: Source, choose: Choose) -> tuple[VideoInfo, np.ndarray]:
    """What is really in the file, and the frames that `choose` picks of that: uint8 RGB `(frames, height, width, 3)`.

    The frames it would pick if the container's claims were true are kept as they pass; those that it picks in the end
    and that were not kept, of a file that claims wrongly, are read in a second pass. Raises `VideoError`.
    """
    kept: dict[int, np.ndarray] = {}
    with open_video(source) as video:
        claimed, rate = getattr(video, "claimed_frames", len(getattr(video, "paths", ()))), video.fps
        guessed = _guess(choose, claimed, rate)
        measure, size = Measure(video), (0, 0)
        for frame in video:
            size = size if measure.num_frames else frame.size
            measure.add(frame)
            if frame.index in guessed:
                kept[frame.index] = frame.rgb(size)
        info = measure.info()
    wanted = list(choose(info.num_frames, info.fps, measure.frame_times(info.fps)))
    if not kept.keys() >= set(wanted):
        return info, read_frames(source, wanted)
    return info, np.stack([kept[number] for number in wanted])


def _guess(choose: Choose, claimed: int, rate: float | None) -> frozenset[int]:
    if not 2 <= claimed <= MAX_FRAMES:
        return frozenset()
    try:
        return frozenset(choose(claimed, rate, None))
    except ValueError:  # it needs times
        return frozenset()
