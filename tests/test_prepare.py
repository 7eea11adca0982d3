"""data_prep.prepare: the whole command `python -m data_prep`, on real files."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from conftest import blobs, encode

from data_prep.errors import UserError, exit_cleanly
from data_prep.images import decode_jpeg
from data_prep.prepare import main
from data_prep.video import read_frames
from finetune.clips.clip import read_clip


def run(*arguments: object) -> dict:
    return main([*map(str, arguments), "--num_proc", "1"])


def test_a_folder_becomes_a_dataset_with_the_schema(bars: Path, bars_dataset: Path) -> None:
    splits = datasets.load_from_disk(str(bars_dataset))
    counts = {split: len(rows) for split, rows in splits.items()}
    assert counts == {"train": 24, "validation": 8, "test": 8}
    row = splits["train"][0]
    assert row["video"] == {"bytes": None, "path": str((bars / row["video_id"]).resolve())}
    assert (row["num_frames"], row["height"], row["width"]) == (10, 48, 48)
    assert row["fps"] == pytest.approx(10) and row["duration"] == pytest.approx(1)
    assert splits["test"].features["video"] == datasets.Video(decode=False)
    assert splits["test"].features["label"].names == ["left", "right"]
    ids = [video_id for rows in splits.values() for video_id in rows["video_id"]]
    assert len(set(ids)) == len(ids) == 40
    summary = json.loads((bars_dataset / "summary.json").read_text())
    assert sum(summary["videos"]["train"].values()) == counts["train"] == summary["splits"]["train"]
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
            write_video(tmp_path / "in" / label / f"{number}.mp4", blobs(f"{label}{number}"))
    (tmp_path / "in" / "run" / "broken.mp4").write_bytes(b"\x00" * 99)
    (tmp_path / "in" / "gone").mkdir()
    (tmp_path / "in" / "gone" / "a,\n.mp4").write_bytes(b"")
    (tmp_path / "in" / "run" / "\udcff.mp4").write_bytes((tmp_path / "in" / "run" / "0.mp4").read_bytes())
    (tmp_path / "in" / "run" / "notes.txt").write_text("no video")
    summary = run(tmp_path / "in", tmp_path / "out")
    with (tmp_path / "out" / "rejected.csv").open(newline="", encoding="utf-8") as file:
        rejected = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert list(rejected) == ["run/\\udcff.mp4", "gone/a,\\n.mp4", "run/broken.mp4"]
    assert rejected["gone/a,\\n.mp4"] == "is empty"
    assert "not UTF-8" in rejected["run/\\udcff.mp4"]
    assert summary["rejected"] == 3 and summary["accepted"] == 6
    assert "other files, not read: 1 .txt" in summary["notes"]
    assert "gone, since all its videos were rejected: 1 class, 'gone'" in summary["notes"]
    assert datasets.load_from_disk(str(tmp_path / "out"))["train"].features["label"].names == ["jump", "run"]
    labels = datasets.load_from_disk(str(tmp_path / "out"))["train"]
    assert {(video_id.split("/")[0], label) for video_id, label in zip(labels["video_id"], labels["label"])} == {("jump", 0), ("run", 1)}  # fmt: skip
    assert "\n.mp4" not in capsys.readouterr().out


def test_numbered_classes_are_in_the_order_of_numbers(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    for label in ("2", "10", "1"):
        for number in range(3):
            write_video(tmp_path / "in" / label / f"{number}.mp4", blobs(f"{label}{number}", 5))
    run(tmp_path / "in", tmp_path / "out")
    assert datasets.load_from_disk(str(tmp_path / "out"))["train"].features["label"].names == ["1", "2", "10"]


@pytest.fixture
def two_classes(tmp_path: Path, write_video: Callable[..., Path]) -> Path:
    for label in ("run", "jump"):
        for number in range(3):
            write_video(tmp_path / "videos" / label / f"{number}.mp4", blobs(f"{label}{number}", 5))
    return tmp_path / "videos"


@pytest.mark.usefixtures("without_charts")
def test_an_output_is_only_replaced_when_it_is_ours_and_that_was_asked(two_classes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(two_classes, out)
    assert run(two_classes, out)["accepted"] == 6, "nothing has changed: nothing is to be done"
    with pytest.raises(UserError, match="pass --overwrite"):
        run(two_classes, out, "--seed", 3)
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


@pytest.mark.usefixtures("without_charts")
def test_a_failed_run_leaves_no_dataset_but_its_scan(two_classes: Path, tmp_path: Path) -> None:
    for path in (two_classes / "run").iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(UserError, match="one class"):
        run(two_classes, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.work", "videos"]
    for number in range(3):
        encode(two_classes / "run" / f"{number}.mp4", blobs(f"run{number}", 5))
    assert run(two_classes, tmp_path / "out")["accepted"] == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "videos"]


def test_videos_are_never_overwritten_by_their_dataset(two_classes: Path, tmp_path: Path) -> None:
    """Through links or a CSV with a root, the videos may lie in DATASET without being below VIDEOS."""
    run(two_classes, tmp_path / "out")
    for label in ("run", "jump"):
        (two_classes / label).rename(tmp_path / "out" / "train" / label)
        (two_classes / label).symlink_to(tmp_path / "out" / "train" / label)
    with pytest.raises(UserError, match="lies in DATASET"):
        run(two_classes, tmp_path / "out", "--overwrite", "--seed", 1)
    assert len(list((tmp_path / "out" / "train").glob("*/*.mp4"))) == 6


def test_when_every_video_is_broken_the_reason_is_said(two_classes: Path, tmp_path: Path) -> None:
    for path in two_classes.glob("*/*"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 6 videos .* run/2.mp4: is empty"):
        run(two_classes, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def start(videos: Path, dataset: Path, num_proc: int, until: str) -> subprocess.Popen[str]:
    """The command, at work in a process of its own: its progress has shown `until`."""
    command = [sys.executable, "-m", "data_prep", str(videos), str(dataset), "--num_proc", str(num_proc)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, bufsize=1)
    assert process.stderr is not None
    shown = ""
    while not re.search(until, shown):
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
        write_video(two_classes / "run" / f"more{number}.mp4", blobs(f"more{number}", 3))
    process = start(two_classes, tmp_path / "out", num_proc=2, until="3/106")
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


def test_a_killed_run_leaves_no_dataset_and_the_next_goes_on(
    two_classes: Path, tmp_path: Path, write_video: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(200):
        write_video(two_classes / "run" / f"more{number}.mp4", blobs(f"more{number}", 3))
    kill(start(two_classes, tmp_path / "out", num_proc=1, until=r" (1[6-9]|[2-9]\d)/206"))
    assert not (tmp_path / "out").exists()
    assert run(two_classes, tmp_path / "out")["accepted"] == 206
    before = int(capsys.readouterr().out.partition(" of 206 videos were scanned before")[0])
    assert 16 <= before < 206
    splits = datasets.load_from_disk(str(tmp_path / "out"))
    ids = [video_id for rows in splits.values() for video_id in rows["video_id"]]
    assert len(ids) == len(set(ids)) == 206
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "videos"]


@pytest.mark.usefixtures("without_charts")
def test_a_second_run_decodes_only_what_is_new(
    two_classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of every store: what the dataset holds of unchanged videos is used again."""
    for store in ("files", "clips", "frames"):
        out = tmp_path / store
        run(two_classes, out, "--store", store)
        before = {row["video_id"]: row for rows in datasets.load_from_disk(str(out)).values() for row in rows}
        capsys.readouterr()
        new = encode(two_classes / "run" / f"new {store}.mp4", blobs(store, 5))
        run(two_classes, out, "--store", store, "--overwrite")
        assert f"{len(before)} of {len(before) + 1} videos were scanned before" in capsys.readouterr().out
        after = {row["video_id"]: row for rows in datasets.load_from_disk(str(out)).values() for row in rows}
        assert after.keys() - before.keys() == {f"run/{new.name}"}
        assert all(after[video_id] == row for video_id, row in before.items())


