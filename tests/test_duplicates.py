"""Copies of textured videos with moving things, as encoders make them, and videos that only look alike."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from conftest import encode, moving_bar

from data_prep.demo import write_demo_videos
from data_prep.duplicates import Duplicate, find_duplicates, join_groups
from data_prep.fingerprint import SIZE, Fingerprint, decode
from data_prep.name_groups import is_copy_name, name_groups
from data_prep.video import open_video

RATE, HEIGHT, WIDTH = 20, 72, 96


def scene(place: int, motion: int, seconds: float = 3.0) -> np.ndarray:
    """uint8 RGB `(frames, HEIGHT, WIDTH, 3)`: bright and dark things on smooth ways before a textured background."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    random = np.random.default_rng([place, 0])
    picture = np.full((HEIGHT, WIDTH), 110.0)
    for _ in range(8):
        waves = random.uniform(-0.25, 0.25, 2)
        picture += random.uniform(4, 14) * np.sin(waves[0] * x + waves[1] * y + random.uniform(0, 6))
    random = np.random.default_rng([place, motion])
    times = np.arange(round(seconds * RATE)) / RATE
    frames = np.repeat(picture[None], len(times), axis=0)
    for _ in range(4):
        way = random.uniform(0.2, 0.8, 2) * (HEIGHT, WIDTH)
        swing, speed, phase = random.uniform(6, 20, 2), random.uniform(1, 5, 2), random.uniform(0, 6, 2)
        at = way + swing * np.sin(speed * times[:, None] + phase)
        far = np.hypot(y - at[:, :1, None], x - at[:, 1:, None])
        frames += random.choice([-80, 90]) * np.clip(random.uniform(5, 11) - far, 0, 1)
    return np.clip(frames, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=3)


def fingerprint(path: Path) -> bytes:
    taken = Fingerprint()
    with open_video(path) as video:
        for frame in video:
            seconds = frame.index / RATE if frame.seconds is None else frame.seconds
            if taken.wants(seconds):
                taken.add(frame.gray(SIZE), seconds)
    return taken.to_bytes()


def compare(folder: Path, *videos: tuple[np.ndarray, dict]) -> list[tuple[int, int, str]]:
    prints = []
    for number, (frames, options) in enumerate(videos):
        codec = options.get("codec", "libx264")
        suffix = {"mpeg4": "avi", "libvpx-vp9": "webm"}.get(codec, "mp4")
        prints.append(fingerprint(encode(folder / f"{number}.{suffix}", frames, **{"rate": RATE, **options})))
    found = find_duplicates([str(number) for number in range(len(videos))], prints)
    return [(duplicate.first, duplicate.second, duplicate.kind) for duplicate in found]


