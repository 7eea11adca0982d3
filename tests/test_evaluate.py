"""finetune.evaluate: the run's own numbers, on any number of processes, and every video once."""

from __future__ import annotations

import csv
import json
import socket
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from forks import Forks
from PIL import Image
from test_run import FAST, with_lost_videos

from data_prep.errors import UserError
from finetune.clips.batch import ClipTransform, collate
from finetune.clips.clip import IGNORED, ClipMaker, Clips
from finetune.clips.dataset import load_splits
from finetune.clips.views import Views
from finetune.compare import main as compare
from finetune.evaluate import main as evaluate
from finetune.folds import main as folds
from finetune.model.wanted import ModelArguments
from finetune.model.weights import load_checkpoint, load_start
from finetune.results.evaluation import MULTI_LABEL, Protocol, choose_thresholds, evaluate_split
from finetune.results.examples import hardest
from finetune.results.metrics import compute_all
from finetune.results.predictions import COLUMNS
from finetune.results.scoring import Scorer, _dealt
from finetune.run import main as run
from finetune.sharing.report import write_pictures


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint of left and right that has learned nothing, with a head that tells videos apart."""
    torch.manual_seed(0)
    start = load_start(ModelArguments("timesformer-tiny"), ["left", "right"])
    torch.nn.init.normal_(start.model.classifier.weight, std=1.0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    start.model.save_pretrained(folder)
    start.processor.save_pretrained(folder)
    return folder


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


OPTIONS = ("--dataloader_num_workers", "0", "--device", "cpu")


@pytest.mark.usefixtures("without_pictures")
def test_a_finished_run_is_measured_again_to_the_same_numbers(
    bars_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, again, table = tmp_path / "out", tmp_path / "m.json", tmp_path / "p.csv"
    run(["--dataset_name", str(bars_dataset), "--output_dir", str(out), *FAST, "--max_steps", "2", "--eval_views", "2x3"])  # fmt: skip
    metrics = evaluate([str(out), str(bars_dataset), "--views", "2x3", "--output", str(again), "--predictions", str(table), "--batch_size", "5", *OPTIONS])  # fmt: skip
    first, second = (json.loads(path.read_text()) for path in (out / "metrics.json", again))
    assert first.keys() == second.keys() and first["confusion_matrix"] == second["confusion_matrix"]
    assert {name: second[name] for name in metrics} == pytest.approx({name: first[name] for name in metrics}, abs=1e-6)
    assert "2 clips per video" in second["protocol"] and "logits averaged over the 6 views" in second["protocol"]
    assert second["intervals_95"]["test_top1"][0] <= second["test_top1"] <= second["intervals_95"]["test_top1"][1]
    rows = read(table)
    assert list(rows[0])[: len(COLUMNS)] == list(COLUMNS)
    assert len(rows) == 8 * 7 and sum(row["view"] == "mean" for row in rows) == 8
    assert [row["view"] for row in rows[:3]] == ["mean", "clip 1 crop 1", "clip 1 crop 2"]
    wrong = sum(row["label"] != row["prediction"] for row in rows if row["view"] != "mean")
    assert second["test_clip_top1"] == pytest.approx(1 - wrong / 48)
    same = compare([str(out / "predictions.csv"), str(table)])
    assert same.difference == 0 and same.p_value == 1 and same.both_right + same.both_wrong == 8
    assert "95 % intervals are over videos" in capsys.readouterr().out


def test_the_average_is_of_logits_or_of_probabilities_as_named(model: Path, bars_dataset: Path, tmp_path: Path) -> None:
    for average in ("logits", "probabilities"):
        table = tmp_path / f"{average}.csv"
        evaluate([str(model), str(bars_dataset), "--views", "3x1", "--average", average, "--predictions", str(table), *OPTIONS])  # fmt: skip
        rows = read(table)
        views = np.array([[float(row["left"]), float(row["right"])] for row in rows if row["view"] != "mean"])
        views = views.reshape(8, 3, 2)
        means = np.array([[float(row["left"]), float(row["right"])] for row in rows if row["view"] == "mean"])
        geometric = np.exp(np.log(views).mean(1))
        expected = views.mean(1) if average == "probabilities" else geometric / geometric.sum(1, keepdims=True)
        np.testing.assert_allclose(means, expected, atol=1e-5)
        assert (np.abs(views - views.mean(1, keepdims=True)) > 1e-4).any(), "the views are not all the same"


def test_every_video_is_dealt_to_some_process_and_none_has_less_to_do() -> None:
    for videos in (1, 2, 5, 8, 9):
        for processes in (1, 2, 3, 4):
            dealt = [_dealt(videos, rank, processes) for rank in range(processes)]
            assert len({len(own) for own in dealt}) == 1
            assert sorted({index for own in dealt for index in own}) == list(range(videos))


def two_ranks() -> list[dict[str, str]]:
    """The environments in which torchrun starts two processes (test_resume.py runs it)."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return [{**env, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_two_processes_choose_the_checkpoint_by_the_loss_of_one(
    model: Path, bars_dataset: Path, tmp_path: Path, forks: Forks
) -> None:
    """Of seven videos in batches of three, the last of which is filled up; the weights stay as they are."""
    loaded = datasets.load_from_disk(str(bars_dataset))
    loaded["validation"] = loaded["validation"].select(range(7))
    loaded.save_to_disk(str(tmp_path / "seven"))
    command = [
        "--dataset_name", str(tmp_path / "seven"), *FAST, "--model_name_or_path", str(model), "--learning_rate", "0",
        "--max_steps", "1", "--config", "none", "--per_device_eval_batch_size", "3", "--metric_for_best_model", "loss",
        "--use_cpu", "true",
    ]  # fmt: skip
    run([*command, "--output_dir", str(tmp_path / "one")])
    script = str(Path(__file__).parents[1] / "finetune" / "run.py")
    both = forks.run_together([[script, *command, "--output_dir", str(tmp_path / "two")]] * 2, tmp_path, two_ranks())
    assert [process.returncode for process in both] == [0, 0], both[0].stderr + both[1].stderr
    states = [json.loads(next((tmp_path / name).glob("checkpoint-1/trainer_state.json")).read_text()) for name in ("one", "two")]  # fmt: skip
    losses = [next(entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry) for state in states]
    assert losses[1] == pytest.approx(losses[0], rel=2e-6), "float32 of batches of one video and of three"
    assert [state["best_metric"] for state in states] == losses


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(model: Path, bars_dataset: Path, tmp_path: Path, forks: Forks) -> None:
    """Of seven videos, so that one is read twice, and counted once."""
    loaded = datasets.load_from_disk(str(bars_dataset))
    datasets.DatasetDict({"test": loaded["test"].select(range(7))}).save_to_disk(str(tmp_path / "seven"))
    outputs = [(tmp_path / f"{name}.json", tmp_path / f"{name}.csv") for name in ("one", "two")]
    commands = [
        [str(model), str(tmp_path / "seven"), "--views", "2x3", "--output", str(numbers), "--predictions", str(table), *OPTIONS]
        for numbers, table in outputs
    ]  # fmt: skip
    evaluate(commands[0])
    both = forks.run_together([["-m", "finetune.evaluate", *commands[1]]] * 2, tmp_path, two_ranks())
    assert [process.returncode for process in both] == [0, 0], both[0].stderr + both[1].stderr
    assert [process.stdout.count("test_top1") for process in both] == [1, 0]
    (one, one_csv), (two, two_csv) = outputs
    assert [row["video_id"] for row in read(one_csv)] == [row["video_id"] for row in read(two_csv)]
    assert sum(row["view"] == "mean" for row in read(two_csv)) == 7
    one, two = (json.loads(path.read_text()) for path in (one, two))
    numbers = [name for name in one if name.startswith("test_")]
    assert {name: two[name] for name in numbers} == pytest.approx({name: one[name] for name in numbers}, abs=1e-6)
    assert one["confusion_matrix"] == two["confusion_matrix"] and np.sum(two["confusion_matrix"]) == 7


