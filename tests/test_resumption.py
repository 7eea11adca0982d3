"""A run that goes on says from where, to where and with what; where nothing is left to train it says that."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

import finetune.run
from data_prep.errors import UserError, exit_cleanly
from finetune.run import main
from finetune.training.trainer import VideoTrainer

# 24 videos in batches of 12: 2 steps an epoch. With a rate of 0 the first epoch is the best and all weights are equal.
OPTIONS = [
    "--model_name_or_path", "timesformer-tiny", "--no_flip", "--short_side_jitter", "48", "50", "--config", "none",
    "--per_device_train_batch_size", "12", "--learning_rate", "0", "--dataloader_num_workers", "0",
    "--report_to", "none", "--disable_tqdm", "true",
]  # fmt: skip

pytestmark = pytest.mark.usefixtures("without_pictures")


def options(dataset: Path, output_dir: Path, *more: str) -> list[str]:
    return ["--dataset_name", str(dataset), "--output_dir", str(output_dir), *OPTIONS, *more]


def steps_of(run: Path) -> set[int]:
    return {int(path.name.rpartition("-")[2]) for path in run.glob("checkpoint-*")}


def last_step(run: Path) -> int:
    state = json.loads((run / f"checkpoint-{max(steps_of(run))}" / "trainer_state.json").read_text())
    return int(state["global_step"])


def stop_in_the_last_evaluation(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(finetune.run, "evaluate", lambda *args: os.kill(os.getpid(), signal.SIGTERM))


@pytest.fixture(scope="module")
def finished(bars_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output_dir = tmp_path_factory.mktemp("finished") / "run"
    main(options(bars_dataset, output_dir, "--num_train_epochs", "2"))
    return output_dir


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_the_last_checkpoint_stays_beside_the_best(finished: Path) -> None:
    assert steps_of(finished) == {2, 4}


@pytest.mark.parametrize("more", [["--num_train_epochs", "1"], ["--num_train_epochs", "2"], ["--max_steps", "3"]])
def test_a_finished_run_with_nothing_left_to_train_is_refused_and_left_as_it_is(
    bars_dataset: Path, run: Path, more: list[str]
) -> None:
    before = {name: (run / name).read_bytes() for name in ("README.md", "recipe.yaml", "metrics.json")}
    with pytest.raises(UserError, match=r"nothing is left to train from .*checkpoint-4: it has done 4 steps, and \d"):
        main(options(bars_dataset, run, *more, "--learning_rate", "0.5", "--resume_from_checkpoint"))
    assert before == {name: (run / name).read_bytes() for name in before}
    assert not (run / "unfinished.json").exists()


def test_more_epochs_go_on_from_the_last_step_and_the_card_says_what_was_used(
    bars_dataset: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = ("--num_train_epochs", "3", "--learning_rate", "0.5", "--mixup_alpha", "0.8")
    main(options(bars_dataset, run, *changed, "--resume_from_checkpoint"))
    told = capsys.readouterr().out
    assert f"going on from {run}/checkpoint-4: step 4 of 6, epoch 2 of 3 (" in told
    assert (
        "without effect, as the optimizer and its schedule go on from the checkpoint: learning_rate 0.0 -> 0.5" in told
    )
    assert "changed from here on: num_train_epochs 2.0 -> 3.0, mixup_alpha 0.0 -> 0.8" in told
    first, last = (load_file(run / f"checkpoint-{step}" / "model.safetensors") for step in (2, 6))
    assert all(first[name].equal(last[name]) for name in first), "the rate of 0 that the optimizer has"
    text = (run / "recipe.yaml").read_text()
    assert yaml.safe_load(text)["learning_rate"] == 0 and yaml.safe_load(text)["mixup_alpha"] == 0.8
    assert "# until step 4: num_train_epochs 2.0, mixup_alpha 0.0\n" in text
    card = (run / "README.md").read_text()
    assert r"| learning\_rate | `0.0` |" in card and r"until step 4: num\_train\_epochs 2.0, mixup\_alpha 0.0" in card


@pytest.mark.slow
def test_another_batch_size_says_how_steps_are_counted_now(
    bars_dataset: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(options(bars_dataset, run, "--per_device_train_batch_size", "24", "--max_steps", "5", "--resume_from_checkpoint"))  # fmt: skip
    told = capsys.readouterr().out
    assert "step 4 of 5, epoch 4 of 5 as steps are counted now (2 as it was trained)" in told
    assert "per_device_train_batch_size 12 -> 24" in told


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--optim", "sgd"], "was trained with --optim adamw_torch_fused, and cannot go on with sgd"),
        (["--ema_decay", "0.9"], "was trained with --ema_decay 0.0, and cannot go on with 0.9"),
        (["--weight_decay_on", "all"], "was trained with --weight_decay_on matrices, and cannot go on with all"),
        (["--attention_type", "space_only"], "has attention_type divided_space_time, and space_only is asked for"),
    ],
)  # fmt: skip
def test_settings_that_a_checkpoint_does_not_fit_are_refused(
    bars_dataset: Path, run: Path, more: list[str], line: str
) -> None:
    recipe = (run / "recipe.yaml").read_bytes()
    with pytest.raises(UserError, match=line):
        main(options(bars_dataset, run, "--num_train_epochs", "3", *more, "--resume_from_checkpoint"))
    assert (run / "recipe.yaml").read_bytes() == recipe


@pytest.mark.slow
def test_an_older_checkpoint_goes_on_in_a_folder_of_its_own(
    bars_dataset: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Among newer ones, what it saves would be taken for the oldest and deleted."""
    older = ("--num_train_epochs", "2", "--resume_from_checkpoint", str(run / "checkpoint-2"))
    with pytest.raises(UserError, match="holds newer ones, to checkpoint-4. Give another --output_dir"):
        main(options(bars_dataset, run, *older))
    command = options(bars_dataset, tmp_path / "other", *older)
    with pytest.MonkeyPatch.context() as patch:
        stop_in_the_last_evaluation(patch)
        assert exit_cleanly(main)(command) == 75
    capsys.readouterr()
    main(command)
    assert f"going on from {tmp_path}/other/checkpoint-4: step 4 of 4" in capsys.readouterr().out