@pytest.mark.usefixtures("without_charts")
def test_a_damaged_dataset_is_never_up_to_date_and_its_bytes_are_not_used_again(
    two_classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for store in ("clips", "frames"):
        out = tmp_path / store
        run(two_classes, out, "--store", store)
        data = out / "train" / "data-00000.arrow"
        whole, before = data.read_bytes(), datasets.load_from_disk(str(out), keep_in_memory=True)["train"][:]
        half = len(whole) // 2
        for name, content in {
            "missing": None,
            "cut": whole[:half],
            "changed": whole[:half] + bytes(255 - byte for byte in whole[half : half + 9]) + whole[half + 9 :],
        }.items():
            data.unlink()
            if content is not None:
                data.write_bytes(content)
            capsys.readouterr()
            if name != "changed":  # which only --overwrite looks for: it means to read all bytes
                with pytest.raises(UserError, match="pass --overwrite"):
                    run(two_classes, out, "--store", store)
                assert "data-00000.arrow is missing or damaged" in capsys.readouterr().err
            run(two_classes, out, "--store", store, "--overwrite")
            said = capsys.readouterr()
            assert "train/data-00000.arrow is damaged: what it holds is scanned again" in said.err
            assert "4 of 6 videos were scanned before" in said.out, "those of the other splits"
            assert datasets.load_from_disk(str(out), keep_in_memory=True)["train"][:] == before


@pytest.mark.usefixtures("without_charts")
@pytest.mark.parametrize("moment", ["before the swap", "in the swap", "after the swap"])
def test_a_run_killed_at_its_very_end_leaves_one_whole_dataset(two_classes: Path, tmp_path: Path, moment: str) -> None:
    """As left by kill -9, at the moments that no timing of a test would meet."""
    out, new, old = tmp_path / "out", tmp_path / ".out.new", tmp_path / ".out.old"
    run(two_classes, out)
    (tmp_path / ".out.work" / "shards").mkdir(parents=True)
    if moment == "before the swap":
        shutil.copytree(out, new)
    elif moment == "in the swap":
        shutil.copytree(out, new)
        out.rename(old)
    else:
        shutil.copytree(out, old)
    assert run(two_classes, out)["accepted"] == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "videos"]
    shutil.copytree(out, old)
    run(two_classes, out, "--overwrite", "--seed", 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "videos"]