def test_labels_are_matched_by_name(model: Path, bars_dataset: Path, tmp_path: Path) -> None:
    loaded = datasets.load_from_disk(str(bars_dataset))
    turned = datasets.ClassLabel(names=["right", "left"])
    numbers = {"label": [1 - label for label in loaded["test"]["label"]]}
    other = loaded["test"].remove_columns("label").add_column("label", numbers["label"]).cast_column("label", turned)
    datasets.DatasetDict({"test": other}).save_to_disk(str(tmp_path / "turned"))
    assert evaluate([str(model), str(tmp_path / "turned"), *OPTIONS]) == evaluate([str(model), str(bars_dataset), *OPTIONS])  # fmt: skip
    strange = other.cast_column("label", datasets.ClassLabel(names=["right", "up"]))
    datasets.DatasetDict({"test": strange}).save_to_disk(str(tmp_path / "strange"))
    with pytest.raises(UserError, match="does not know, the first 'up'; the model knows left, right"):
        evaluate([str(model), str(tmp_path / "strange"), *OPTIONS])
    with pytest.raises(UserError, match="has no split 'validation', but test"):
        evaluate([str(model), str(tmp_path / "strange"), "--split", "validation", *OPTIONS])


def test_a_video_that_is_gone_is_named_or_counts_as_wrong(model: Path, bars: Path, tmp_path: Path) -> None:
    dataset, (lost,) = with_lost_videos(bars, tmp_path, ("test",))
    command = [str(model), str(dataset), *OPTIONS]
    with pytest.raises(UserError, match=f"video '{lost}'"):
        evaluate(command)
    table = tmp_path / "p.csv"
    metrics = evaluate([*command, "--on_bad_video", "skip", "--predictions", str(table), "--output", str(tmp_path / "m.json")])  # fmt: skip
    rows = read(table)
    assert [row["video_id"] for row in rows if row["prediction"] == "unreadable"] == [lost]
    assert metrics["test_top1"] == pytest.approx(sum(row["label"] == row["prediction"] for row in rows) / 10)
    document = json.loads((tmp_path / "m.json").read_text())
    assert document["unreadable"][0]["video_id"] == lost and np.sum(document["confusion_matrix"]) == 9
    assert "count as wrong" in document["protocol"]