COPIES = {
    "codec": lambda frames: (frames, {"codec": "mpeg4"}),
    "vp9": lambda frames: (frames, {"codec": "libvpx-vp9"}),
    "half": lambda frames: (frames[:, ::2, ::2], {}),
    "half rate": lambda frames: (frames[::2], {"rate": RATE // 2}),
    "repeated frames": lambda frames: (frames.repeat(2, axis=0), {"rate": 2 * RATE}),
    "brighter": lambda frames: (np.clip(frames * 1.04 + 6, 0, 255).astype(np.uint8), {}),
    "end": lambda frames: (frames[23:], {}),
    "middle": lambda frames: (frames[15:45], {"codec": "mpeg4"}),
    "middle, half rate": lambda frames: (frames[15:45:2], {"rate": RATE // 2}),
}


@pytest.mark.parametrize("change", COPIES)
@pytest.mark.parametrize("mirror", [False, True], ids=["copy", "mirrored"])
def test_finds_copies_and_mirrored_ones(tmp_path: Path, change: str, mirror: bool) -> None:
    frames = scene(1, 1)
    copy, options = COPIES[change](frames[:, :, ::-1] if mirror else frames)
    found = compare(tmp_path, (frames, {}), (scene(1, 2), {}), (copy, options))
    assert found == [(0, 2, "mirrored" if mirror else "copy")]


def test_finds_parts_that_overlap(tmp_path: Path) -> None:
    frames = scene(2, 1, seconds=5)
    assert compare(tmp_path, (frames[:75], {}), (frames[31:], {"codec": "mpeg4"})) == [(0, 1, "copy")]


def test_finds_copies_of_a_video_of_twelve_frames(tmp_path: Path) -> None:
    frames = scene(3, 1, seconds=0.6)
    found = compare(tmp_path, (frames, {}), (frames, {"codec": "mpeg4"}), (frames[:, :, ::-1], {}), (frames[::-1], {}))
    assert found == [(0, 1, "copy"), (0, 2, "mirrored"), (1, 2, "mirrored")]


def test_clips_of_one_place_are_distinct(tmp_path: Path) -> None:
    assert compare(tmp_path, *[(scene(4, motion), {}) for motion in range(1, 13)]) == []


def test_backwards_and_consecutive_are_distinct(tmp_path: Path) -> None:
    frames = scene(5, 1, seconds=6)
    assert compare(tmp_path, (frames[:60], {}), (frames[:60][::-1], {}), (frames[60:], {})) == []


def test_a_symmetrical_scene_is_a_copy(tmp_path: Path) -> None:
    half = scene(6, 1)
    frames = np.concatenate([half[:, :, : WIDTH // 2], half[:, :, : WIDTH // 2][:, :, ::-1]], axis=2)
    assert compare(tmp_path, (frames, {}), (frames[:, :, ::-1], {"codec": "mpeg4"})) == [(0, 1, "copy")]


def test_still_pictures(tmp_path: Path) -> None:
    picture, other, rows = scene(7, 1)[:1], scene(8, 1)[:1], np.full((1, HEIGHT, WIDTH, 3), 16, np.uint8)
    stills = [(frames.repeat(count, axis=0), {}) for frames in (picture, other, rows) for count in (30, 50)]
    stills.append((np.full((30, HEIGHT, WIDTH, 3), 22, np.uint8), {}))  # as empty as `rows`, and brighter
    assert compare(tmp_path, *stills) == [(0, 1, "copy"), (2, 3, "copy"), (4, 5, "copy")]


def test_a_common_black_start_is_no_copy(tmp_path: Path) -> None:
    black = np.zeros((50, HEIGHT, WIDTH, 3), np.uint8)
    videos = [np.concatenate([black, scene(place, 1)]) for place in (9, 10)]
    again = (videos[0], {"codec": "mpeg4"})
    assert compare(tmp_path, (videos[0], {}), (videos[1], {}), again) == [(0, 2, "copy")]


def test_demonstration_and_bars_are_distinct(tmp_path: Path) -> None:
    write_demo_videos(tmp_path / "demo", videos_per_class=4, seed=0)
    for direction in (-1, 1):
        for seed in range(6):
            encode(tmp_path / "bars" / f"{direction}_{seed}.mp4", moving_bar(direction, seed))
    videos = sorted(tmp_path.rglob("*.mp4"))
    assert len(videos) == 36
    assert find_duplicates([path.as_posix() for path in videos], [fingerprint(path) for path in videos]) == []
    again = fingerprint(encode(tmp_path / "again.avi", moving_bar(1, 0), codec="mpeg4"))
    found = find_duplicates(["a", "b"], [fingerprint(tmp_path / "bars" / "1_0.mp4"), again])
    assert [duplicate.kind for duplicate in found] == ["copy"]


def test_identical_files_are_compared_once() -> None:
    calls = []

    def fetch(index: int) -> bytes:
        calls.append(index)
        return Fingerprint().to_bytes()

    found = find_duplicates(["x", "y", "x", "x"], fetch)
    assert found == [Duplicate(0, 2, "identical"), Duplicate(0, 3, "identical")]
    assert set(calls) == {0, 1}
    assert find_duplicates([], []) == []


def synthetic(pictures: np.ndarray) -> bytes:
    taken = Fingerprint()
    for i, picture in enumerate(pictures):
        taken.add(picture, i / 8)
    return taken.to_bytes()


def test_many_alike_do_not_explode_and_hide_nothing() -> None:
    random = np.random.default_rng(0)
    black = [synthetic(np.full((16, SIZE, SIZE), 16 + i % 3, np.uint8)) for i in range(500)]
    frames = random.integers(0, 256, (20, 4, 4), dtype=np.uint8).repeat(SIZE // 4, axis=1).repeat(SIZE // 4, axis=2)
    moving = [synthetic(frames), synthetic(frames[:, :, ::-1])]
    prints = [moving[0], *black, moving[1]]
    start = time.process_time()  # a busy machine must not fail this
    found = find_duplicates([str(i) for i in range(len(prints))], prints)
    assert time.process_time() - start < 30  # 2 s on one core; all pairs would take more than a minute
    assert len(found) <= 12 * len(prints)
    assert Duplicate(0, 501, "mirrored") in found
    groups = join_groups([str(i) for i in range(len(prints))], [None] * len(prints), found)
    assert len(set(groups[1:501])) == 1 and groups[0] == groups[501] != groups[1]
    assert found == find_duplicates([str(i) for i in range(len(prints))], prints)


def test_names_of_cuts_and_copies() -> None:
    groups = {
        "Punch/v_Punch_g01_c01.avi": "Punch/v_Punch_g01",
        "Punch/v_Punch_g01_c02.avi": "Punch/v_Punch_g01",
        "Punch/v_Punch_g01_c02_flip.avi": "Punch/v_Punch_g01",
        "Other/v_Punch_g01_c01.avi": "Other/v_Punch_g01",
        "a/x.mp4": "a/x",
        "a/Copy of x.mp4": "a/x",
        "a/x - Copy.mp4": "a/x",
        "a/x - Copy (2).mp4": "a/x",
        "a/x copy.mov": "a/x",
        "a/x (1).mp4": "a/x",
        "a/x_flipped.mp4": "a/x",
        "a/x_hflip_aug2.MP4": "a/x",
        "b/x (1).mp4": None,  # no x in b: numbered by hand
        "b/x (2).mp4": None,
        "c/y_aug1.mp4": "c/y",  # two variants of one name
        "c/y_mirrored.mp4": "c/y",
        "c/z_flip.mp4": None,  # may be what it shows
        "plain.mp4": None,
        "back_flip.mp4": None,
        "mirror.mp4": None,
    }
    expected = {index: group for index, group in enumerate(groups.values()) if group}
    assert name_groups(list(groups)) == expected


def test_a_numbered_series_is_no_set_of_copies() -> None:
    assert name_groups(["clip.mp4", *[f"clip ({number}).mp4" for number in range(2, 30)]]) == {}


def test_copy_names() -> None:
    assert all(map(is_copy_name, ["a/Copy of x.mp4", "x (1).avi", "x_flip.mp4", "x-aug12.mp4"]))
    assert not any(map(is_copy_name, ["x.mp4", "copy/x.mp4", "a/flip.mp4"]))


def test_join_groups_prefers_given_names_then_originals() -> None:
    ids = ["a/Copy of b.mp4", "b.mp4", "c.mp4", "d.mp4", "e.mp4", "f.mp4"]
    pairs = [Duplicate(0, 1, "copy"), Duplicate(3, 4, "mirrored")]
    assert join_groups(ids, [None] * 6, pairs) == ["b.mp4", "b.mp4", None, "d.mp4", "d.mp4", None]
    given = [None, None, "person 7", None, "person 7", "person 8"]
    joined = join_groups(ids, given, pairs)
    assert joined == ["b.mp4", "b.mp4", "person 7", "person 7", "person 7", "person 8"]
    assert join_groups(ids, given, [*pairs, Duplicate(4, 5, "copy")])[2:] == ["person 7"] * 4
    assert join_groups(ids, [None] * 6, pairs, {1: "hint", 5: "hint"}) == [
        "hint",
        "hint",
        None,
        "d.mp4",
        "d.mp4",
        "hint",
    ]


def test_join_groups_keeps_names_when_copies_are_added() -> None:
    before = join_groups(["m.mp4", "n.mp4"], [None] * 2, [Duplicate(0, 1, "copy")])
    ids = ["Copy of m.mp4", "m.mp4", "m_flip.mp4", "n.mp4"]
    after = join_groups(
        ids, [None] * 4, [Duplicate(0, 1, "identical"), Duplicate(1, 3, "copy"), Duplicate(1, 2, "copy")]
    )
    assert set(after) == set(before) == {"m.mp4"}


def test_decoded_fingerprint_of_a_real_file(tmp_path: Path) -> None:
    samples = decode(fingerprint(encode(tmp_path / "a.mp4", scene(1, 1), rate=RATE)))
    assert samples is not None and samples.length == pytest.approx(3.0, abs=0.1)
