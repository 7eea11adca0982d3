"""finetune/run.py: trains for real, and what it leaves works anywhere."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import yaml
from forks import Forks
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoModelForVideoClassification,
    TimesformerForVideoClassification,
    TrainingArguments,
    pipeline,
)

from data_prep.errors import UserError, exit_cleanly
from data_prep.video import probe, read_frames
from finetune.clips import clip as clip_module
from finetune.clips.dataset import load_split
from finetune.predict import main as predict
from finetune.run import main

ROOT = Path(__file__).parents[1]
FAST = [
    "--model_name_or_path", "timesformer-tiny", "--no_flip", "--short_side_jitter", "48", "50",
    "--per_device_train_batch_size", "4", "--learning_rate", "1e-3", "--dataloader_num_workers", "0",
    "--report_to", "none", "--disable_tqdm", "true",
]  # fmt: skip


def train(dataset: Path, output_dir: Path, *more: str) -> dict[str, float]:
    return main(["--dataset_name", str(dataset), "--output_dir", str(output_dir), *FAST, *more])


@pytest.fixture(scope="session")
def finished(bars_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A run that learned left from right; TensorBoard on, one worker."""
    output_dir = tmp_path_factory.mktemp("runs") / "bars"
    metrics = train(bars_dataset, output_dir, "--num_train_epochs", "20", "--learning_rate", "2e-3", "--metric_for_best_model", "loss", "--report_to", "tensorboard", "--dataloader_num_workers", "1")  # fmt: skip
    return output_dir, metrics


def test_it_learns_the_direction_of_a_motion(finished: tuple[Path, dict[str, float]]) -> None:
    """Two classes that differ by the order of their frames alone: 100 % on videos not trained on."""
    assert finished[1]["test_top1"] == 1.0