@pytest.mark.usefixtures("without_charts")
def test_settings_of_another_form_in_a_work_folder_are_survived(two_classes: Path, tmp_path: Path) -> None:
    for number, settings in enumerate(["{}", "[]", "null", '{"scan_settings": 3}', "\x00"]):
        (tmp_path / ".out.work").mkdir()
        (tmp_path / ".out.work" / "settings.json").write_text(settings)
        assert run(two_classes, tmp_path / "out", "--overwrite", "--seed", number)["accepted"] == 6


@pytest.mark.usefixtures("without_charts")
def test_a_summary_of_another_form_is_no_summary(two_classes: Path, tmp_path: Path) -> None:
    run(two_classes, tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    for checksums in (None, {"train/data-00000.arrow": 3}, {"train/data-00000.arrow": ["3", 4]}):
        (tmp_path / "out" / "summary.json").write_text(json.dumps(summary | {"checksums": checksums}))
        with pytest.raises(UserError, match="pass --overwrite"):
            run(two_classes, tmp_path / "out")
    assert run(two_classes, tmp_path / "out", "--overwrite")["checksums"].keys() == summary["checksums"].keys()


def test_rejected_csv_steers_no_spreadsheet_and_no_terminal(two_classes: Path, tmp_path: Path) -> None:
    names = ["=cmd.mp4", "-clip.mp4", "@sum.mp4", "+1.mp4", "\t=1.mp4", "\x1b[31mred.mp4"]
    table = tmp_path / "videos.csv"
    lines = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in two_classes.glob("*/*")]
    table.write_text("\n".join(["path,label", *lines, *(f'"{name}",run' for name in names)]), encoding="utf-8")
    for name in names:
        (tmp_path / name).write_bytes(b"broken")
    run(table, tmp_path / "out")
    text = (tmp_path / "out" / "rejected.csv").read_text(encoding="utf-8")
    cells = [cell for row in csv.reader(text.splitlines()) for cell in row]
    assert len(cells) == 2 * (1 + len(names))
    assert not [cell for cell in cells if cell[0] in "=+-@\t\r"]
    assert "./-clip.mp4" in cells and "\x1b" not in text


@pytest.mark.usefixtures("without_charts")
def test_every_store_gives_the_same_clips_but_for_its_loss(two_classes: Path, tmp_path: Path) -> None:
    clips: dict[str, dict[str, np.ndarray]] = {}
    for name, options in {"files": [], "embed": ["--embed"], "clips": ["--store", "clips"], "frames": ["--store", "frames"]}.items():  # fmt: skip
        run(two_classes, tmp_path / name, *options)
        rows = [row for part in datasets.load_from_disk(str(tmp_path / name)).values() for row in part]
        clips[name] = {row["video_id"]: read_clip(row, [0, 2, 4]).numpy().astype(float) for row in rows}
        assert [row["num_frames"] for row in rows] == [5] * 6
    for video_id, clip in clips["files"].items():
        np.testing.assert_array_equal(clips["embed"][video_id], clip)
        for name in ("clips", "frames"):
            assert abs(clips[name][video_id] - clip).mean() < 6, name


