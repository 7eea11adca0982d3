"""python -m data_prep: the whole command, on real files."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from conftest import gray_ramp

from data_prep.__main__ import main
from data_prep.errors import UserError, exit_cleanly
from data_prep.layouts import LabeledVideo
from data_prep.scan import scan_videos
from data_prep.video import decode_jpeg, read_frames


def run(*arguments: object) -> dict:
    return main([*map(str, arguments), "--num_proc", "1"])


def test_a_folder_becomes_a_dataset_with_the_schema(bars: Path, bars_dataset: Path) -> None:
    splits = datasets.load_from_disk(str(bars_dataset))
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 24, "validation": 8, "test": 8}
    row = splits["train"][0]
    assert row["video"] == {"bytes": None, "path": str((bars / row["video_id"]).resolve())}
    assert (row["num_frames"], row["height"], row["width"]) == (10, 48, 48)
    assert row["fps"] == pytest.approx(10) and row["duration"] == pytest.approx(1)
    assert splits["test"].features["video"] == datasets.Video(decode=False)
    assert splits["test"].features["label"].names == ["left", "right"]
    ids = [video_id for rows in splits.values() for video_id in rows["video_id"]]
    assert len(set(ids)) == len(ids) == 40
    summary = json.loads((bars_dataset / "summary.json").read_text())
    assert summary["videos"]["train"] == {"left": 12, "right": 12}
    assert summary["rejected"] == 0


def test_stored_frames_are_the_videos_frames(bars: Path, tmp_path: Path) -> None:
    run(bars, tmp_path / "out", "--store", "frames", "--short_side", 24)
    rows = datasets.load_from_disk(str(tmp_path / "out"))["train"]
    row = rows[0]
    assert (len(row["frames"]), row["num_frames"], row["height"], row["width"]) == (10, 10, 24, 24)
    stored = np.stack([decode_jpeg(frame) for frame in row["frames"]]).astype(float)
    original = read_frames(bars / row["video_id"], range(10)).astype(float)
    assert abs(stored - original.reshape(10, 24, 2, 24, 2, 3).mean((2, 4))).mean() < 6


def test_broken_videos_are_rejected_with_a_reason_and_the_rest_goes_on(
    tmp_path: Path, write_video: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for label in ("run", "jump", "gone"):
        for number in range(3 if label != "gone" else 0):
            write_video(tmp_path / "in" / label / f"{number}.mp4", gray_ramp())
    (tmp_path / "in" / "run" / "broken.mp4").write_bytes(b"\x00" * 99)
    (tmp_path / "in" / "gone").mkdir()
    (tmp_path / "in" / "gone" / "a,\n.mp4").write_bytes(b"")
    (tmp_path / "in" / "run" / "\udcff.mp4").write_bytes((tmp_path / "in" / "run" / "0.mp4").read_bytes())
    (tmp_path / "in" / "run" / "notes.txt").write_text("no video")
    summary = run(tmp_path / "in", tmp_path / "out")
    with (tmp_path / "out" / "rejected.csv").open(newline="", encoding="utf-8") as file:
        rejected = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert list(rejected) == ["run/\\udcff.mp4", "gone/a,\n.mp4", "run/broken.mp4"]
    assert rejected["gone/a,\n.mp4"] == "is empty"
    assert "not UTF-8" in rejected["run/\\udcff.mp4"]
    assert summary["rejected"] == 3 and summary["accepted"] == 6
    assert "other files, not read: 1 .txt" in summary["notes"]
    assert "class 'gone' is gone: all its videos were rejected" in summary["notes"]
    assert datasets.load_from_disk(str(tmp_path / "out"))["train"].features["label"].names == ["jump", "run"]
    labels = datasets.load_from_disk(str(tmp_path / "out"))["train"]
    assert {(video_id.split("/")[0], label) for video_id, label in zip(labels["video_id"], labels["label"])} == {("jump", 0), ("run", 1)}  # fmt: skip
    assert "\n.mp4" not in capsys.readouterr().out


def test_numbered_classes_are_in_the_order_of_numbers(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    for label in ("2", "10", "1"):
        for number in range(3):
            write_video(tmp_path / "in" / label / f"{number}.mp4", gray_ramp(3))
    run(tmp_path / "in", tmp_path / "out")
    assert datasets.load_from_disk(str(tmp_path / "out"))["train"].features["label"].names == ["1", "2", "10"]


@pytest.fixture
def two_classes(tmp_path: Path, write_video: Callable[..., Path]) -> Path:
    for label in ("run", "jump"):
        for number in range(3):
            write_video(tmp_path / "videos" / label / f"{number}.mp4", gray_ramp(3))
    return tmp_path / "videos"


def test_an_output_is_only_replaced_when_it_is_ours_and_that_was_asked(two_classes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(two_classes, out)
    with pytest.raises(UserError, match="pass --overwrite"):
        run(two_classes, out)
    run(two_classes, out, "--overwrite", "--seed", 3)
    assert json.loads((out / "summary.json").read_text())["seed"] == 3
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="was not written by data_prep"):
        run(two_classes, tmp_path / "mine", "--overwrite")
    with pytest.raises(UserError, match="lie in one another"):
        run(two_classes, two_classes / "out")
    (tmp_path / "mine" / "summary.json").write_text("{}")
    with pytest.raises(UserError, match="was not written by data_prep"):
        run(two_classes, tmp_path / "mine", "--overwrite")
    (out / "notes").mkdir()
    with pytest.raises(UserError, match="was not written by data_prep"):
        run(two_classes, out, "--overwrite")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out", "videos"]


def test_a_failed_run_leaves_nothing_behind(two_classes: Path, tmp_path: Path) -> None:
    for path in (two_classes / "run").iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(UserError, match="one class"):
        run(two_classes, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]


def test_videos_are_never_overwritten_by_their_dataset(two_classes: Path, tmp_path: Path) -> None:
    """Through links or a CSV with a root, the videos may lie in DATASET without being below VIDEOS."""
    run(two_classes, tmp_path / "out")
    for label in ("run", "jump"):
        (two_classes / label).rename(tmp_path / "out" / "train" / label)
        (two_classes / label).symlink_to(tmp_path / "out" / "train" / label)
    with pytest.raises(UserError, match="lies in DATASET"):
        run(two_classes, tmp_path / "out", "--overwrite")
    assert len(list((tmp_path / "out" / "train").glob("*/*.mp4"))) == 6


def test_when_every_video_is_broken_the_reason_is_said(two_classes: Path, tmp_path: Path) -> None:
    for path in two_classes.glob("*/*"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 6 videos .* run/2.mp4: is empty"):
        run(two_classes, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]


def start(videos: Path, dataset: Path, num_proc: int, until: str) -> subprocess.Popen[str]:
    """The command, at work in a process of its own: its progress has shown `until`."""
    command = [sys.executable, "-m", "data_prep", str(videos), str(dataset), "--num_proc", str(num_proc)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, bufsize=1)
    assert process.stderr is not None
    shown = ""
    while until not in shown:
        read = process.stderr.read(10)
        assert read, f"ended before it showed {until!r}: {shown}"
        shown += read
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stderr is not None
    process.stderr.close()


def test_workers_end_with_a_killed_parent(two_classes: Path, tmp_path: Path, write_video: Callable[..., Path]) -> None:
    for number in range(100):
        write_video(two_classes / "run" / f"more{number}.mp4", gray_ramp(3))
    process = start(two_classes, tmp_path / "out", num_proc=2, until=" 1/106")
    children = [
        int(line.split("/")[2]) for line in map(str, Path("/proc").glob("[0-9]*")) if _parent(line) == process.pid
    ]
    kill(process)
    assert children
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}/cmdline").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [child for child in children if Path(f"/proc/{child}/cmdline").exists()]


def _parent(folder: str) -> int:
    try:
        return int(Path(folder, "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_a_killed_run_leaves_no_dataset(two_classes: Path, tmp_path: Path, write_video: Callable[..., Path]) -> None:
    for number in range(200):
        write_video(two_classes / "run" / f"more{number}.mp4", gray_ramp(3))
    kill(start(two_classes, tmp_path / "out", num_proc=1, until="decoding"))
    assert not (tmp_path / "out").exists()
    run(two_classes, tmp_path / "out")
    assert (tmp_path / "out" / "summary.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{root}/none", "{root}/out"], "error: .*none does not exist"),
        (["{root}/videos", "{root}/out", "--splits", "0.5", "0.2", "0.2"], "error: --splits 0.5 0.2 0.2: expected"),
        (["{root}/videos/run", "{root}/out"], "error: no usable videos"),
        (["{root}/videos", "{root}/out", "--group_by", "(run|jump)"], "class 'jump' has 1 group, fewer than the 3"),
    ],
)
def test_a_users_error_is_one_line_and_code_2(
    two_classes: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = exit_cleanly(main)([argument.format(root=tmp_path) for argument in arguments] + ["--num_proc", "1"])
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert code == 2
    assert len(errors) == 1
    import re

    assert re.search(message, errors[0])


def test_results_do_not_depend_on_the_number_of_processes(bars: Path) -> None:
    videos = [LabeledVideo(path, path.name, "x") for path in sorted(bars.glob("*/*.mp4"))][:30]
    one = [result.info for result in scan_videos(videos, num_proc=1, short_side=None)]
    two = [result.info for result in scan_videos(videos, num_proc=2, short_side=None)]
    assert one == two and len(one) == 30 and None not in one


def _die_on_poison(path: Path, short_side: int | None) -> object:
    from data_prep.video import probe

    if path.name == "poison.mp4":
        os.kill(os.getpid(), signal.SIGKILL)
    return probe(path), []


def test_a_video_that_kills_its_process_is_rejected_and_the_others_are_not(
    bars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel kills a worker (out of memory): stood in for by a worker that kills itself on one file."""
    monkeypatch.setattr("data_prep.scan._scan_one", _die_on_poison)
    paths = [*sorted(bars.glob("left/*.mp4")), tmp_path / "poison.mp4", *sorted(bars.glob("right/*.mp4"))]
    results = list(scan_videos([LabeledVideo(path, path.name, "x") for path in paths], num_proc=2, short_side=None))
    assert [result.video.path for result in results] == paths
    assert [result.video.path.name for result in results if result.info is None] == ["poison.mp4"]
    assert "killed its process" in next(result.reason for result in results if result.info is None)


def test_the_command_needs_no_torch() -> None:
    """data_prep is usable, and its workers start, without importing torch, transformers or finetune."""
    code = "import sys, data_prep.__main__, data_prep.demo; print([m for m in ('torch', 'transformers', 'finetune') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