def test_a_run_that_stopped_early_does_not_train_on_when_it_goes_on(
    bars_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    command = options(bars_dataset, run, "--num_train_epochs", "5", "--early_stopping_patience", "1")
    with monkeypatch.context() as patch:
        stop_in_the_last_evaluation(patch)
        assert exit_cleanly(main)(command) == 75
    main(command)
    assert last_step(run) == 4 and (run / "metrics.json").exists()
    assert "training was done, what is left is the evaluation" in capsys.readouterr().out
    with pytest.raises(UserError, match="early stopping ended it after 1 evaluations without a better one"):
        main([*command, "--resume_from_checkpoint"])
    main([*command[:-1], "2", "--resume_from_checkpoint"])
    assert last_step(run) == 6


@pytest.mark.slow
def test_a_run_of_so_many_steps_trains_none_more_when_it_goes_on(
    bars_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which end in the midst of an epoch."""
    command = options(bars_dataset, tmp_path / "run", "--max_steps", "3")
    with monkeypatch.context() as patch:
        stop_in_the_last_evaluation(patch)
        assert exit_cleanly(main)(command) == 75
    main(command)
    assert last_step(tmp_path / "run") == 3


@pytest.mark.parametrize(
    "strategy", ["epoch", pytest.param("best", marks=pytest.mark.slow), pytest.param("no", marks=pytest.mark.slow)]
)
def test_told_to_stop_in_the_validation_after_the_last_step_it_stops(
    bars_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    rate = ("--learning_rate", "1e-3", "--num_train_epochs", "2", "--save_strategy", strategy)
    rate = (*rate, "--load_best_model_at_end", "false") if strategy == "no" else rate
    command = options(bars_dataset, tmp_path / "run", *rate)
    loader = VideoTrainer.get_eval_dataloader

    def get_eval_dataloader(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return loader(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(VideoTrainer, "get_eval_dataloader", get_eval_dataloader)
        assert exit_cleanly(main)(command) == 75
    assert json.loads((tmp_path / "run" / "unfinished.json").read_text())["stopped"]
    assert not (tmp_path / "run" / "metrics.json").exists() and 4 in steps_of(tmp_path / "run")
    main(command)
    main(options(bars_dataset, tmp_path / "whole", *rate))
    whole, run = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "run"))
    assert all(whole[name].equal(run[name]) for name in whole)
