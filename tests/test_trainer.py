"""What `LearningArguments` promise, through the whole command on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from data_prep.errors import UserError
from finetune.evaluate import main as evaluate
from finetune.model.weights import load_checkpoint
from finetune.run import main
from finetune.training import probe
from finetune.training.trainer import VideoTrainer

FAST = [
    "--no_flip", "--short_side_jitter", "48", "50", "--per_device_train_batch_size", "4", "--dataloader_num_workers", "0",
    "--report_to", "none", "--disable_tqdm", "true",
]  # fmt: skip


def train(dataset: Path, output_dir: Path, *more: str, model: str = "timesformer-tiny") -> dict[str, float]:
    return main(["--dataset_name", str(dataset), "--output_dir", str(output_dir), "--model_name_or_path", model, *FAST, *more])  # fmt: skip


@pytest.fixture(scope="module")
def started(bars_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint to go on from, which has learned nothing yet; trained in steps of 8 clips with early stopping."""
    output_dir = tmp_path_factory.mktemp("started") / "run"
    train(
        bars_dataset, output_dir, "--target_batch_size", "8", "--lr_batch_size", "16", "--learning_rate", "1e-9",
        "--num_train_epochs", "9", "--early_stopping_patience", "1", "--mixup_alpha", "0.8",
    )  # fmt: skip
    return output_dir


def test_a_step_has_the_clips_asked_for_and_training_stops_when_nothing_gets_better(started: Path) -> None:
    state = json.loads(next(started.glob("checkpoint-*/trainer_state.json")).read_text())
    assert state["global_step"] == 3, "24 videos, 8 a step; the best is the first epoch's"
    recipe = (started / "recipe.yaml").read_text()
    assert "target_batch_size: 8" in recipe and "learning_rate: 1.0e-09" in recipe


