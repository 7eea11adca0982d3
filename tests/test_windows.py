"""A sliding window over frames that pass once."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from finetune.clips.sampling import Sampling
from finetune.use.windows import Slide, slide_for, sliding_clips


@dataclass
class Shown:
    number: int
    seconds: float | None


def at(*times: float) -> list[Shown]:
    return [Shown(number, time) for number, time in enumerate(times)]


def numbers(frames: list[Shown], slide: Slide, to_the_end: bool = True) -> list[tuple[float, list[int]]]:
    return list(sliding_clips(frames, slide, lambda frame: frame.number, to_the_end))


def test_windows_overlap_and_the_last_frame_fills_what_is_left() -> None:
    slide = Slide(2.0, 1.0, (0.0, 1.0))
    assert numbers(at(0, 1, 2, 3), slide) == [(0, [0, 1]), (1, [1, 2]), (2, [2, 3])]
    assert numbers(at(0, 1, 2, 3, 3.5), slide) == [(0, [0, 1]), (1, [1, 2]), (2, [2, 3])]
    assert numbers(at(0, 1, 2, 3, 4.5), slide)[-1] == (3, [3, 3])
    assert numbers(at(0, 1, 2, 3), slide, to_the_end=False) == [(0, [0, 1]), (1, [1, 2])]


def test_a_video_shorter_than_a_window_is_one_window() -> None:
    assert numbers(at(0, 0.1), Slide(2.0, 1.0, (0.0, 0.5, 1.0, 1.5))) == [(0, [0, 1, 1, 1])]


def test_uneven_times_decide_which_frame_is_shown() -> None:
    assert numbers(at(0, 0.1, 0.9, 2.2), Slide(2.0, 2.0, (0.0, 0.5, 1.0, 1.5)))[0] == (0, [0, 1, 2, 2])


def test_a_whole_video_as_one_window_is_the_clip_that_a_prediction_sees() -> None:
    frames = at(*(number / 30 for number in range(47)))
    for strategy in ("uniform", "dense"):
        sampling = Sampling(strategy, frame_stride=4)
        slide = slide_for(sampling, 8, 30.0, 47 / 30, 47 / 30)
        clips = numbers(frames, slide)
        assert len(clips) == 1
        expected = sampling.evaluation(range(47), 8)[0]
        assert max(abs(a - b) for a, b in zip(clips[0][1], expected)) <= (0 if strategy == "uniform" else 1)


def test_each_wanted_frame_is_converted_once_and_let_go() -> None:
    class Pixels:
        pass

    alive: set[int] = set()
    most = converted = 0

    def picture(frame: Shown) -> Pixels:
        nonlocal most, converted
        converted += 1
        pixels = Pixels()
        alive.add(frame.number)
        weakref.finalize(pixels, alive.discard, frame.number)
        most = max(most, len(alive))
        return pixels

    def endless() -> Iterator[Shown]:
        yield from at(*(number / 10 for number in range(5000)))

    for start, pictures in sliding_clips(endless(), Slide(2.0, 0.5, (0.0, 0.5, 1.0, 1.5)), picture):
        assert len(pictures) == 4, start
        del pictures
    assert converted == 1000 and most <= 8


def test_a_gap_of_hours_costs_no_memory_and_frames_without_times_are_refused() -> None:
    clips = sliding_clips(at(0, 50_000.0), Slide(2.0, 1.0, (0.0, 1.0)), lambda frame: frame.number)
    assert next(clips) == (0, [0, 0])
    assert next(clips) == (1, [0, 0])
    with pytest.raises(ValueError, match="no times"):
        numbers([Shown(0, None)], Slide(2.0, 1.0, (0.0, 1.0)))
