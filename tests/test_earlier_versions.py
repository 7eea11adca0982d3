"""What people made with earlier versions (tests/data) opens, goes on and answers as it did."""

from __future__ import annotations

import csv
import json
import runpy
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import datasets
import pyarrow.parquet
import pytest
import torch
from forks import Forks
from machine import kind_of_machine
from safetensors.torch import load_file

from data_prep.errors import UserError
from data_prep.format_version import FORMAT_VERSION, stamp
from data_prep.labeled import LabeledVideo
from data_prep.prepare import main as data_prep
from data_prep.store import earlier_splits
from finetune import folds
from finetune.clips.dataset import load_splits
from finetune.compare import main as compare
from finetune.evaluate import main as evaluate
from finetune.predict import main as predict
from finetune.results.predictions import read_predictions
from finetune.run import main as train
from finetune.settings.arguments import FinetuningArguments, parse_arguments

DATA = Path(__file__).parent / "data"
SPLITS = ["--splits", "0.5", "0.25", "0.25", "--num_proc", "1"]
PREPARED = {  # the commands of the datasets
    "embedded": ["videos", "embedded", "--embed", *SPLITS],
    "clips": ["several.csv", "clips", "--store", "clips", *SPLITS],
    "frames": ["spans.csv", "frames", "--store", "frames", *SPLITS],
    "folded": ["videos", "folded", "--embed", "--folds", "3", "--num_proc", "1"],
}
# Other processors add in another order: scores then differ from those stored, in their last digits.
CLOSE = 1e-4

pytestmark = pytest.mark.usefixtures("without_pictures", "without_charts")