def _several_labels(bars_dataset: Path, folder: Path) -> Path:
    """Every video has its side, and every third is also `bright`."""
    names = ["left", "right", "bright"]

    def several(row: dict, index: int) -> dict:
        return {"labels": [row["label"], *([2] if index % 3 == 0 else [])]}

    loaded = datasets.load_from_disk(str(bars_dataset)).map(several, with_indices=True).remove_columns("label")
    loaded = loaded.cast_column("labels", datasets.List(datasets.ClassLabel(names=names)))
    loaded.save_to_disk(str(folder))
    return folder


def test_several_labels_per_video(bars_dataset: Path, tmp_path: Path) -> None:
    splits = load_splits(str(_several_labels(bars_dataset, tmp_path / "several")), need_validation=True)
    assert splits.is_multi_label and splits.labels == ["left", "right", "bright"]
    torch.manual_seed(0)
    start = load_start(ModelArguments("timesformer-tiny"), splits.labels)
    start.model.config.problem_type = MULTI_LABEL
    transform = ClipTransform(start.processor)
    maker = ClipMaker(8, transform, on_bad_video="skip", num_labels=3)
    clips = Clips(splits.test, maker, training=False)
    gone = {**clips.rows[1], "video": {"bytes": None, "path": "gone.mp4"}}
    labels = collate([clips[0], maker.evaluation(gone)])["labels"]
    assert labels.dtype == torch.float32 and labels.tolist()[1] == [IGNORED] * 3
    assert labels.tolist()[0] == [1.0 * (i in splits.test[0]["labels"]) for i in range(3)]

    scorer, protocol = Scorer(start.model, 4, 0, torch.device("cpu")), Protocol(Views(2, 1))
    before = evaluate_split(scorer, maker, splits.test, "test", protocol)
    assert before.thresholds.tolist() == [0.5] * 3 and "from 0.5 on" in before.protocol
    choose_thresholds(scorer, maker, splits.validation, protocol)
    after = evaluate_split(scorer, maker, splits.test, "test", protocol)
    assert after.thresholds.tolist() == start.model.config.label_thresholds != [0.5] * 3
    assert "chosen by F1 on the validation split" in after.protocol
    assert after.metrics["test_mean_average_precision"] == before.metrics["test_mean_average_precision"]
    assert set(after.metrics) == {f"test_{name}" for name in ("mean_average_precision", "macro_f1", "micro_f1", "subset_accuracy", "loss")}  # fmt: skip
    validation = evaluate_split(scorer, maker, splits.validation, "validation", protocol)
    del start.model.config.label_thresholds
    halves = evaluate_split(scorer, maker, splits.validation, "validation", protocol)
    assert validation.metrics["validation_macro_f1"] >= halves.metrics["validation_macro_f1"]
    write_pictures(after, maker, tmp_path)
    for name in ("per_class", "predictions", "hardest_clips"):
        assert np.asarray(Image.open(tmp_path / f"{name}.png").convert("L")).std() > 5
    assert not (tmp_path / "confusion_matrix.png").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_a_run_on_several_labels_keeps_its_thresholds_and_is_measured_again(bars_dataset: Path, tmp_path: Path) -> None:
    dataset, out = str(_several_labels(bars_dataset, tmp_path / "several")), tmp_path / "out"
    metrics = run(["--dataset_name", dataset, "--output_dir", str(out), *FAST, "--max_steps", "2"])
    assert len(json.loads((out / "config.json").read_text())["label_thresholds"]) == 3
    assert evaluate([str(out), dataset, *OPTIONS]) == pytest.approx(metrics, abs=1e-6)
    assert {row["label"] for row in read(out / "predictions.csv")} <= {"left", "right", "left|bright", "right|bright"}