def test_every_promised_file_is_there_and_opens(finished: tuple[Path, dict[str, float]]) -> None:
    output_dir, metrics = finished
    for name in ("curves.png", "confusion_matrix.png", "predictions.png", "hardest_clips.png"):
        picture = np.asarray(Image.open(output_dir / name).convert("L"))
        assert picture.shape[0] > 100 and picture.std() > 5, name
    with (output_dir / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({row["video_id"] for row in rows}) == 8
    assert all(row["label"] == row["prediction"] for row in rows)
    assert all(float(row["left"]) + float(row["right"]) == pytest.approx(1, abs=1e-5) for row in rows)
    written = json.loads((output_dir / "metrics.json").read_text())
    assert written["test_top1"] == metrics["test_top1"]
    assert written["confusion_matrix"] == [[4, 0], [0, 4]]
    assert list(output_dir.glob("**/events.out.tfevents.*"))
    card = ModelCard.load(output_dir / "README.md")
    assert card.data.pipeline_tag == "video-classification"
    assert card.data.eval_results[0].metric_value == 1.0
    assert str(output_dir.parent) not in card.content


def test_plain_transformers_loads_it_with_the_same_logits(finished: tuple[Path, dict[str, float]], bars: Path) -> None:
    model = AutoModelForVideoClassification.from_pretrained(finished[0])
    assert type(model) is TimesformerForVideoClassification
    assert model.config.id2label == {0: "left", 1: "right"}
    assert model.config.clip_sampling == "uniform"


def test_training_evaluation_predict_and_pipeline_agree(finished: tuple[Path, dict[str, float]], bars: Path) -> None:
    """Same videos, same scores within 1e-3, from predictions.csv, from predict, and from transformers' pipeline."""
    output_dir, _ = finished
    with (output_dir / "predictions.csv").open(newline="") as file:
        rows = {row["video_id"]: row for row in csv.DictReader(file)}
    classify = pipeline("video-classification", model=str(output_dir))
    predicted = {row["video"]: row for row in predict([str(output_dir), *(str(bars / video_id) for video_id in rows)])}
    for video_id, row in rows.items():
        path = bars / video_id
        frames = read_frames(path, range(probe(path).num_frames))
        for answer in (predicted[str(path)]["predictions"], classify(frames)):
            for guess in answer:
                assert guess["score"] == pytest.approx(float(row[guess["label"]]), abs=1e-3)


def test_the_pipeline_on_a_path_is_right_or_fails_loudly(finished: tuple[Path, dict[str, float]], bars: Path) -> None:
    """Never the first frames silently: without torchcodec, transformers must raise."""
    path = bars / "left" / "0.mp4"
    classify = pipeline("video-classification", model=str(finished[0]))
    try:
        answer = classify(str(path))
    except ImportError as error:
        assert "torchcodec" in str(error)
    else:
        expected = predict([str(finished[0]), str(path)])[0]["predictions"][0]
        assert answer[0]["label"] == expected["label"]


def test_weights_move_and_the_checkpoint_is_the_best_one(finished: tuple[Path, dict[str, float]]) -> None:
    trained = load_file(finished[0] / "model.safetensors")
    state = json.loads(
        max(finished[0].glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime).read_text()
    )
    best = load_file(Path(state["best_model_checkpoint"]) / "model.safetensors")
    assert trained.keys() == best.keys()
    assert all(torch.equal(trained[name], best[name]) for name in trained)


def test_resuming_gives_the_weights_of_an_uninterrupted_run(bars_dataset: Path, tmp_path: Path) -> None:
    """Killed during epoch 2, after the checkpoint of epoch 1, with a half-written later one lying there."""
    options = ("--num_train_epochs", "2", "--save_total_limit", "5")
    train(bars_dataset, tmp_path / "whole", *options)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    first, second = sorted((tmp_path / "cut").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    (second / "trainer_state.json").unlink()
    (tmp_path / "cut" / "model.safetensors").unlink()
    train(bars_dataset, tmp_path / "cut", *options, "--resume_from_checkpoint")
    whole, cut = (load_file(tmp_path / name / "checkpoint-12" / "model.safetensors") for name in ("whole", "cut"))
    assert first.name == "checkpoint-6"
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_folder_of_videos_is_prepared_by_itself_and_once(
    bars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    options = ("--max_steps", "1", "--eval_strategy", "no", "--save_strategy", "no")
    first = train(bars, tmp_path / "one", *options)
    assert "is not a prepared dataset: running" in capfd.readouterr().out
    second = train(bars, tmp_path / "two", *options)
    assert "is up to date: " in capfd.readouterr().out
    assert first == second


def test_a_list_is_prepared_again_when_a_video_of_it_has_come_back(
    bars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    videos = tmp_path / "videos"
    shutil.copytree(bars, videos)
    listed = sorted(path.relative_to(tmp_path) for path in videos.rglob("*.mp4"))
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"{path},{path.parent.name}\n" for path in listed))
    (tmp_path / listed[0]).rename(tmp_path / "away.mp4")
    assert len(load_split(str(tmp_path / "list.csv"), "all")) == len(listed) - 1
    (tmp_path / "away.mp4").rename(tmp_path / listed[0])
    assert len(load_split(str(tmp_path / "list.csv"), "all")) == len(listed)


def test_fine_tuning_a_checkpoint_again_replaces_its_head(
    finished: tuple[Path, dict[str, float]], bars_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = train(bars_dataset, tmp_path / "kept", "--max_steps", "1", "--learning_rate", "0", "--model_name_or_path", str(finished[0]))  # fmt: skip
    assert "kept: its 2 labels are the dataset's" in capsys.readouterr().out
    assert metrics["test_top1"] == 1.0


def _two_splits(dataset: Path, target: Path, *splits: str) -> str:
    loaded = datasets.load_from_disk(str(dataset))
    datasets.DatasetDict({split: loaded[split] for split in splits}).save_to_disk(str(target))
    return str(target)


def test_without_a_test_split_the_numbers_are_validations_and_the_card_says_so(
    bars_dataset: Path, tmp_path: Path
) -> None:
    dataset = _two_splits(bars_dataset, tmp_path / "d", "train", "validation")
    metrics = train(Path(dataset), tmp_path / "out", "--max_steps", "1")
    assert {"validation_top1", "validation_top5", "validation_macro_f1", "validation_loss"} <= set(metrics)
    assert all(name.startswith("validation_") for name in metrics)
    assert "There was no test split" in (tmp_path / "out" / "README.md").read_text()


def test_the_errors_a_newcomer_makes(
    bars_dataset: Path, bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is one line on stderr and code 2, before any training."""
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("precious")
    (tmp_path / "empty").mkdir()
    no_train = _two_splits(bars_dataset, tmp_path / "no_train", "test")
    no_validation = _two_splits(bars_dataset, tmp_path / "no_validation", "train", "test")
    loaded = datasets.load_from_disk(str(bars_dataset))
    loaded.remove_columns("num_frames").save_to_disk(str(tmp_path / "no_column"))
    ok = str(bars_dataset)
    for dataset, more, message in (
        (str(tmp_path / "none"), [], "no such directory"),
        (str(tmp_path / "empty"), [], "data_prep ended with code 2"),
        (no_train, [], "no train split"),
        (no_validation, [], "no validation split"),
        (str(tmp_path / "no_column"), [], "column num_frames is missing"),
        (ok, ["--model_name_or_path", str(tmp_path / "empty")], "is not a checkpoint"),
        (ok, ["--output_dir", str(tmp_path / "taken")], "exists: choose another"),
        (ok, ["--output_dir", str(tmp_path / "taken"), "--overwrite_output_dir"], "is not a run of this project"),
        (ok, ["--output_dir", str(tmp_path / "taken" / "thesis.txt")], "is a file"),
        (ok, ["--resume_from_checkpoint"], "there is no complete checkpoint"),
        (ok, ["--learning_rte", "1"], "Did you mean --learning_rate?"),
    ):  # fmt: skip
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
        argv = ["--dataset_name", dataset, "--output_dir", str(tmp_path / "new"), *FAST, *more]
        capsys.readouterr()
        assert exit_cleanly(main)(argv) == 2, message
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and message in lines[0], (message, lines)
    assert (tmp_path / "taken" / "thesis.txt").read_text() == "precious"


def test_other_schemes_and_clips_go_the_whole_way(
    bars_dataset: Path, bars: Path, finished: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    """From a trained checkpoint to one of another scheme, more frames and a rectangle, and what predicts with it."""
    # Named so from transformers 5.18 on.
    is_new = hasattr(TrainingArguments, "activation_checkpointing")
    checkpointing = "--activation_checkpointing" if is_new else "--gradient_checkpointing"
    options = (
        "--model_name_or_path", str(finished[0]), "--attention_type", "axial", "--num_frames", "9", "--image_size", "48", "36",
        "--drop_path_rate", "0.1", "--head_dropout", "0.1", checkpointing, "true", "--max_steps", "2",
    )  # fmt: skip
    train(bars_dataset, tmp_path / "out", *options)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["attention_type"], config["num_frames"], config["image_size"]) == ("axial", 9, [48, 36])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "axial" in card and "load_checkpoint" in card
    recipe = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())
    assert (recipe["attention_type"], recipe["image_size"], recipe["drop_path_rate"]) == ("axial", [48, 36], 0.1)
    rows = predict([str(tmp_path / "out"), str(bars / "left" / "0.mp4"), "--format", "json"])
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        scores = {row["video_id"]: float(row["left"]) for row in csv.DictReader(file)}
    if "left/0.mp4" in scores:
        assert {p["label"]: p["score"] for p in rows[0]["predictions"]}["left"] == pytest.approx(scores["left/0.mp4"], abs=1e-3)  # fmt: skip


def test_nothing_a_run_needs_or_does_not_own_is_deleted(bars_dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(bars_dataset, tmp_path / "run" / "data")
    (tmp_path / "run" / "recipe.yaml").write_text("seed: 0")
    with pytest.raises(UserError, match="would delete"):
        train(tmp_path / "run" / "data", tmp_path / "run", "--overwrite_output_dir")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("precious")
    with pytest.raises(UserError, match="is not a run of this project"):
        train(bars_dataset, tmp_path / "mine", "--resume_from_checkpoint", str(tmp_path))
    assert (tmp_path / "run" / "data" / "summary.json").is_file()
    assert (tmp_path / "mine" / "README.md").read_text() == "precious"


def test_a_run_is_not_resumed_on_other_labels(
    finished: tuple[Path, dict[str, float]], bars_dataset: Path, tmp_path: Path
) -> None:
    checkpoint = str(next(finished[0].glob("checkpoint-*")))
    other = datasets.load_from_disk(str(bars_dataset))
    other = other.cast_column("label", datasets.ClassLabel(names=["right", "left"]))
    other.save_to_disk(str(tmp_path / "other"))
    with pytest.raises(UserError, match="Resume with the same dataset"):
        train(tmp_path / "other", tmp_path / "out", "--resume_from_checkpoint", checkpoint)


def test_dropping_the_last_training_batch_drops_no_evaluated_video(bars_dataset: Path, tmp_path: Path) -> None:
    options = ("--max_steps", "1", "--dataloader_drop_last", "true", "--per_device_eval_batch_size", "5", "--label_smoothing_factor", "0.3")  # fmt: skip
    metrics = train(bars_dataset, tmp_path / "out", *options)
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    cross_entropy = -np.mean([np.log(float(row[row["label"]])) for row in rows])
    assert metrics["test_loss"] == pytest.approx(cross_entropy, rel=1e-3)


def test_a_video_lost_during_training_is_named_from_a_worker_too(
    bars: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(bars, tmp_path / "videos")
    from data_prep.prepare import main as data_prep

    data_prep([str(tmp_path / "videos"), str(tmp_path / "d"), "--splits", "0.6", "0.2", "0.2", "--num_proc", "1"])
    lost = datasets.load_from_disk(str(tmp_path / "d"))["train"][0]
    Path(lost["video"]["path"]).unlink()
    argv = [
        "--dataset_name",
        str(tmp_path / "d"),
        "--output_dir",
        str(tmp_path / "out"),
        *FAST,
        "--dataloader_num_workers",
        "1",
    ]
    assert exit_cleanly(main)(argv) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert f"video '{lost['video_id']}' cannot be read" in errors[0]


def with_lost_videos(bars: Path, folder: Path, splits: tuple[str, ...]) -> tuple[Path, list[str]]:
    """A prepared copy of `bars`, of which the first video of each of `splits` is gone; and their ids."""
    from data_prep.prepare import main as data_prep

    shutil.copytree(bars, folder / "videos")
    data_prep([str(folder / "videos"), str(folder / "d"), "--splits", "0.6", "0.2", "0.2", "--num_proc", "1"])
    rows = [datasets.load_from_disk(str(folder / "d"))[split][0] for split in splits]
    for row in rows:
        Path(row["video"]["path"]).unlink()
    return folder / "d", [row["video_id"] for row in rows]


def test_bad_videos_may_be_skipped_and_are_counted_and_listed(bars: Path, tmp_path: Path) -> None:
    dataset, lost = with_lost_videos(bars, tmp_path, ("train", "validation", "test"))
    metrics = train(dataset, tmp_path / "out", "--num_train_epochs", "1", "--on_bad_video", "skip", "--per_device_train_batch_size", "1")  # fmt: skip
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert sorted(entry["video_id"] for entry in written["unreadable"]) == sorted(lost)
    assert all("No such file" in entry["reason"] for entry in written["unreadable"])
    assert np.sum(written["confusion_matrix"]) == 9
    right = np.trace(written["confusion_matrix"])
    assert metrics["test_top1"] == pytest.approx(right / 10), "the one that is gone counts as wrong"
    assert all(np.isfinite(value) for value in metrics.values())
    card = (tmp_path / "out" / "README.md").read_text()
    assert "count as wrong in top\\-1" in card or "count as wrong in top-1" in card
    assert "Skipped, because they could not be read any more: 3 videos" in card
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        assert [row["video_id"] for row in csv.DictReader(file) if row["prediction"] == "unreadable"] == [lost[2]]


def test_a_killed_reader_ends_the_run_with_the_video_it_was_at(
    bars_dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kernel does when memory runs out."""
    victim = datasets.load_from_disk(str(bars_dataset))["train"][5]["video_id"]
    honest = clip_module.read_clip

    def read(row: dict, *args: object) -> torch.Tensor:
        if row["video_id"] == victim and torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(row, *args)

    monkeypatch.setattr(clip_module, "read_clip", read)
    argv = ["--dataset_name", str(bars_dataset), "--output_dir", str(tmp_path / "out"), *FAST, "--dataloader_num_workers", "1"]  # fmt: skip
    assert exit_cleanly(main)(argv) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "was killed" in errors[0] and repr(victim) in errors[0]


def test_the_log_says_how_long_training_waited_for_data(finished: tuple[Path, dict[str, float]]) -> None:
    state = json.loads(next(finished[0].glob("checkpoint-*/trainer_state.json")).read_text())
    shares = [entry["data_wait"] for entry in state["log_history"] if "loss" in entry]
    assert shares and all(0 <= share <= 1 for share in shares)


def test_the_sampling_a_model_was_trained_with_is_what_predict_uses(
    bars: Path, bars_dataset: Path, tmp_path: Path
) -> None:
    options = ("--sampling", "dense", "--frame_stride", "2", "--target_fps", "20", "--max_steps", "1")
    train(bars_dataset, tmp_path / "out", *options, "--color_jitter", "0.3", "--auto_augment", "trivialaugment")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["clip_sampling"], config["clip_frame_stride"], config["clip_target_fps"]) == ("dense", 2, 20.0)
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    answer = predict([str(tmp_path / "out"), str(bars / row["video_id"])])[0]["predictions"]
    assert {guess["label"]: guess["score"] for guess in answer} == pytest.approx(
        {"left": float(row["left"]), "right": float(row["right"])}, abs=1e-5
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert "2 apart, from the middle of the video, counted at 20 frames per second" in card
    again = tmp_path / "again"
    train(bars_dataset, again, "--model_name_or_path", str(tmp_path / "out"), "--max_steps", "1", "--config", "none")
    assert json.loads((again / "config.json").read_text())["clip_sampling"] == "dense", "a checkpoint's own goes on"


def launch(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [
        str(Path(sys.executable).parent / "accelerate"),
        "launch",
        "--config_file",
        str(ROOT / "accelerate_config.yaml"),
    ]
    return subprocess.run([*command, *arguments], cwd=cwd, capture_output=True, text=True)


@pytest.mark.slow
def test_accelerate_launch_with_the_shipped_config(bars_dataset: Path, tmp_path: Path) -> None:
    """Two processes on CPU: all videos counted once, one set of outputs. `.ci/run` launches one, as README says."""
    process = launch(
        "--num_processes", "2", str(ROOT / "finetune" / "run.py"),
        "--dataset_name", str(bars_dataset), "--output_dir", str(tmp_path / "out"), *FAST, "--max_steps", "2",
        "--per_device_eval_batch_size", "3", cwd=tmp_path,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("next:") == 1
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        assert len({row["video_id"] for row in csv.DictReader(file)}) == 8
    assert "2 process" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_a_users_error_under_accelerate_is_said_in_one_line(tmp_path: Path) -> None:
    process = launch(
        str(ROOT / "finetune" / "run.py"), "--dataset_name", "./none", "--output_dir", "o", *FAST, cwd=tmp_path
    )
    assert process.returncode != 0
    errors = [line for line in process.stderr.splitlines() if "error: --dataset_name ./none: no such directory" in line]
    assert errors[0].startswith("error: ")
    assert errors[1:] and errors[-1] in process.stderr.splitlines()[-3:], (
        "the launcher's own report ends with the reason"
    )


def test_the_script_alone_ends_with_code_2_on_a_users_error(forks: Forks, tmp_path: Path) -> None:
    script = str(ROOT / "finetune" / "run.py")
    process = forks.run(script, "--dataset_name", "./none", "--output_dir", "o", *FAST, cwd=tmp_path)
    assert process.returncode == 2
    assert "Traceback" not in process.stderr


def test_output_of_a_user_error_is_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        train(tmp_path / "none", tmp_path / "out")
    assert not (tmp_path / "out").exists()
