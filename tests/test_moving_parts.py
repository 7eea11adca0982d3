"""Clips of one fixed camera: what little moves before the common background tells them apart, and finds their copies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import encode

from data_prep.duplicates import find_duplicates
from data_prep.errors import UserError
from data_prep.fingerprint import SIZE, Fingerprint, decode
from data_prep.prepare import main
from data_prep.same_content import same_content
from data_prep.video import open_video

pytestmark = pytest.mark.usefixtures("without_charts")

RATE, HEIGHT, WIDTH = 12, 90, 160


def room(camera: int = 0) -> np.ndarray:
    """Float `(HEIGHT, WIDTH)`: a smooth background of high contrast."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    random = np.random.default_rng([camera, 9])
    waves = (random.uniform(-0.15, 0.15, (6, 2)), random.uniform(0, 6, 6))
    return 130 + sum(18 * np.sin(a * x + b * y + phase) for (a, b), phase in zip(*waves))


def walk(number: int, size: int, noise: float = 2.0, flicker: float = 0.0, num_frames: int = 36) -> np.ndarray:
    """uint8 RGB frames of a dark block, `size` px of 180 high, that crosses the room on a way of its own."""
    random = np.random.default_rng([number, size])
    tall, broad = max(2, size // 2), max(2, round(size / 4))
    top, speed, x = 8 + 11 * (number % 6), random.uniform(1.5, 3.5) * random.choice([-1, 1]), random.uniform(30, 50)
    x = x if speed > 0 else WIDTH - x
    frames = np.repeat(room()[None], num_frames, axis=0)
    for i, frame in enumerate(frames):
        left = int(np.clip(x + speed * i, 0, WIDTH - broad))
        frame[top : top + tall, left : left + broad] = 15
    frames *= 1 + flicker * np.sin(2 * np.pi * 0.8 * np.arange(num_frames) / RATE)[:, None, None]
    frames += random.normal(0, noise, frames.shape)
    return np.clip(frames, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=3)


def fingerprint(path: Path) -> bytes:
    taken = Fingerprint()
    with open_video(path) as video:
        for frame in video:
            if taken.wants(frame.seconds):
                taken.add(frame.gray(SIZE), frame.seconds)
    return taken.to_bytes()


def taken(path: Path, frames: np.ndarray, **options: object) -> bytes:
    return fingerprint(encode(path, frames, **{"rate": RATE, **options}))


def pairs(prints: list[bytes]) -> list[tuple[int, int, str]]:
    found = find_duplicates([str(number) for number in range(len(prints))], prints)
    return [(one.first, one.second, one.kind) for one in found]


@pytest.mark.parametrize(
    ("size", "flicker"),
    [(16, 0.04), (6, 0.0)]
    + [pytest.param(*one, marks=pytest.mark.slow) for one in [(40, 0.0), (26, 0.04), (10, 0.0), (10, 0.04), (6, 0.04)]],
)
def test_clips_of_one_camera_are_distinct_and_their_copies_are_found(tmp_path: Path, size: int, flicker: float) -> None:
    clips = [walk(number, size, flicker=flicker) for number in range(6)]
    copies = [
        (clips[1][:, :, ::-1], {}, "mirrored"),
        (clips[2][:25], {}, "copy"),
        (clips[3][-25:].repeat(2, axis=0), {"rate": 2 * RATE}, "copy"),
        (np.clip(clips[4] * 1.04 + 4, 0, 255).astype(np.uint8), {}, "copy"),
    ]
    prints = [taken(tmp_path / f"{number}.mkv", frames) for number, frames in enumerate(clips)]
    for a in range(6):
        for b in range(a):
            one, other = decode(prints[a]), decode(prints[b])
            assert same_content(one, other) is None and same_content(one, other.mirrored) is None, (a, b)
    prints += [taken(tmp_path / f"copy{i}.mkv", frames, **options) for i, (frames, options, _) in enumerate(copies)]
    assert pairs(prints) == [(i + 1, i + 6, kind) for i, (_, _, kind) in enumerate(copies)]


def test_noise_alone_is_no_motion(tmp_path: Path) -> None:
    """Nothing moves: the same room is the same content, however noisy; an empty room is no part of a clip in it."""
    still = room()[None].repeat(30, 0).clip(0, 255).astype(np.uint8)[..., None].repeat(3, 3)
    empty = [taken(tmp_path / "a.mkv", still), taken(tmp_path / "b.mkv", noisy(still, 4))]
    assert pairs([*empty, taken(tmp_path / "c.mkv", walk(1, 16))]) == [(0, 1, "copy")]


def noisy(frames: np.ndarray, level: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, level, frames.shape[:3])[..., None]
    return np.clip(frames + noise, 0, 255).astype(np.uint8)


def slide(words: int, typed: int = 0) -> np.ndarray:
    """uint8 RGB `(1, 240, 320, 3)`: a white page with lines of dark words; `typed` of them differ."""
    page = np.full((240, 320), 240, np.uint8)
    random = np.random.default_rng(words)
    for line in range(20, 220, 12):
        for left in range(20, 280, 24):
            if random.random() < 0.6:
                page[line : line + 7, left : left + 18 : 2] = 30
    for word in range(typed):
        page[200:207, 20 + 24 * word : 38 + 24 * word] = 240 - page[200:207, 20 + 24 * word : 38 + 24 * word]
    return page[None, ..., None].repeat(3, 3)


def test_still_slides_of_one_page_are_copies_and_others_are_not(tmp_path: Path) -> None:
    slides = [slide(1), slide(1), slide(2), slide(1, typed=2)]
    options = [{}, {"codec": "mpeg4"}, {}, {}]
    prints = [taken(tmp_path / f"{i}.mkv", one.repeat(24 + 6 * i, 0), **more) for i, (one, more) in enumerate(zip(slides, options))]  # fmt: skip
    assert pairs(prints) == [(0, 1, "copy")]


def screen(line: int, start: int) -> np.ndarray:
    """uint8 RGB frames of a page on which words appear one after another."""
    frames = slide(3).repeat(36, 0)
    for number in range(8):
        frames[start + 2 * number :, line : line + 7, 20 + 20 * number : 34 + 20 * number] = 60
    return frames


def test_screen_recordings_of_one_page_are_distinct(tmp_path: Path) -> None:
    screens = [screen(line, start) for line, start in ((32, 4), (56, 15), (92, 4), (152, 9), (212, 4))]
    prints = [taken(tmp_path / f"{i}.mkv", frames) for i, frames in enumerate(screens)]
    prints.append(taken(tmp_path / "copy.mkv", screens[3], codec="mpeg4"))
    assert pairs(prints) == [(3, 5, "copy")]


def test_what_is_refused_for_shared_content_names_the_flag_that_keeps_it(tmp_path: Path) -> None:
    """Two still clips of one empty room, under two labels: nothing can tell them apart but the person who made them."""
    still = room()[None].repeat(20, 0).clip(0, 255).astype(np.uint8)[..., None].repeat(3, 3)
    for label, noise in (("door", 2), ("window", 3)):
        encode(tmp_path / "videos" / label / "empty.mp4", noisy(still, noise), rate=RATE)
    command = [str(tmp_path / "videos"), str(tmp_path / "out"), "--num_proc", "1", "--splits", "1", "0", "0"]
    with pytest.raises(UserError, match="--no_duplicates"):
        main(command)
    assert main([*command, "--no_duplicates"])["accepted"] == 2


def test_groups_of_shared_content_that_leave_nothing_to_split_name_the_flag_too(tmp_path: Path) -> None:
    for camera, label in enumerate(("door", "window")):
        still = room(camera)[None].repeat(20, 0).clip(0, 255).astype(np.uint8)[..., None].repeat(3, 3)
        for number in range(3):
            encode(tmp_path / "videos" / label / f"{number}.mp4", noisy(still, 2 + number), rate=RATE)
    command = [str(tmp_path / "videos"), str(tmp_path / "out"), "--num_proc", "1", "--splits", "0.4", "0.3", "0.3"]
    with pytest.raises(UserError, match="--no_duplicates"):
        main(command)
    assert main([*command, "--no_duplicates"])["splits"] == {"train": 2, "validation": 2, "test": 2}
