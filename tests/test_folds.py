"""finetune.folds: cross-validation in one command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from forks import Forks
from test_run import FAST

from data_prep.errors import UserError
from data_prep.prepare import main as data_prep
from finetune import folds
from finetune.results.output import write_json


@pytest.fixture
def folded(bars: Path, tmp_path: Path) -> Path:
    data_prep([str(bars), str(tmp_path / "data"), "--folds", "3", "--num_proc", "1", "--no_duplicates"])
    return tmp_path / "data"


def _fake_run(folder: Path, accuracy: float, ids: list[str]) -> None:
    """What a run leaves that is of use here: `accuracy` of the videos are answered rightly."""
    folder.mkdir(parents=True)
    right = round(accuracy * len(ids))
    lines = ["video_id,view,group,label,prediction,score,a,b"]
    lines += [f"{name},mean,,a,{'a' if i < right else 'b'},0.9,0.9,0.1" for i, name in enumerate(ids)]
    (folder / "predictions.csv").write_text("\n".join(lines))
    matrix = [[right, len(ids) - right], [0, 0]]
    document = {"protocol": "p", "labels": ["a", "b"], "test_top1": accuracy, "confusion_matrix": matrix}
    write_json(folder / "metrics.json", document)


def test_mean_spread_and_the_pooled_videos(tmp_path: Path) -> None:
    folders = [tmp_path / f"fold_{fold}" for fold in range(3)]
    for folder, accuracy, ids in zip(folders, (1.0, 0.5, 0.25), ("abcd", "efgh", "ijklmnop")):
        _fake_run(folder, accuracy, list(ids))
    found = folds.summarise(folders)
    assert found["folds"]["test_top1"]["mean"] == pytest.approx(1.75 / 3)
    assert found["folds"]["test_top1"]["std"] == pytest.approx(np.std([1, 0.5, 0.25], ddof=1))
    assert found["pooled_accuracy"] == pytest.approx(8 / 16) and found["num_videos"] == 16
    low, high = found["pooled_accuracy_interval_95"]
    assert 0.2 < low < 0.5 < high < 0.8
    assert found["confusion_matrix"] == [[8, 8], [0, 0]]
    _fake_run(tmp_path / "again", 1.0, ["a"])
    with pytest.raises(UserError, match="a video is in two folds"):
        folds.summarise([*folders, tmp_path / "again"])


def test_folds_of_another_command_and_other_folders_are_left_alone(folded: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["--dataset_name", str(folded), "--output_dir", str(out), *FAST]
    folds.begin(out, command)
    with pytest.raises(UserError, match="holds folds of another command"):
        folds.main([*command, "--seed", "1"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    for arguments, message in (
        (["--output_dir", str(tmp_path / "mine")], "exists and holds no folds"),
        (["--test_fold", "1"], "leave it out"),
        (["--push_to_hub", "--hub_model_id", "me/x"], "leave it out"),
    ):
        with pytest.raises(UserError, match=message):
            folds.main([*command, *arguments])
    with pytest.raises(UserError, match="has splits, not folds"):
        folds.main(["--dataset_name", str(_with_splits(folded)), "--output_dir", str(tmp_path / "new"), *FAST])
    assert not (tmp_path / "new").exists()


def _with_splits(folded: Path) -> Path:
    import datasets

    rows = datasets.load_from_disk(str(folded))["train"].remove_columns("fold")
    datasets.DatasetDict({"train": rows}).save_to_disk(str(folded.with_name("splits")))
    return folded.with_name("splits")


def test_a_fold_that_fails_says_what_goes_on_and_what_needs_another_place(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="fold 1 ended with code 2.*same command goes on.*for other settings give another --output_dir"
    ):
        folds.run_fold([sys.executable, "-c", "raise SystemExit(2)"], ["--seed", "1"], 1, tmp_path / "fold_1")


@pytest.mark.slow
def test_a_run_for_each_fold_and_finished_ones_are_kept(
    folded: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folds, "run_to_end", lambda command: forks.run(*command[1:], cwd=tmp_path).returncode)
    out = tmp_path / "out"
    command = ["--dataset_name", str(folded), "--output_dir", str(out), *FAST, "--max_steps", "2"]
    found = folds.main(command)
    assert found["num_videos"] == 40 and len(found["folds"]["test_top1"]["values"]) == 3
    assert np.sum(found["confusion_matrix"]) == 40 and (out / "confusion_matrix.png").is_file()
    assert json.loads((out / "folds.json").read_text()) == found
    finished = (out / "fold_0" / "model.safetensors").stat().st_mtime_ns
    capfd.readouterr()
    assert folds.main(command) == found
    assert "fold 2: finished before" in capfd.readouterr().out
    assert (out / "fold_0" / "model.safetensors").stat().st_mtime_ns == finished
