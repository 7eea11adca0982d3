"""python -m finetune.predict: every video gets its row, whatever becomes of the others."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import gray_ramp

import finetune
from data_prep.errors import UserError, exit_cleanly
from data_prep.single_pass import probe_and_read
from data_prep.video import open_video, read_frames
from finetune import load
from finetune.batch import normalise
from finetune.inputs import Input, find_inputs
from finetune.predict import main
from finetune.reading import ClipReader, ReadVideo, read_all
from finetune.sampling import Sampling
from finetune.weights import load_checkpoint


@pytest.fixture
def model(random_checkpoint: str) -> str:
    return random_checkpoint


@pytest.fixture
def videos(tmp_path: Path, write_video: Callable[..., Path]) -> Path:
    write_video(tmp_path / "v" / "long.mp4", gray_ramp(20))
    write_video(tmp_path / "v" / "sub" / "short.MKV", gray_ramp(3, 40, 90))
    (tmp_path / "v" / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "v" / "notes.txt").write_text("no video")
    return tmp_path / "v"


def test_json_has_an_object_per_video_and_errors_stay_rows(
    model: str, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = exit_cleanly(main)([model, str(videos), str(videos / "missing.mp4"), "--format", "json"])
    rows = {Path(row["video"]).name: row for row in json.loads(capsys.readouterr().out)}
    assert code == 0
    assert set(rows) == {"long.mp4", "short.MKV", "broken.mp4", "missing.mp4"}
    for name in ("long.mp4", "short.MKV"):
        scores = [guess["score"] for guess in rows[name]["predictions"]]
        assert len(scores) == 5 and scores == sorted(scores, reverse=True) and 0 < sum(scores) < 1
    assert "cannot be opened" in rows["broken.mp4"]["error"] and "predictions" not in rows["broken.mp4"]
    assert "No such file" in rows["missing.mp4"]["error"]


def test_csv_and_table(model: str, videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([model, str(videos / "*.mp4"), "--format", "csv", "--top_k", "2"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(Path(row["video"]).name, bool(row["label"]), bool(row["error"])) for row in rows] == [
        ("broken.mp4", False, True), ("long.mp4", True, False), ("long.mp4", True, False),
    ]  # fmt: skip
    main([model, str(videos / "long.mp4"), "--top_k", "99"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("long.mp4") and len(lines) == 8 and "%" in lines[1]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["{v}/broken.mp4"], "none of the 1 videos"),
        (["{v}/*.xyz"], "matches no file"),
        (["{v}/../empty"], "holds no videos"),
    ],
)
def test_nothing_to_predict_is_an_error(model: str, videos: Path, inputs: list[str], message: str) -> None:
    (videos.parent / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        main([model, *(text.format(v=videos) for text in inputs)])


def test_a_second_run_goes_on_where_the_first_was(model: str, videos: Path, tmp_path: Path) -> None:
    for form in ("jsonl", "csv"):
        output = tmp_path / f"out.{form}"
        everything = [model, str(videos), "--output", str(output)]
        main([*everything, "--num_workers", "0"])
        whole = output.read_text()
        assert main(everything) == [] and output.read_text() == whole
        output.write_text(whole[:-9])  # as when the disk was full, or the machine went down
        again = main([*everything, "--num_workers", "0"])
        assert [Path(row["video"]).name for row in again] == ["short.MKV"]
        assert [line[:60] for line in output.read_text().splitlines()] == [line[:60] for line in whole.splitlines()]


def test_an_output_of_something_else_is_left_alone(model: str, videos: Path, tmp_path: Path) -> None:
    first = [model, str(videos / "long.mp4"), "--output", str(tmp_path / "out.jsonl")]
    main(first)
    with pytest.raises(UserError, match="other labels or another --top_k"):
        main([*first, "--top_k", "2"])
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="not written by this command"):
        main([model, str(videos / "long.mp4"), "--output", str(tmp_path / "notes.csv")])
    assert (tmp_path / "notes.csv").read_text() == "a,b\n1,2\n"
    with pytest.raises(UserError, match="there is no folder"):
        main([model, str(videos / "long.mp4"), "--output", str(tmp_path / "gone" / "x.csv")])


def test_processes_and_batches_give_the_rows_of_this_process(model: str, videos: Path) -> None:
    alone = main([model, str(videos), "--num_workers", "0", "--batch_size", "1"])
    others = main([model, str(videos), "--num_workers", "2", "--batch_size", "3"])
    by_name = {row["video"]: row for row in others}
    assert by_name.keys() == {row["video"] for row in alone} and len(others) == 3
    for row in alone:
        other = by_name[row["video"]]
        assert row.get("error") == other.get("error")
        for one, two in zip(row.get("predictions", ()), other.get("predictions", ())):
            assert one["label"] == two["label"] and abs(one["score"] - two["score"]) < 1e-5


def test_labels_of_a_list_are_compared(model: str, videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right = main([model, str(videos / "long.mp4")])[0]["predictions"][0]["label"]
    (videos / "list.csv").write_text(f"path,label\nlong.mp4,{right}\nsub/short.MKV,nothing\nbroken.mp4,x\n")
    rows = main([model, str(videos / "list.csv"), "--format", "csv"])
    assert [row["true_label"] for row in rows] == [right, "nothing", "x"]
    told = capsys.readouterr()
    assert "top-1: 1 of 2 labelled videos" in told.err and "1 of 3 videos could not be read" in told.err
    assert f",,{right}\n" in told.out


def test_views_are_averaged(model: str, videos: Path) -> None:
    both = main([model, str(videos / "long.mp4"), "--views", "2x3", "--top_k", "7"])[0]["predictions"]
    assert sum(one["score"] for one in both) == pytest.approx(1, abs=1e-5)
    classifier = load(model, "cpu")
    assert classifier.predict(videos / "long.mp4", top_k=7, views="2x3")[0]["predictions"] == both
    assert classifier.predict(videos / "long.mp4", top_k=7)[0]["predictions"] != both


@pytest.mark.slow
def test_a_file_that_kills_its_process_costs_itself(videos: Path) -> None:
    reader = Deadly(Sampling(), 8)
    found = {Path(one.source.path).name: one for one in read_all(find_inputs([str(videos)]), reader, 2)}
    assert "killed its process" in found["long.mp4"].error and found["long.mp4"].frames is None
    assert found["short.MKV"].frames is not None and "cannot be opened" in found["broken.mp4"].error


class Deadly(ClipReader):
    def read(self, source: Input) -> ReadVideo:
        if source.path.endswith("long.mp4"):
            os._exit(9)
        return super().read(source)


def test_a_whole_clip_is_read_in_one_pass_where_the_container_is_right(
    videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And in two where it is not; the frames are those of `read_frames` either way."""
    for path, claimed in ((videos / "long.mp4", None), (videos / "long.mp4", 17)):
        with monkeypatch.context() as patch:
            if claimed is not None:
                patch.setattr("data_prep.single_pass.open_video", claiming(claimed))
            second = patch_counter(patch)
            info, frames = probe_and_read(
                str(path), lambda num_frames, fps, times: [0, num_frames // 2, num_frames - 1]
            )
        assert info.num_frames == 20 and second == ([] if claimed is None else [[0, 10, 19]])
        assert (frames == read_frames(str(path), [0, 10, 19])).all()


def claiming(num_frames: int) -> Callable[..., object]:
    @contextmanager
    def opened(source: str) -> Iterator[object]:
        with open_video(source) as video:
            video.claimed_frames = num_frames
            yield video

    return opened


def patch_counter(patch: pytest.MonkeyPatch) -> list[list[int]]:
    calls: list[list[int]] = []

    def counted(source: str, indices: list[int]) -> object:
        calls.append(list(indices))
        return read_frames(source, indices)

    patch.setattr("data_prep.single_pass.read_frames", counted)
    return calls


def test_from_python_and_nothing_is_imported_before_it_is_asked_for(videos: Path) -> None:
    code = "import sys, finetune, finetune.compare, finetune.predict, finetune.reading; print({'torch', 'transformers', 'matplotlib'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"
    assert finetune.load is load and finetune.UserError is UserError
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        finetune.lod  # noqa: B018
    assert set(finetune.__all__) <= set(dir(finetune))


def test_merged_linear_maps_give_the_same_numbers(model: str) -> None:
    torch.manual_seed(0)
    before, processor = load_checkpoint(model)
    pixels = torch.randint(0, 256, (2, 8, 3, 48, 48), dtype=torch.uint8)
    classifier = load(model, "cpu")
    with torch.no_grad():
        expected = before(pixel_values=normalise(pixels, processor)).logits
    assert torch.equal(classifier.logits(pixels), expected)
    with pytest.raises(UserError, match="dtype is 'float16'"):
        load(model, dtype="float16")
    assert (load(model, "cpu", dtype="bfloat16").logits(pixels) - expected).abs().max() < 0.05
