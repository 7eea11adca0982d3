"""python -m finetune.predict: every video gets its row, whatever becomes of the others."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import gray_ramp
from deadly import Deadly
from safetensors.torch import load_file, save_file

import finetune
from data_prep.errors import UserError, exit_cleanly
from data_prep.single_pass import probe_and_read
from data_prep.video import open_video, read_frames
from finetune import load
from finetune.clips.batch import normalise
from finetune.clips.sampling import Sampling
from finetune.model.weights import load_checkpoint
from finetune.predict import main, tell_outcome
from finetune.results.output import csv_cell, from_csv_cell
from finetune.use.inputs import find_inputs
from finetune.use.reading import read_all


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
        (videos / "broken.mp4").write_bytes(b"no video")
        output = tmp_path / f"out.{form}"
        everything = [model, str(videos), "--output", str(output), "--num_workers", "0"]
        main(everything)
        whole = output.read_text()
        again = main(everything)
        assert [Path(row["video"]).name for row in again] == ["broken.mp4"], "what could not be read is tried again"
        assert sorted(output.read_text().splitlines()) == sorted(whole.splitlines())
        assert output.read_text().splitlines()[-1] == next(line for line in whole.splitlines() if "broken" in line)
        (videos / "broken.mp4").write_bytes((videos / "long.mp4").read_bytes())
        assert ["predictions" in row for row in main(everything)] == [True]
        assert main(everything) == [], "all are done"
        whole = output.read_text()
        output.write_text(whole[:-9])  # as when the disk was full, or the machine went down
        assert [Path(row["video"]).name for row in main(everything)] == ["broken.mp4"]
        assert [line[:60] for line in output.read_text().splitlines()] == [line[:60] for line in whole.splitlines()]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_an_output_goes_on_only_with_the_checkpoint_and_settings_that_began_it(
    form: str, model: str, videos: Path, tmp_path: Path, edited: Callable[[dict], str]
) -> None:
    output = tmp_path / f"out.{form}"
    rest = [str(videos / "long.mp4"), "--output", str(output)]
    main([model, *rest])
    whole = output.read_bytes()
    moved = edited({})
    assert main([moved, *rest]) == [], "the same checkpoint elsewhere is the same"
    for change, message in (
        (["--top_k", "2"], "begun with --top_k 5, not 2"),
        (["--views", "2x1"], "begun with --views 1x1, not 2x1"),
        (["--average", "probabilities"], "begun with --average logits"),
        (["--dtype", "bfloat16"], "begun with --dtype float32"),
    ):
        with pytest.raises(UserError, match=message):
            main([model, *rest, *change])
    weights = load_file(f"{moved}/model.safetensors")
    # Of the two linear maps after attention over time only the product is kept in memory.
    for name in ("classifier.bias", "timesformer.encoder.layer.0.temporal_attention.output.dense.weight"):
        save_file(weights | {name: weights[name] + 1e-6}, f"{moved}/model.safetensors", {"format": "pt"})
        with pytest.raises(UserError, match="begun with another checkpoint: choose another file, or delete it"):
            main([moved, *rest])
    assert output.read_bytes() == whole
    output.unlink()
    assert len(main([moved, *rest])) == 1, "an output that was deleted begins anew"


def test_an_output_of_something_else_is_left_alone(model: str, videos: Path, tmp_path: Path) -> None:
    for name, text in (("notes.csv", "a,b\n1,2\n"), ("old.jsonl", '{"video": "long.mp4", "predictions": []}\n')):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match="not written by this command"):
            main([model, str(videos / "long.mp4"), "--output", str(tmp_path / name)])
        assert (tmp_path / name).read_text() == text
    with pytest.raises(UserError, match="there is no folder"):
        main([model, str(videos / "long.mp4"), "--output", str(tmp_path / "gone" / "x.csv")])


@pytest.mark.parametrize("flags", [(), ("--timeline",), ("--timeline", "--picture")])
def test_what_is_read_is_never_written_over(flags: tuple[str, ...], model: str, videos: Path) -> None:
    film = videos / "long.mp4"
    data = film.read_bytes()
    flags = flags if "--picture" in flags else (*flags, "--output")
    for inputs in ([str(film)], [str(videos)]) if not flags[1:] else ([str(film)],):
        with pytest.raises(UserError, match="is what is read"):
            main([model, *inputs, *flags, str(videos / "sub" / ".." / "long.mp4")])
    assert film.read_bytes() == data


def test_names_that_are_not_utf8_are_done_once(model: str, videos: Path, tmp_path: Path) -> None:
    name = os.fsencode(videos) + b"/sub/caf\xe9.mp4"
    with open(name, "wb") as file:
        file.write((videos / "long.mp4").read_bytes())
    for form in ("jsonl", "csv"):
        everything = [model, str(videos / "sub"), "--output", str(tmp_path / f"out.{form}"), "--num_workers", "0"]
        assert len(main(everything)) == 2
        (tmp_path / f"out.{form}").read_text(encoding="utf-8")
        assert main(everything) == []


def test_a_row_torn_in_a_name_with_a_line_break_is_done_again(model: str, videos: Path, tmp_path: Path) -> None:
    (videos / "sub" / "short.MKV").rename(videos / "sub" / "sh\nort.mkv")
    everything = [model, str(videos / "sub"), "--output", str(tmp_path / "out.csv"), "--num_workers", "0"]
    main(everything)
    whole = (tmp_path / "out.csv").read_text()
    (tmp_path / "out.csv").write_text(whole[: whole.rfind("sh\n") + 4])
    assert len(main(everything)) == 1 and (tmp_path / "out.csv").read_text() == whole


def test_a_file_that_goes_while_it_is_read_costs_its_own_row(
    model: str, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(source: str, choose: object) -> object:
        if source.endswith("long.mp4"):
            raise OSError(5, "Input/output error")
        return probe_and_read(source, choose)  # type: ignore[arg-type]

    monkeypatch.setattr("finetune.use.reading.probe_and_read", gone)
    rows = {Path(row["video"]).name: row for row in main([model, str(videos), "--num_workers", "0"])}
    assert rows["long.mp4"]["error"] == "cannot be read: Input/output error"
    assert "predictions" in rows["short.MKV"]


FORMULAS = [
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-x",
    "@SUM(A1)",
    "\tx",
    "'=x",
    "-1",
    "+0.5",
    "'quoted'",
    'a\nb,"c',
    "",
    "run",
]


def test_no_cell_is_a_formula_and_all_come_back() -> None:
    for text in FORMULAS:
        assert from_csv_cell(csv_cell(text)) == text
        assert not re.match(r"[=+@\t]\D|-\D", csv_cell(text))
    assert [text for text in FORMULAS if csv_cell(text) == text] == ["-1", "+0.5", "'quoted'", 'a\nb,"c', "", "run"]


def test_hostile_labels_stay_what_they_are_in_every_format(
    videos: Path, tmp_path: Path, edited: Callable[[dict], str], capsys: pytest.CaptureFixture[str]
) -> None:
    labels = ["=cmd|' /C calc'!A0", "a\nb", "\u202egnp", "<b>x</b>", "a,b|c", "null", "x" * 300]
    model = edited({"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}})
    flags = ["--top_k", "7", "--num_workers", "0"]
    main([model, str(videos / "long.mp4"), *flags, "--format", "json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert {one["label"] for one in row["predictions"]} == set(labels)
    for form in ("csv", "jsonl"):
        output = tmp_path / f"out.{form}"
        main([model, str(videos / "long.mp4"), *flags, "--output", str(output)])
        assert main([model, str(videos / "long.mp4"), *flags, "--output", str(output)]) == []
        assert "\n=" not in output.read_text() and ",=" not in output.read_text()
    capsys.readouterr()
    main([model, str(videos / "long.mp4"), *flags])
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) == 8 and "\u202e" not in shown


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


@pytest.mark.parametrize(("true", "given"), [("cafe\u0301", ["caf\u00e9"]), ("a | b|", ["a", "b"])])
def test_labels_of_a_list_are_read_as_data_prep_reads_them(
    true: str, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    several = {"given": True} if len(given) > 1 else {}
    predictions = [{"label": label, "score": 0.9, **several} for label in given]
    tell_outcome([{"video": "x.mp4", "true_label": true, "predictions": predictions}])
    assert ": 1 of 1 labelled videos" in capsys.readouterr().err


def test_of_several_labels_those_from_their_thresholds_on_are_given(
    videos: Path, tmp_path: Path, edited: Callable[[dict], str], capsys: pytest.CaptureFixture[str]
) -> None:
    film = str(videos / "long.mp4")
    by_label = {one["label"]: one["score"] for one in load(edited({"problem_type": "multi_label_classification"}), "cpu").predict(film, 7)[0]["predictions"]}  # fmt: skip
    expected = set(sorted(by_label, key=lambda label: by_label[label])[:2])  # none of the likeliest
    thresholds = [by_label[f"class {i}"] + (-0.001 if f"class {i}" in expected else 0.001) for i in range(7)]
    config = json.loads((tmp_path / "edited" / "config.json").read_text())
    (tmp_path / "edited" / "config.json").write_text(json.dumps(config | {"label_thresholds": thresholds}))
    classifier = load(str(tmp_path / "edited"), "cpu")
    predictions = classifier.predict(film, top_k=1)[0]["predictions"]
    assert {one["label"] for one in predictions if one["given"]} == expected
    assert predictions[0]["label"] == max(by_label, key=lambda label: by_label[label])
    assert [one["score"] for one in predictions] == sorted((one["score"] for one in predictions), reverse=True)
    (videos / "list.csv").write_text(f"path,label\nlong.mp4,{'|'.join(sorted(expected))}\nsub/short.MKV,class 0\n")
    flags = ["--top_k", "1", "--num_workers", "0", "--device", "cpu"]
    output = tmp_path / "out.csv"
    main([str(tmp_path / "edited"), str(videos / "list.csv"), *flags, "--output", str(output)])
    assert "all labels right: 1 of 2" in capsys.readouterr().err
    rows = [row for row in csv.DictReader(output.read_text().splitlines()) if row["video"].endswith("long.mp4")]
    assert {row["label"] for row in rows if row["given"] == "yes"} == expected
    assert {row["given"] for row in rows} <= {"yes", "no"}
    whole = output.read_text()
    output.write_text(whole[: whole.rfind("\n", 0, -1) + 1])  # whether the last video is whole, nothing tells
    assert len(main([str(tmp_path / "edited"), str(videos / "list.csv"), *flags, "--output", str(output)])) == 1
    assert output.read_text() == whole
    main([str(tmp_path / "edited"), film, *flags])
    assert capsys.readouterr().out.count("(given)") == 2


@pytest.mark.parametrize("wrong", [[0.5], "0.5", [0.5] * 6 + ["x"], [0.5] * 6 + [float("nan")], {"a": 1}])
def test_thresholds_that_are_none_are_refused(wrong: object, videos: Path, edited: Callable[[dict], str]) -> None:
    model = edited({"problem_type": "multi_label_classification", "label_thresholds": wrong})
    with pytest.raises(UserError, match="label_thresholds .* are not 7 numbers"):
        main([model, str(videos / "long.mp4"), "--device", "cpu"])


def test_without_thresholds_a_half_is_one(videos: Path, edited: Callable[[dict], str]) -> None:
    predictions = load(edited({"problem_type": "multi_label_classification"}), "cpu").predict(
        videos / "long.mp4", top_k=7
    )[0]["predictions"]
    assert [one["given"] for one in predictions] == [one["score"] >= 0.5 for one in predictions]


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
    code = "import sys, finetune, finetune.compare, finetune.predict, finetune.use.reading; print({'torch', 'transformers', 'matplotlib'} & set(sys.modules))"
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
