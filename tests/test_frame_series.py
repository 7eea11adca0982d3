"""Which images of a folder are the frames of its video."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datasets import load_from_disk
from PIL import Image

from data_prep.errors import UserError
from data_prep.frame_series import choose_series
from data_prep.layouts import find_videos
from data_prep.limits import VideoError
from data_prep.prepare import main
from data_prep.video import probe
from finetune.predict import main as predict


def series(*patterns: str, count: int = 12, first: int = 1) -> list[str]:
    return [pattern.format(number) for pattern in patterns for number in range(first, first + count)]


@pytest.mark.parametrize(
    ("chosen", "beside"),
    [
        ("img_{:05d}.jpg", ["flow_x_{:05d}.jpg", "flow_y_{:05d}.jpg"]),  # denseflow, mmaction2
        ("frame{:06d}.jpg", ["x_{:04d}.jpg", "y_{:04d}.jpg"]),
        ("{:04d}.png", ["u_{:04d}.png", "v_{:04d}.png"]),
        ("{:04d}.jpg", ["{:04d}_mask.png"]),
        ("{}-color.png", ["{}-depth.png"]),
        ("frame-{:06d}.color.jpg", ["frame-{:06d}.depth.png"]),
        ("rgb_{}.png", ["depth_{}.png", "ir_{}.png"]),
        ("IMG_{:04d}.JPG", ["thumb_{:04d}.jpg"]),
        ("shot{:03d}.png", ["shot{:03d}_thumb.png"]),
        ("{:04d}.jpg", ["{:04d}.png"]),
        ("{:04d}.png", ["x_{:04d}.png", "y_{:04d}.png"]),
        ("take2_{:04d}.png", ["flow_x_{:04d}.png"]),
    ],
)
def test_the_series_that_is_named_like_pictures(chosen: str, beside: list[str]) -> None:
    found = choose_series(reversed(series(chosen, *beside)))
    assert found.names == series(chosen) and len(found.left_out) == len(beside)


def test_a_picture_beside_numbered_frames_is_none_of_them() -> None:
    found = choose_series([*series("frame{}.png"), "cover.jpg"])
    assert found.names == series("frame{}.png") and found.left_out == ("cover.jpg",)
    assert choose_series(["b.jpg", "a.jpg"]).names == ["a.jpg", "b.jpg"]
    few = [*series("{:04d}.png"), *series("{:04d}.jpg", count=2)]
    assert choose_series(few).names == series("{:04d}.png"), "two pictures beside all frames"


@pytest.mark.parametrize(
    "names",
    [
        series("x_{}.png"),
        series("flow_x_{}.png"),
        series("depth{}.png"),
        [*series("intro_{:04d}.png"), *series("main_{:04d}.png", first=13)],
        [*series("{:04d}.jpg", count=6), *series("{:04d}.png", first=7)],
        [f"frame_{number:04d}_{number * 0.04:.2f}s.jpg" for number in range(12)],
        [f"2026-01-0{day}_{hour:02d}-{second:02d}.jpg" for day in (1, 2) for hour in (9, 10) for second in (0, 30)],
        [f"f{number:02d}_{code}.jpg" for number, code in enumerate(["a3f", "9be", "77c", "b0"])],
        [f"shot{shot}_{number:03d}.png" for shot in (1, 2) for number in range(5)],
    ],
)
def test_names_that_differ_otherwise_are_one_series(names: list[str]) -> None:
    found = choose_series(names)
    assert sorted(found.names) == sorted(names) and found.left_out == ()


@pytest.mark.parametrize(
    "names",
    [
        series("cam1_{:04d}.png", "cam2_{:04d}.png"),
        series("left_{}.jpg", "right_{}.jpg"),
        series("img_{}.jpg", "rgb_{}.jpg"),
        series("flow_x_{}.jpg", "flow_y_{}.jpg"),
        [*series("{}.png", count=4), *series("{}.bmp", count=4, first=3)],
        [*series("img{}.png"), "img01.png"],
    ],
)
def test_what_names_do_not_tell_is_refused_with_what_to_do(names: list[str]) -> None:
    with pytest.raises(VideoError, match="leave one"):
        choose_series(names)


def images(folder: Path, pattern: str, count: int = 12, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for number in range(1, count + 1):
        Image.fromarray(random.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(folder / pattern.format(number))


def rgb_and_flow(root: Path) -> None:
    for label in "ab":
        for number in range(4):
            folder = root / label / f"v{number}"
            images(folder, "img_{:05d}.jpg", seed=ord(label) + 10 * number)
            for pattern in ("flow_x_{:05d}.jpg", "flow_y_{:05d}.jpg"):
                images(folder, pattern, 11)


@pytest.mark.usefixtures("without_charts")
@pytest.mark.parametrize("listed", [False, True])
def test_videos_have_the_frames_of_their_pictures_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], listed: bool
) -> None:
    rgb_and_flow(tmp_path / "raw")
    folders = [f"{label}/v{number}" for label in "ab" for number in range(4)]
    lines = [f"{folder} 12 {'ab'.index(folder[0])}" for folder in folders]  # as mmaction2 lists them
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    source = [str(tmp_path / "list.txt"), "--root", str(tmp_path / "raw")] if listed else [str(tmp_path / "raw")]
    main([source[0], str(tmp_path / "ds"), *source[1:], "--store", "frames", "--num_proc", "1"])
    rows = load_from_disk(str(tmp_path / "ds"))
    assert {row["num_frames"] for split in rows.values() for row in split} == {12}
    said = "8 folders of frames: img_*.jpg is read as the video, flow_x_*.jpg, flow_y_*.jpg left out"
    assert said in capsys.readouterr().out and said in (tmp_path / "ds" / "report.html").read_text()


def test_folders_of_flow_beside_folders_of_pictures_are_no_videos(tmp_path: Path) -> None:
    for name in ("img", "flow_x", "flow_y"):
        for video in ("a/one", "a/two", "b/three", "b/four"):
            images(tmp_path / video / name, "{:05d}.jpg", 3)
    images(tmp_path / "b" / "five" / "depth", "{:05d}.png", 3)  # alone, it is what there is
    found = find_videos(tmp_path)
    assert {video.video_id for video in found.videos} == {"a/one/img", "a/two/img", "b/three/img", "b/four/img", "b/five/depth"}  # fmt: skip
    assert any("a/one/flow_x, a/one/flow_y" in note for note in found.notes)


def test_classes_and_videos_may_be_named_so(tmp_path: Path) -> None:
    for video in ("mask/mask_1", "mask/mask_2", "depth/img_1", "depth/img_2", "depth/u"):
        images(tmp_path / video, "frame{}.jpg", 2)
    assert len(find_videos(tmp_path).videos) == 5


def test_a_folder_is_predicted_by_its_pictures(
    tmp_path: Path, random_checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    images(tmp_path / "alone", "img_{:05d}.jpg")
    images(tmp_path / "both", "img_{:05d}.jpg")
    images(tmp_path / "both", "flow_x_{:05d}.jpg", seed=1)
    images(tmp_path / "cameras", "cam1_{}.jpg")
    images(tmp_path / "cameras", "cam2_{}.jpg")
    assert probe(tmp_path / "both").num_frames == 12
    names = [str(tmp_path / name) for name in ("alone", "both", "cameras")]
    alone, both, cameras = predict([random_checkpoint, *names, "--device", "cpu", "--num_workers", "0"])
    assert alone["predictions"] == both["predictions"]
    assert "1 folder of frames: img_*.jpg is read" in capsys.readouterr().err
    assert "cam1_*.jpg, cam2_*.jpg" in cameras["error"] and "leave one in the folder" in cameras["error"]
    with pytest.raises(UserError, match="leave one in the folder"):
        predict([random_checkpoint, names[2], "--device", "cpu", "--num_workers", "0"])