@pytest.mark.usefixtures("without_charts")
def test_a_frame_rate_cap_keeps_every_second_frame_of_thirty(two_classes: Path, tmp_path: Path) -> None:
    for store in ("clips", "frames"):
        for label in ("run", "jump"):
            encode(two_classes / label / "0.mp4", blobs(f"{label}0", 21), rate=30)
        run(two_classes, tmp_path / store, "--store", store, "--frame_rate", 15)
        rows = {r["video_id"]: r for part in datasets.load_from_disk(str(tmp_path / store)).values() for r in part}
        row = rows["run/0.mp4"]
        assert row["num_frames"] == 11 and row["fps"] == pytest.approx(15, rel=0.1)
        stored = read_clip(row, [0, 5, 10]).permute(0, 2, 3, 1).numpy().astype(float)
        assert abs(stored - read_frames(two_classes / "run" / "0.mp4", [0, 10, 20])).mean() < 6
        assert rows["run/1.mp4"]["num_frames"] == 5, "ten frames per second are below the cap"


@pytest.mark.usefixtures("without_charts")
def test_stored_pictures_are_shrunk_never_enlarged(two_classes: Path, tmp_path: Path) -> None:
    for store, size in (("frames", 24), ("clips", 16)):
        run(two_classes, tmp_path / store, "--store", store, "--short_side", size)
        row = datasets.load_from_disk(str(tmp_path / store))["train"][0]
        assert read_clip(row, [0]).shape == (1, 3, size, size) and row["height"] == row["width"] == size
    run(two_classes, tmp_path / "large", "--store", "clips", "--short_side", 500)
    assert datasets.load_from_disk(str(tmp_path / "large"))["train"][0]["height"] == 48


def test_a_folder_for_the_work_keeps_what_else_it_holds(two_classes: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "thesis.txt").write_text("precious")
    run(two_classes, tmp_path / "out", "--work", tmp_path / "scratch")
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["thesis.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "scratch", "videos"]


def test_folds_stand_in_place_of_splits(bars: Path, tmp_path: Path) -> None:
    summary = run(bars, tmp_path / "out", "--folds", 4)
    rows = datasets.load_from_disk(str(tmp_path / "out"))["train"]
    assert len(rows) == 40 and set(rows["fold"]) == {0, 1, 2, 3}
    assert summary["videos"]["fold_0"] == {"left": 5, "right": 5}


def test_a_full_disk_is_an_error_of_one_line_and_what_was_scanned_stays(two_classes: Path, tmp_path: Path) -> None:
    """Needs a small file system of its own, which only root may mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("cannot mount a small file system here")
    try:
        for number in range(20):
            encode(two_classes / "run" / f"large{number}.mp4", blobs(f"large{number}", 20, size=256))
        command = [sys.executable, "-m", "data_prep", str(two_classes), str(disk / "out"), "--store", "frames", "--num_proc", "1"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert f"error: No space left on device: {disk}" in done.stderr
        assert not (disk / "out").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{root}/none", "{root}/out"], "error: .*none does not exist"),
        (["{root}/videos", "{root}/out", "--splits", "0.5", "0.2", "0.2"], "error: --splits 0.5 0.2 0.2: expected"),
        (["{root}/videos/run", "{root}/out"], "error: no usable videos"),
        (
            ["{root}/videos", "{root}/out", "--group_by", "(run|jump)"],
            "nothing is left for validation, test: the largest class has 1 groups",
        ),
    ],
)
def test_a_users_error_is_one_line_and_code_2(
    two_classes: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = exit_cleanly(main)([argument.format(root=tmp_path) for argument in arguments] + ["--num_proc", "1"])
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert code == 2
    assert len(errors) == 1
    assert re.search(message, errors[0])


def test_the_command_needs_no_torch_and_what_decodes_no_datasets() -> None:
    """data_prep is usable, and its workers start, without importing torch, transformers or finetune."""
    for modules, unwanted in (
        ("data_prep.prepare, data_prep.demo", {"torch", "transformers", "finetune"}),
        ("data_prep.workers, data_prep.shards", {"torch", "datasets", "pandas"}),
    ):
        code = f"import sys, {modules}; print({unwanted} & set(sys.modules))"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