@pytest.fixture(params=sorted(path.name for path in DATA.iterdir() if path.is_dir() and path.name[0].isdigit()))
def earlier(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the version made, as the current folder."""
    copy = tmp_path / "earlier"
    shutil.copytree(DATA / request.param, copy)
    monkeypatch.chdir(copy)
    return copy


@pytest.mark.parametrize(("name", "store"), [("embedded", "files"), ("clips", "clips"), ("frames", "frames")])
def test_datasets_open(earlier: Path, name: str, store: str) -> None:
    splits = load_splits(name, need_validation=True)
    assert splits.summary["store"] == store and splits.is_multi_label == (name == "clips")
    assert {split: len(rows) for split, rows in zip(("train", "validation", "test"), (splits.train, splits.validation, splits.test))} == splits.summary["splits"]  # fmt: skip
    assert len(earlier_splits(earlier / name)) == splits.summary["accepted"]


@pytest.mark.parametrize(("model", "dataset"), [("finished", "embedded"), ("finished", "frames"), ("several", "clips")])
def test_runs_measure_on_datasets_what_they_did(earlier: Path, model: str, dataset: str) -> None:
    command = [model, dataset, "--split", "all", "--output", "now.json", "--predictions", "now.csv"]
    evaluate([*command, "--device", "cpu", "--dataloader_num_workers", "0"])
    before, now = (json.loads(Path(name).read_text()) for name in (f"evaluated_{dataset}.json", "now.json"))
    for key, value in before.items():
        if isinstance(value, (int, float, str)):
            assert now[key] == (pytest.approx(value, abs=CLOSE) if isinstance(value, float) else value), key
    old, new = (read_predictions(Path(name)) for name in (f"evaluated_{dataset}.csv", "now.csv"))
    assert (old.video_ids, old.groups, old.labels, old.names) == (new.video_ids, new.groups, new.labels, new.names)
    assert old.predictions == new.predictions and new.scores == pytest.approx(old.scores, abs=CLOSE)
    compared = compare([f"evaluated_{dataset}.csv", "now.csv"])
    assert compared.only_a_right == compared.only_b_right == 0


def test_a_stopped_run_goes_on_to_the_weights_it_would_have_had(
    earlier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the bit where the libraries and the processor are those that made it; elsewhere sums round otherwise, and the
    weights may be off by a hundredth of the way that they came since the run was stopped. That a run which is stopped
    ends with the very bits of one that is not, on any machine, test_resume.py holds.
    """
    stopped_at = load_file("stopped/checkpoint-5/model.safetensors")
    train(json.loads(Path("stopped/unfinished.json").read_text())["argv"])
    assert "going on from stopped/checkpoint-5" in capsys.readouterr().out
    expected, got = load_file("gone_on/model.safetensors"), load_file("stopped/model.safetensors")
    assert expected.keys() == got.keys()
    if kind_of_machine() == json.loads(Path("made_on.json").read_text()):
        assert all(torch.equal(got[name], expected[name]) for name in expected)
    off, way = (
        torch.cat([(expected[name] - other[name]).flatten() for name in expected]).norm() for other in (got, stopped_at)
    )
    assert off < 0.01 * way
    before, now = (json.loads(Path(name, "metrics.json").read_text()) for name in ("gone_on", "stopped"))
    assert now["test_top1"] == before["test_top1"]
    assert now["test_loss"] == pytest.approx(before["test_loss"], abs=1e-3)
    assert not Path("stopped/unfinished.json").exists()


def test_a_finished_run_is_kept_and_goes_on_where_that_is_asked(earlier: Path) -> None:
    assert isinstance(torch.load("finished/training_args.bin", weights_only=False), FinetuningArguments)
    command = ["--dataset_name", "embedded", "--output_dir", "finished", "--model_name_or_path", "start", "--config", "finished/recipe.yaml"]  # fmt: skip
    asked = parse_arguments(command)
    assert asked.training.num_train_epochs == 3 and asked.learning.ema_decay == 0.8
    with pytest.raises(UserError, match="exists"):
        train(command)
    weights = load_file("finished/model.safetensors")
    train([*command, "--resume_from_checkpoint", "--num_train_epochs", "5"])
    assert json.loads(Path("finished/metrics.json").read_text())["num_videos"] > 0
    assert weights.keys() == load_file("finished/model.safetensors").keys()


@pytest.mark.parametrize(
    ("model", "name"), [("finished", "answers.jsonl"), ("finished", "answers.csv"), ("several", "several.jsonl")]
)
def test_predictions_go_on_and_keep_their_rows(
    earlier: Path, model: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torn, whole = Path(name).read_text(), Path(f"whole_{name}").read_text()
    videos = sorted(map(str, Path("videos").glob("*/*.mp4")))
    rows = predict([model, *videos, "--output", name, "--device", "cpu", "--num_workers", "0"])
    assert [row["video"] for row in rows] == videos[3:], "three were whole"
    assert "3 of 12 videos are in" in capsys.readouterr().err
    now = Path(name).read_text()
    assert now.startswith(torn[: torn.rfind(videos[2])])
    if name.endswith("csv"):
        rows_before, rows_now = (list(csv.reader(text.splitlines())) for text in (whole, now))
        assert [row[:2] + row[3:] for row in rows_now] == [row[:2] + row[3:] for row in rows_before]
        before, after = ([float(row[2]) for row in rows[1:]] for rows in (rows_before, rows_now))
    else:
        rows_before, rows_now = ([json.loads(line) for line in text.splitlines()] for text in (whole, now))
        before, after = (
            [one.pop("score") for row in rows for one in row["predictions"]] for rows in (rows_before, rows_now)
        )
        assert rows_before == rows_now
    assert after == pytest.approx(before, abs=CLOSE)


@pytest.mark.slow
def test_folds_go_on_and_finished_ones_are_kept(earlier: Path, forks: Forks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folds, "run_to_end", lambda command: forks.run(*command[1:], cwd=earlier).returncode)
    finished = Path("folds/fold_0/model.safetensors").stat().st_mtime_ns
    found = folds.main(json.loads(Path("folds/folds_command.json").read_text()))
    before = json.loads(Path("folds.json").read_text())
    assert Path("folds/fold_0/model.safetensors").stat().st_mtime_ns == finished
    assert found["num_videos"] == before["num_videos"] == 12
    assert found["folds"]["test_loss"]["values"] == pytest.approx(before["folds"]["test_loss"]["values"], abs=1e-3)
    assert found["confusion_matrix"] == before["confusion_matrix"]


@pytest.mark.slow
@pytest.mark.parametrize("name", PREPARED)
def test_datasets_are_redone_where_they_were_copied(earlier: Path, name: str) -> None:
    """A copy of the videos has other times and another place: they are scanned anew, and the rows are the same."""
    with pytest.raises(UserError, match="exists: choose another directory, or pass --overwrite"):
        data_prep(PREPARED[name])
    before = {split: list(rows) for split, rows in datasets.load_from_disk(name).items()}
    data_prep([*PREPARED[name], "--overwrite"])
    now = datasets.load_from_disk(name)
    encoded = set() if same_av(name) else {"video", "packet_index", "frames"}
    assert now.keys() == before.keys()
    for split, rows in before.items():
        assert [{key: row[key] for key in row.keys() - encoded} for row in rows] == [
            {key: row[key] for key in row.keys() - encoded} for row in now[split]
        ]


@pytest.mark.parametrize("name", PREPARED)
def test_datasets_are_up_to_date_and_their_scans_used_again(
    earlier: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where they were made: videos keep the keys that they had there, for which their place and times stand."""
    scanned = pyarrow.parquet.read_table(f"{name}/scan.parquet", columns=["key", "video_id"]).to_pylist()
    keys = {row["video_id"]: row["key"] for row in scanned}

    def video_key(video: LabeledVideo) -> tuple[str, int]:
        return keys[video.video_id], video.path.stat().st_size

    if not same_av(name):
        pytest.skip("another PyAV decodes: videos are scanned anew")
    monkeypatch.setattr("data_prep.prepare.video_key", video_key)
    data_prep(PREPARED[name])
    # An option that is added later must not change this at its default (`prepare._inputs`).
    assert f"{name} is up to date: 12 videos" in capsys.readouterr().out
    for path in Path().glob("videos/*/*.mp4"):
        path.write_bytes(b"no video any more")
    data_prep([*PREPARED[name], "--seed", "7", "--overwrite"])
    assert datasets.load_from_disk(name).num_rows and json.loads(Path(name, "summary.json").read_text())["accepted"] == 12  # fmt: skip


def same_av(name: str) -> bool:
    made_by: str = json.loads(Path(name, "summary.json").read_text())["scan_settings"]["av"]
    return made_by == version("av")


@pytest.mark.slow
def test_an_exported_model_runs(
    earlier: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["example.py", "videos/up/1.mp4"])
    runpy.run_path("torch_export/example.py", run_name="__main__")
    printed = dict(reversed(line.split()) for line in capsys.readouterr().out.splitlines())
    answers = {
        row["video"]: row["predictions"]
        for row in map(json.loads, Path("whole_answers.jsonl").read_text().splitlines())
    }
    expected = {one["label"]: one["score"] for one in answers["videos/up/1.mp4"]}
    assert {label: float(score.rstrip("%")) / 100 for label, score in printed.items()} == pytest.approx(expected, abs=2e-3)  # fmt: skip


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("embedded/summary.json", lambda: load_splits("embedded", need_validation=True)),
        ("embedded/summary.json", lambda: earlier_splits(Path("embedded"))),
        ("stopped/unfinished.json", lambda: train(json.loads(Path("stopped/unfinished.json").read_text())["argv"])),
        ("answers.jsonl.settings.json", lambda: predict(["finished", "videos", "--output", "answers.jsonl"])),
    ],
)
def test_what_a_later_version_wrote_says_which_version_reads_it(
    earlier: Path, path: str, command: Callable[[], object]
) -> None:
    document = json.loads(Path(path).read_text())
    assert stamp().keys() - document.keys() == stamp().keys(), "written before there was such a number"
    later = {"format_version": FORMAT_VERSION + 1, "written_by": "9.1.0"}
    Path(path).write_text(json.dumps({**document, **later}))
    kept = {name: name.read_bytes() for name in earlier.rglob("*") if name.is_file()}
    with pytest.raises(UserError, match=r"written by version 9\.1\.0 .* use version 9\.1\.0 or a later one"):
        command()
    assert {name: name.read_bytes() for name in earlier.rglob("*") if name.is_file()} == kept
    Path(path).write_text(json.dumps({**document, **stamp()}))
    if path.startswith("embedded"):
        command()


def test_what_is_written_says_its_format(earlier: Path) -> None:
    videos = sorted(map(str, Path("videos").glob("*/*.mp4")))
    command = ["finished", *videos[:2], "--output", "new.jsonl", "--device", "cpu", "--num_workers", "0"]
    predict(command)
    data_prep(["videos", "new", *SPLITS])
    for path in ("new.jsonl.settings.json", "new/summary.json"):
        assert json.loads(Path(path).read_text())["format_version"] == FORMAT_VERSION
    assert predict(command) == [], "it goes on"
