"""finetune.clips.sampling: the frames that each strategy promises, by number and by time."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from test_clip import processor

from data_prep.errors import UserError
from finetune.clips import sampling
from finetune.clips.sampling import (
    Sampling,
    frames_at_rate,
    random_indices,
    uniform_indices,
)


@pytest.mark.parametrize("video_frames", [8, 9, 15, 16, 100, 101, 3001])
def test_uniform_frames_are_those_of_transformers_pipeline(video_frames: int) -> None:
    """The processor samples for the pipeline: a model must see there what it saw here."""
    video = np.arange(video_frames, dtype=np.int64)
    metadata = type("Metadata", (), {"total_num_frames": video_frames, "fps": None})
    expected = video[processor().sample_frames(metadata=metadata, num_frames=8)]
    assert uniform_indices(video_frames, 8) == expected.tolist()


def test_short_videos_repeat_their_last_frame() -> None:
    assert uniform_indices(3, 5) == [0, 1, 2, 2, 2]
    assert random_indices(3, 5, torch.Generator()) == [0, 1, 2, 2, 2]


def test_random_frames_cover_each_segment_and_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = np.array([random_indices(11, 4, generator) for _ in range(500)])
    assert [sorted(set(column)) for column in drawn.T.tolist()] == [[0, 1], [2, 3, 4], [5, 6, 7], [8, 9, 10]]


def test_the_examples_of_the_docstrings_hold() -> None:
    examples = [
        line for name in vars(sampling) for line in re.split("[\n;]", getattr(vars(sampling)[name], "__doc__", "") or "")
        if re.match(r"\s*[a-z_]+\(.*\) == ", line)
    ]  # fmt: skip
    assert len(examples) >= 10
    for example in examples:
        assert eval(example.strip(), vars(sampling)), example


def test_dense_clips_stay_within_the_video_and_reach_all_of_it() -> None:
    generator = torch.Generator().manual_seed(0)
    strategy = Sampling("dense", frame_stride=3)
    clips = np.array([strategy.training(range(20), 4, generator) for _ in range(400)])
    assert (np.diff(clips) == 3).all() and set(clips.flatten()) == set(range(20))
    assert strategy.training(range(5), 4, generator) == [0, 3, 4, 4]


def test_views_of_dense_sampling_are_even_and_one_is_in_the_middle() -> None:
    strategy = Sampling("dense", frame_stride=2)
    assert strategy.evaluation(range(27), 4) == [[10, 12, 14, 16]]
    assert [clip[0] for clip in strategy.evaluation(range(27), 4, num_views=5)] == [0, 5, 10, 15, 20]


def test_views_of_whole_videos_shift_inside_their_segments() -> None:
    """Each frame of a video is seen once when there are as many views as a segment has frames."""
    for strategy in ("uniform", "segments"):
        views = Sampling(strategy).evaluation(range(12), 4, num_views=3)
        assert views == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
        assert Sampling(strategy).evaluation(range(3), 4, num_views=2) == [[0, 1, 2, 2]] * 2
    assert Sampling("uniform").evaluation(range(100), 4, 5)[0] == Sampling("uniform").evaluation(range(100), 4)[0]
    shifted = np.array(Sampling("segments").evaluation(range(100), 4, 2))
    assert shifted.mean(0).round(1).tolist() == [11.5, 36.5, 61.5, 86.5]
    crowded = np.array(Sampling("segments").evaluation(range(8), 4, num_views=5))
    assert (crowded // 2 == np.arange(4)).all()


@pytest.mark.parametrize("rounded", [3, 9])
def test_half_the_rate_is_every_second_frame_in_spite_of_rounded_times(rounded: int) -> None:
    times = [round(number / 30, rounded) for number in range(90)]
    assert frames_at_rate(times, 15) == list(range(0, 90, 2))
    assert frames_at_rate(times, 30) == list(range(90))


def test_a_rate_is_kept_where_the_videos_is_uneven() -> None:
    """Ten frames a second for one second, then two: at 4 a second, five come from the first second."""
    times = [*np.arange(10) / 10, *(1 + np.arange(5) / 2)]
    assert frames_at_rate(times, 4) == [0, 2, 5, 7, 10, 10, 11, 11, 12, 12, 13, 13, 14]
    by_time = Sampling("uniform", target_fps=4)
    assert by_time.evaluation(by_time.frames(15, 5.0, times), 3)[0] == [0, 10, 12]
    with pytest.raises(ValueError, match="no times"):
        by_time.frames(15, None, None)


def test_a_checkpoint_keeps_its_sampling() -> None:
    config = processor()  # anything with attributes
    for strategy in (Sampling(), Sampling("dense", 8, 12.5), Sampling("segments")):
        strategy.write_to(config)
        assert Sampling.read_from(config) == strategy
    assert Sampling.read_from(object()) == Sampling("uniform")


@pytest.mark.parametrize(
    ("name", "value"),
    [("sampling", "all"), ("frame_stride", 0), ("frame_stride", "4"), ("target_fps", 0.0), ("target_fps", "15")],
)
def test_a_checkpoint_with_sampling_that_makes_no_sense_is_refused(name: str, value: object) -> None:
    config = type("Config", (), {f"clip_{name}": value})
    with pytest.raises(UserError, match=f"clip_{name} {value!r}"):
        Sampling.read_from(config)


@pytest.mark.parametrize("times", [[0.0, float("nan"), 1.0], [0.0, 0.5, float("inf")], [0.0, 1.0, 0.5], [0.0, 0.5]])
def test_times_that_cannot_be_are_an_error(times: list[float]) -> None:
    with pytest.raises(ValueError, match="frame_times are not one finite number for each frame"):
        Sampling(target_fps=2).frames(3, 25.0, times)