def test_the_first_batch_is_pictured_as_the_model_sees_it(started: Path) -> None:
    with Image.open(started / "first_batch.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] > 800 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_a_linear_probe_trains_the_head_alone_and_says_what_it_chose(
    bars_dataset: Path, started: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = train(bars_dataset, tmp_path / "out", "--config", "linear_probe", model=str(started))
    assert capsys.readouterr().out.count("(chosen)") == 1
    before, after = (load_file(folder / "model.safetensors") for folder in (started, tmp_path / "out"))
    assert {name for name in before if not torch.equal(before[name], after[name])} <= {
        "classifier.weight",
        "classifier.bias",
    }
    assert not torch.equal(before["classifier.weight"], after["classifier.weight"])
    assert 0 <= metrics["test_top1"] <= 1


def test_a_new_head_may_start_from_the_linear_probe_and_an_old_one_is_kept(
    bars_dataset: Path, started: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["--head_start", "linear_probe", "--max_steps", "1", "--learning_rate", "0"]
    train(bars_dataset, tmp_path / "new", *start, "--new_head", model=str(started))
    assert capsys.readouterr().out.count("(chosen)") == 1
    train(bars_dataset, tmp_path / "probe", "--config", "linear_probe", model=str(started))
    heads = [load_file(tmp_path / run / "model.safetensors")["classifier.weight"] for run in ("new", "probe")]
    torch.testing.assert_close(*heads)
    capsys.readouterr()
    train(bars_dataset, tmp_path / "old", *start, model=str(started))
    assert "(chosen)" not in capsys.readouterr().out


def test_without_validation_the_probes_strength_is_judged_on_groups_that_were_held_out(
    bars_dataset: Path, started: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = datasets.load_from_disk(str(bars_dataset))
    del splits["validation"]
    splits.save_to_disk(tmp_path / "data")
    train(tmp_path / "data", tmp_path / "out", "--config", "linear_probe", "--eval_strategy", "no", model=str(started))
    assert capsys.readouterr().out.count("5-fold loss") == len(probe._PENALTIES)
    groups = np.array([3, 1, 3, 2, 7, 5, 1, 9, 9, 2, 4])
    masks = torch.stack(probe.folds(groups))
    assert (masks.sum(0) == 1).all()  # every video is held out once
    for group in set(groups):
        assert masks[:, groups == group].any(1).sum() == 1  # a group in one fold
    assert probe.folds(np.array([1, 1, 1])) == []


@pytest.mark.parametrize("keeps_best", [False, True])
def test_the_model_kept_is_the_average_that_was_evaluated(bars_dataset: Path, tmp_path: Path, keeps_best: bool) -> None:
    """Of the last epoch, or of the best: both are in their checkpoint, beside the weights that training goes on from."""
    out = tmp_path / "out"
    train(
        bars_dataset, out, "--ema_decay", "0.9", "--num_train_epochs", "2", "--learning_rate", "1e-3",
        "--load_best_model_at_end", str(keeps_best), "--save_total_limit", "5",
    )  # fmt: skip
    state = json.loads((out / "checkpoint-12" / "trainer_state.json").read_text())
    kept = Path(state["best_model_checkpoint"]) if keeps_best else out / "checkpoint-12"
    model, average = load_file(out / "model.safetensors"), load_file(kept / "model.safetensors")
    assert all(torch.equal(model[name], average[name]) for name in average)
    assert not torch.equal(
        model["classifier.weight"], load_file(kept / "training_weights.safetensors")["classifier.weight"]
    )


def test_too_few_videos_for_one_whole_batch_are_no_training(bars_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="24 training videos do not fill one batch of 32"):
        train(bars_dataset, tmp_path / "out", "--dataloader_drop_last", "true", "--per_device_train_batch_size", "32")


@pytest.mark.parametrize("length", [("--max_steps", "6"), ("--num_train_epochs", "1")])
def test_a_warmup_that_never_ends_is_refused_before_anything_is_written(
    bars_dataset: Path, tmp_path: Path, length: tuple[str, str]
) -> None:
    with pytest.raises(UserError, match="--warmup_steps is 7, but the run has 6 steps"):
        train(bars_dataset, tmp_path / "out", "--warmup_steps", "7", *length)
    assert not any((tmp_path / "out").iterdir())


def test_a_run_that_goes_on_keeps_a_warmup_that_never_ends(bars_dataset: Path, tmp_path: Path) -> None:
    """Earlier versions began such runs, and the schedule lies in their checkpoints."""
    train(bars_dataset, tmp_path / "out", "--num_train_epochs", "1")
    train(bars_dataset, tmp_path / "out", "--num_train_epochs", "2", "--warmup_steps", "99", "--resume_from_checkpoint")


def test_milestones_are_epochs_however_long_the_run_is(
    bars_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []
    whole = VideoTrainer.training_step

    def training_step(self: VideoTrainer, *args: object, **kwargs: object) -> torch.Tensor:
        rates.append(self.optimizer.param_groups[0]["lr"])
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(VideoTrainer, "training_step", training_step)
    train(bars_dataset, tmp_path / "out", "--max_steps", "9", "--lr_milestones", "1", "--learning_rate", "1e-3")
    assert rates == pytest.approx([1e-3] * 6 + [1e-4] * 3), "24 videos in batches of 4: an epoch is 6 steps"


@pytest.mark.extra("peft")
def test_lora_ends_as_a_plain_checkpoint_that_predicts_what_was_measured(
    bars_dataset: Path, started: Path, tmp_path: Path
) -> None:
    train(bars_dataset, tmp_path / "out", "--lora_rank", "2", "--max_steps", "6", "--learning_rate", "1e-2", model=str(started))  # fmt: skip
    before, after = (load_file(folder / "model.safetensors") for folder in (started, tmp_path / "out"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "timesformer.encoder.layer.0.attention.attention.qkv.weight" in changed
    assert not any("layernorm" in name or "embeddings" in name for name in changed)
    load_checkpoint(str(tmp_path / "out"))


def test_several_labels_a_video_are_learned_and_the_checkpoint_says_so(bars_dataset: Path, tmp_path: Path) -> None:
    several = datasets.DatasetDict(
        {
            split: rows.add_column("labels", [[label, 2] for label in rows["label"]])
            .remove_columns("label")
            .cast_column("labels", datasets.List(datasets.ClassLabel(names=["left", "right", "bar"])))
            for split, rows in datasets.load_from_disk(str(bars_dataset)).items()
        }
    )
    several.save_to_disk(str(tmp_path / "data"))
    metrics = train(tmp_path / "data", tmp_path / "out", "--num_train_epochs", "3", "--learning_rate", "1e-3")
    assert metrics["test_mean_average_precision"] > 0.5
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    probed = train(tmp_path / "data", tmp_path / "probed", "--config", "linear_probe", model=str(tmp_path / "out"))
    assert probed["test_mean_average_precision"] > 0.5
    with pytest.raises(UserError, match="several labels each"):
        train(tmp_path / "data", tmp_path / "no", "--sampler", "balanced")


def test_out_of_memory_is_answered_with_three_settings(
    bars_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def training_step(self: VideoTrainer, *args: object, **kwargs: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(VideoTrainer, "training_step", training_step)
    with pytest.raises(UserError, match=r"per_device_train_batch_size.*gradient_checkpointing.*bf16"):
        train(bars_dataset, tmp_path / "out")


def test_one_process_computes_on_one_device_and_says_that_others_are_idle(
    bars_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a machine of four GPUs, as far as anything asks; the one that is used is the CPU."""
    for name, value in (("is_available", True), ("device_count", 4)):
        monkeypatch.setattr(torch.accelerator, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    whole = VideoTrainer.training_step
    clips = []

    def training_step(self: VideoTrainer, model: object, inputs: dict, *args: object) -> torch.Tensor:
        clips.append(len(inputs["labels"]))
        return whole(self, model, inputs, *args)

    monkeypatch.setattr(VideoTrainer, "training_step", training_step)
    command = ["--optim", "sgd", "--max_steps", "2", "--gradient_accumulation_steps", "2", "--dataloader_pin_memory", "false"]  # fmt: skip
    train(bars_dataset, tmp_path / "out", *command)
    said = capsys.readouterr().out
    assert "8 clips a step: 4 x 1 processes x 2 accumulated" in said and clips == [4] * 4
    assert "1 of 4 GPUs is used" in said and "--num_processes 4" in said
    args = torch.load(tmp_path / "out" / "training_args.bin", weights_only=False)
    assert args.n_gpu == 1 and args.train_batch_size == 4
    evaluate([str(tmp_path / "out"), str(bars_dataset), "--dataloader_num_workers", "0"])
    assert "1 of 4 GPUs is used" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    evaluate([str(tmp_path / "out"), str(bars_dataset), "--dataloader_num_workers", "0"])
    assert "GPUs" not in capsys.readouterr().err


def test_batches_shrink_until_they_fit_and_a_step_keeps_its_clips(
    bars_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = VideoTrainer.training_step
    steps = []

    def training_step(self: VideoTrainer, model: object, inputs: dict, num_items: object = None) -> torch.Tensor:
        if len(inputs["labels"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        steps.append(self.args.gradient_accumulation_steps)
        return whole(self, model, inputs, num_items)

    monkeypatch.setattr(VideoTrainer, "training_step", training_step)
    train(
        bars_dataset, tmp_path / "out", "--auto_find_batch_size", "true", "--target_batch_size", "4", "--max_steps", "2"
    )
    assert steps == [2, 2, 2, 2]


def test_a_small_dataset_and_trained_weights_are_given_the_recipe_for_it(
    bars_dataset: Path, started: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(bars_dataset, tmp_path / "out", "--max_steps", "1", model=str(started))
    assert "24 training videos: settings that are not given are those of --config small_data" in capsys.readouterr().out
    recipe = (tmp_path / "out" / "recipe.yaml").read_text()
    assert "layer_decay: " in recipe and "max_steps: 1" in recipe
