"""data_prep.demo: real videos in which no still picture tells the class."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from data_prep.demo import CLASSES, NUM_FRAMES, SIZE, draw_motion, write_demo_videos
from data_prep.errors import UserError
from data_prep.video import probe


def test_files_are_h264_with_every_frame_and_the_seed_decides(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_demo_videos(tmp_path / name, videos_per_class=1, seed=seed)
    files = sorted((tmp_path / "a").glob("*/*.mp4"))
    assert [path.parent.name for path in files] == sorted(CLASSES) and len(CLASSES) >= 6
    for path in files:
        info = probe(path)
        assert (info.num_frames, info.height, info.width) == (NUM_FRAMES, SIZE, SIZE)
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.name == "h264"
        name = path.relative_to(tmp_path / "a")
        assert path.read_bytes() == (tmp_path / "b" / name).read_bytes() != (tmp_path / "c" / name).read_bytes()


@pytest.mark.parametrize(
    ("forwards", "backwards"),
    [("moving_right", "moving_left"), ("turning_clockwise", "turning_counterclockwise"), ("growing", "shrinking")],
)
def test_a_class_is_its_opposite_played_backwards(forwards: str, backwards: str) -> None:
    """So the two have the same still pictures, and only the order tells them apart."""
    one = np.stack(list(draw_motion(forwards, np.random.default_rng(3)))).astype(float)
    other = np.stack(list(draw_motion(backwards, np.random.default_rng(3)))).astype(float)
    assert (abs(one[::-1] - other) > 60).mean() == 0  # noise of std 6 apart, they are the same
    assert (abs(one - other) > 60).mean() > 0.002


def test_a_picture_taken_at_random_looks_the_same_in_every_class() -> None:
    """Mean picture and brightness over many videos agree between classes, within what chance gives."""
    random = np.random.default_rng(0)
    means = []
    for index, label in enumerate(CLASSES):
        pictures = []
        for number in range(300):
            frames = draw_motion(label, np.random.default_rng([index, number]))
            picture = next(islice(frames, random.integers(NUM_FRAMES), None))
            pictures.append(picture.astype(float).mean(2).reshape(8, 8, 8, 8).mean((1, 3)))
        means.append(np.mean(pictures, 0))
    spread = np.std(pictures, 0) / np.sqrt(300)
    z = (np.array(means) - np.mean(means, 0)) / spread
    assert abs(z).max() < 4.5


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="not empty"):
        write_demo_videos(tmp_path, 1, 0)
