"""data_prep.collection: videos that share content share a group, contradict each other, or leak; and it is said."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import av
import datasets
import numpy as np
import pytest
from conftest import encode

from data_prep.errors import UserError
from data_prep.prepare import main

pytestmark = pytest.mark.usefixtures("without_charts")


def film(seed: int, num_frames: int = 24) -> np.ndarray:
    """A film of its own: discs that swing over a smooth background."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:72, :96]
    background = sum(random.uniform(10, 30) * np.sin(x * random.uniform(0.02, 0.2) + y * random.uniform(0.02, 0.2) + random.uniform(0, 6)) for _ in range(4))  # fmt: skip
    frames = np.repeat(110 + background[None], num_frames, axis=0)
    for _ in range(4):
        at, swing, speed, phase = random.uniform(15, 55, 2), random.uniform(6, 15, 2), random.uniform(1, 5, 2), random.uniform(0, 6, 2)  # fmt: skip
        for i in range(num_frames):
            cy, cx = at + swing * np.sin(speed * i / 10 + phase)
            frames[i] += random.choice([-70, 80]) * np.clip(8 - np.hypot(y - cy, x - cx), 0, 1)
    return np.clip(frames, 0, 255).astype(np.uint8)[..., None].repeat(3, 3)


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Two classes of five films each."""
    root = tmp_path / "videos"
    for index, label in enumerate(["run"] * 5 + ["jump"] * 5):
        encode(root / label / f"film_{index}x.mp4", film(index))
    return root


def run(root: Path, *options: str) -> tuple[dict, list[dict], dict[str, str]]:
    """Summary, rows and {path: reason} of the rejected."""
    out = root.with_name("out")
    summary = main([str(root), str(out), "--num_proc", "1", "--overwrite", *options])
    rows = [row | {"split": s} for s, part in datasets.load_from_disk(str(out)).items() for row in part]
    with (out / "rejected.csv").open(newline="", encoding="utf-8") as file:
        return summary, rows, {row["path"]: row["reason"] for row in csv.DictReader(file)}


def test_copies_share_a_group_and_a_split(films: Path) -> None:
    (films / "run" / "same.mp4").write_bytes((films / "run" / "film_0x.mp4").read_bytes())
    encode(films / "run" / "anew.avi", film(1), codec="mpeg4")
    encode(films / "run" / "turned.mp4", film(2)[:, :, ::-1].copy())
    summary, rows, rejected = run(films)
    assert {tuple(pair) for pair in summary["related"]} == {
        ("run/film_0x.mp4", "run/same.mp4", "identical", ""),
        ("run/anew.avi", "run/film_1x.mp4", "copy", ""),
        ("run/film_2x.mp4", "run/turned.mp4", "mirrored", ""),
    }
    by_id = {row["video_id"]: row for row in rows}
    for first, second, _, _ in summary["related"]:
        assert by_id[first]["group"] == by_id[second]["group"] and by_id[first]["split"] == by_id[second]["split"]
    assert len({row["group"] for row in rows}) == 10 and not rejected
    assert "same.mp4" in (films.with_name("out") / "report.html").read_text(encoding="utf-8")
    assert run(films, "--no_duplicates")[0]["related"] == []


def test_the_same_content_under_two_labels_is_refused_unless_told_otherwise(films: Path) -> None:
    encode(films / "jump" / "wrong.mp4", film(0), codec="mpeg4")
    summary, _, rejected = run(films)
    assert set(rejected) == {"run/film_0x.mp4", "jump/wrong.mp4"}
    assert "is the same content as run/film_0x.mp4, which is labelled 'run'" in rejected["jump/wrong.mp4"]
    assert summary["related"] == [["jump/wrong.mp4", "run/film_0x.mp4", "copy", "conflict"]]
    assert any("the same content under two labels" in note for note in summary["notes"])
    assert len(run(films, "--keep_conflicts")[1]) == 11
    with pytest.raises(UserError, match="every video is there under another label too"):
        for index in range(10):
            source = films / ("run" if index < 5 else "jump") / f"film_{index}x.mp4"
            (films / ("jump" if index < 5 else "run") / f"twin{index}.mp4").write_bytes(source.read_bytes())
        run(films)


def test_a_mirrored_film_may_have_another_label(films: Path) -> None:
    """What turns left turns right in the mirror: both labels may be right, and both must be in one split."""
    encode(films / "jump" / "mirrored.mp4", film(0)[:, :, ::-1].copy())
    summary, rows, rejected = run(films)
    assert summary["related"] == [["jump/mirrored.mp4", "run/film_0x.mp4", "mirrored", ""]] and not rejected
    assert len({row["split"] for row in rows if row["video_id"] in ("jump/mirrored.mp4", "run/film_0x.mp4")}) == 1


def test_copies_across_given_splits_are_leaks_and_the_splits_stay(films: Path) -> None:
    given = films.with_name("given")
    for label in ("run", "jump"):
        for number, path in enumerate(sorted((films / label).iterdir())):
            target = given / ("test" if number == 0 else "train") / label / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    copy = given / "train" / "run" / "copy.mp4"
    copy.write_bytes((given / "test" / "run" / "film_0x.mp4").read_bytes())
    summary, rows, _ = run(given)
    assert summary["related"] == [["test/run/film_0x.mp4", "train/run/copy.mp4", "identical", "leak"]]
    assert any("two of the given splits" in note for note in summary["notes"])
    assert {row["video_id"].split("/")[0] == row["split"] for row in rows} == {True}


def test_names_make_groups_only_where_nobody_said_better(films: Path) -> None:
    for index, path in enumerate(sorted(films.glob("*/*.mp4"))):
        path.rename(path.with_name(f"v_{path.parent.name}_g{index // 2 % 5:02}_c{index:02}.mp4"))
    summary, rows, _ = run(films, "--splits", "0.5", "0.5", "0")
    assert {row["group"] for row in rows} >= {"run/v_run_g03", "jump/v_jump_g00"}
    assert any("groups by their names" in note for note in summary["notes"])
    _, rows, _ = run(films, "--group_by", r"_c(\d+)", "--splits", "0.5", "0.5", "0")
    assert len({row["group"] for row in rows}) == 10


def test_the_summary_is_json_with_the_pairs(films: Path) -> None:
    run(films)
    assert json.loads((films.with_name("out") / "summary.json").read_text())["related"] == []


def test_what_is_kept_with_flaws_is_told(films: Path) -> None:
    with av.open(str(films / "run" / "bright.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 72, 96, "yuv420p10le"
        stream.codec_context.color_trc = 16  # PQ
        for frame in film(20):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p10le"))
            )
        container.mux(stream.encode())
    cut = encode(films / "jump" / "cut.avi", film(21), codec="mjpeg", pix_fmt="yuvj420p")
    cut.write_bytes(cut.read_bytes()[:-3000])
    summary, rows, rejected = run(films)
    assert summary["kept_though_damaged"] == ["jump/cut.avi"] and len(rows) == 12 and not rejected
    assert [note for note in summary["notes"] if "jump/cut.avi" in note and "without its end" in note]
    assert [note for note in summary["notes"] if "run/bright.mkv" in note and "HDR" in note]
