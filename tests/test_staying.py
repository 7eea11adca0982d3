"""An output that is deleted or replaced while a command works: one line, exit code 2, and what was computed is kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import data_prep.prepare
import finetune.evaluate
import finetune.folds
import finetune.run
from data_prep.errors import UserError, exit_cleanly
from data_prep.prepare import main as prepare
from finetune.evaluate import main as evaluate
from finetune.predict import main as predict
from finetune.run import main as train
from finetune.training.trainer import VideoTrainer
from finetune.use.classifier import Classifier

FAST = [
    "--model_name_or_path", "timesformer-tiny", "--no_flip", "--short_side_jitter", "48", "50", "--config", "none",
    "--per_device_train_batch_size", "12", "--dataloader_num_workers", "0", "--report_to", "none", "--disable_tqdm",
    "true", "--logging_steps", "1", "--num_train_epochs", "3",
]  # fmt: skip

pytestmark = pytest.mark.usefixtures("without_pictures", "without_charts")


@pytest.fixture
def after_two(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Does something when two rows have been given."""

    def install(act: Any) -> None:
        whole = Classifier.rows

        def rows(self: Classifier, *args: Any, **kwargs: Any) -> Iterator[Any]:
            for number, row in enumerate(whole(self, *args, **kwargs)):
                if number == 2:
                    act()
                yield row

        monkeypatch.setattr(Classifier, "rows", rows)

    return install


def videos_of(bars: Path, count: int) -> list[str]:
    return [str(bars / "left" / f"{number}.mp4") for number in range(count)]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_rows_of_a_file_that_was_deleted_are_saved_and_gone_on_with(
    bars: Path, random_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after_two: Any, form: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    output = tmp_path / f"p.{form}"
    command = [random_checkpoint, *videos_of(bars, 5), "--output", str(output), "--num_workers", "0"]
    with monkeypatch.context():
        after_two(output.unlink)
        assert exit_cleanly(predict)(command) == 2
    assert f"--output {output} was deleted while this command worked: its rows are in" in capsys.readouterr().err
    (saved,) = tmp_path.glob(f"p.saved-*.{form}")
    monkeypatch.undo()
    saved.rename(output)
    assert len(predict(command)) == 2, "three were done"


def test_a_file_that_took_the_place_of_the_output_is_left_as_it_is(
    bars: Path, random_checkpoint: str, tmp_path: Path, after_two: Any
) -> None:
    output = tmp_path / "p.jsonl"
    after_two(lambda: (output.unlink(), output.write_text("of another\n")))
    with pytest.raises(UserError, match="was replaced by another while this command worked: its rows are in"):
        predict([random_checkpoint, *videos_of(bars, 4), "--output", str(output), "--num_workers", "0"])
    assert output.read_text() == "of another\n"


def test_an_output_whose_folder_is_gone_in_the_end_is_kept_elsewhere(
    bars: Path, random_checkpoint: str, tmp_path: Path, after_two: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, kept = tmp_path / "folder", tmp_path / "temporary"
    folder.mkdir()
    kept.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(kept))
    after_two(lambda: shutil.rmtree(folder))
    with pytest.raises(UserError, match="its folder was deleted while this command worked"):
        predict([random_checkpoint, *videos_of(bars, 3), "--output", str(folder / "p.json"), "--num_workers", "0"])
    (saved,) = kept.glob("p.saved-*.json")
    assert len(json.loads(saved.read_text())) == 3


@pytest.mark.parametrize(("replaced", "how"), [(False, "deleted"), (True, "replaced by another")])
def test_training_ends_when_its_folder_is_gone(
    bars_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool, how: str
) -> None:
    run, steps = tmp_path / "run", []
    whole = VideoTrainer.training_step

    def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        steps.append(self.state.global_step)
        if len(steps) == 3:
            shutil.rmtree(run)
            if replaced:
                run.mkdir()
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(VideoTrainer, "training_step", training_step)
    with pytest.raises(UserError, match=f"--output_dir {run} was {how} while this command worked"):
        train(["--dataset_name", str(bars_dataset), "--output_dir", str(run), *FAST])
    assert len(steps) == 3, "at the next line of the log"
    assert run.is_dir() == replaced and not list(run.glob("*"))


def test_a_folder_that_is_gone_in_the_last_evaluation_is_said(
    bars_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, whole = tmp_path / "run", finetune.run.evaluate

    def evaluate(*args: Any) -> Any:
        shutil.rmtree(run)
        return whole(*args)

    monkeypatch.setattr(finetune.run, "evaluate", evaluate)
    with pytest.raises(UserError, match=f"--output_dir {run} was deleted while this command worked"):
        train(["--dataset_name", str(bars_dataset), "--output_dir", str(run), *FAST, "--max_steps", "1"])


@pytest.mark.parametrize(
    ("at", "gone", "line"),
    [
        ("judge", ".ds.work", "the work folder .*/.ds.work was deleted"),
        ("write_report", ".ds.new", "the folder that becomes it, .*/.ds.new was (deleted|replaced)"),
    ],
)
def test_data_prep_says_that_its_folders_are_gone(
    bars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, gone: str, line: str
) -> None:
    whole = getattr(data_prep.prepare, at)

    def deleting(*args: Any, **kwargs: Any) -> Any:
        shutil.rmtree(tmp_path / gone)
        return whole(*args, **kwargs)

    monkeypatch.setattr(data_prep.prepare, at, deleting)
    with pytest.raises(UserError, match=line):
        prepare([str(bars), str(tmp_path / "ds"), "--num_proc", "1"])
    assert not (tmp_path / "ds").exists()
    monkeypatch.undo()


def test_the_folder_of_metrics_is_gone(
    bars_dataset: Path, random_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for each command with one output: evaluate, explain, export, space."""
    folder, whole = tmp_path / "folder", finetune.evaluate.write_json
    folder.mkdir()

    def write_json(*args: Any) -> None:
        shutil.rmtree(folder)
        whole(*args)

    monkeypatch.setattr(finetune.evaluate, "write_json", write_json)
    monkeypatch.setattr(finetune.evaluate, "evaluate", lambda *args: write_json(folder / "m.json", {}))
    with pytest.raises(UserError, match=f"--output {folder}/m.json: its folder was deleted"):
        evaluate([random_checkpoint, str(bars_dataset), "--output", str(folder / "m.json")])


def test_folds_say_that_theirs_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune.folds, "count_folds", lambda name: 2)
    monkeypatch.setattr(finetune.folds, "run_fold", lambda *args: shutil.rmtree(tmp_path / "folds"))
    with pytest.raises(UserError, match="--output_dir .*folds was deleted while this command worked"):
        finetune.folds.run_folds(tmp_path / "folds", "dataset", [], [])