def test_the_hardest_clips_are_the_most_confident_errors_then_the_least_confident_answers(
    model: Path, bars_dataset: Path
) -> None:
    loaded, processor = load_checkpoint(str(model))
    splits = load_splits(str(bars_dataset), need_validation=False)
    maker = ClipMaker(8, ClipTransform(processor))
    evaluation = evaluate_split(Scorer(loaded, 8, 0, torch.device("cpu")), maker, splits.train, "train", Protocol(Views()))  # fmt: skip
    right = evaluation.scores.argmax(1) == evaluation.labels
    assert 0 < right.sum() < 24
    chosen, confidence = hardest(evaluation), evaluation.scores.max(1)
    errors = [i for i in chosen if not right[i]]
    assert chosen[: len(errors)] == errors == sorted(errors, key=lambda i: -confidence[i])
    assert confidence[errors[0]] == confidence[~right].max()
    assert evaluation.computed["top1"] == compute_all(np.log(evaluation.scores), evaluation.labels)["top1"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--views", "2"), "expected clips x crops"),
        (("--batch_size", "0"), "expected at least 1"),
        (("--output", "/no/such/folder/m.json"), "its directory does not exist"),
        (("--average", "scores"), "invalid choice"),
    ],
)
def test_wrong_usage_is_said_before_any_work(option: tuple[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(["no-model", "no-dataset", *option])


@pytest.mark.parametrize("command", [evaluate, compare, folds])
def test_every_flag_is_explained(command: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        command(["--help"])
    assert capsys.readouterr().out.startswith("usage: python -m finetune.")


def test_the_script_does_not_hide_the_library_it_needs(forks: Forks, tmp_path: Path) -> None:
    done = forks.run(str(Path(__file__).parents[1] / "finetune" / "evaluate.py"), "--help", cwd=tmp_path)
    assert done.returncode == 0 and "--views" in done.stdout, done.stderr
