"""A run that is stopped or killed anywhere ends, resumed, with the weights of one that was not."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Forks
from safetensors.torch import load_file

import finetune.run
from data_prep.errors import UserError, exit_cleanly
from data_prep.sigterm import Interrupted
from finetune.run import main
from finetune.settings.arguments import parse_arguments
from finetune.training.checkpoints import complete_checkpoints, publish, remove_old
from finetune.training.run_folder import RunFolder
from finetune.training.trainer import VideoTrainer

ROOT = Path(__file__).parents[1]
# Everything random at once: 24 videos twice an epoch in batches of 4, two a step: 6 steps an epoch.
OPTIONS = [
    "--model_name_or_path", "timesformer-tiny", "--no_flip", "--short_side_jitter", "48", "60", "--color_jitter", "0.3",
    "--random_erasing", "0.5", "--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2",
    "--repeated_augmentation", "2", "--mixup_alpha", "0.8", "--cutmix_alpha", "1", "--label_smoothing_factor", "0.1",
    "--drop_path_rate", "0.2", "--head_dropout", "0.2", "--ema_decay", "0.9", "--layer_decay", "0.8",
    "--class_weights", "balanced", "--learning_rate", "1e-3", "--num_train_epochs", "3",
    "--report_to", "none", "--disable_tqdm", "true",
]  # fmt: skip

pytestmark = pytest.mark.usefixtures("without_pictures")


def options(dataset: Path, output_dir: Path, *more: str) -> list[str]:
    return ["--dataset_name", str(dataset), "--output_dir", str(output_dir), *OPTIONS, *more]


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """A real SIGTERM to this process and those that read for it, as launchers and schedulers send it, while the step after `step` is under way."""
    whole = VideoTrainer.training_step

    def training_step(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.state.global_step == step and self.batch_of_step == 0:
            pids = [process.pid for process in (*multiprocessing.active_children(), multiprocessing.current_process())]
            subprocess.run(["kill", "-TERM", *map(str, pids)], check=True)
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(VideoTrainer, "training_step", training_step)


def same_weights(one: Path, other: Path) -> bool:
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def whole(bars_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output_dir = tmp_path_factory.mktemp("whole") / "run"
    main(options(bars_dataset, output_dir, "--dataloader_num_workers", "0"))
    return output_dir


@pytest.mark.parametrize(("step", "workers"), [(7, "2"), (11, "0")])
def test_stopped_by_sigterm_the_same_command_goes_on_to_the_same_weights(
    bars_dataset: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], step: int, workers: str,
) -> None:  # fmt: skip
    """In the midst of the second epoch, and at its end, where evaluation comes first."""
    command = options(bars_dataset, tmp_path / "run", "--dataloader_num_workers", workers)
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        assert exit_cleanly(main)(command) == 75
    assert f"after step {step + 1} of 18" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.json").exists(), "nothing is evaluated as if it were done"
    assert [path.name for path in complete_checkpoints(tmp_path / "run")][-1] == f"checkpoint-{step + 1}"
    main(command)
    assert same_weights(whole, tmp_path / "run")
    assert not (tmp_path / "run" / "unfinished.json").exists()
    assert " in 2 parts, " in (tmp_path / "run" / "README.md").read_text()


def test_a_killed_run_goes_on_too_and_leaves_nothing_half_written(
    bars_dataset: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state a SIGKILL leaves in the midst of saving: an older checkpoint, half of a new one where nobody looks."""
    command = options(bars_dataset, tmp_path / "run", "--dataloader_num_workers", "0")

    def killed(self: VideoTrainer, staged: Path) -> None:
        if self.state.global_step == 12:
            (staged / "optimizer.pt").write_bytes(b"half")
            shutil.copytree(self.args.output_dir, tmp_path / "killed")
            raise RuntimeError("killed")
        save(self, staged)

    save = VideoTrainer._complete_checkpoint
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(VideoTrainer, "_complete_checkpoint", killed)
        main(command)
    shutil.rmtree(tmp_path / "run")
    shutil.move(tmp_path / "killed", tmp_path / "run")
    main(command)
    assert same_weights(whole, tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".")} == set()


def test_a_run_whose_checkpoints_are_not_complete_is_not_wiped(bars_dataset: Path, tmp_path: Path, whole: Path) -> None:
    command = options(bars_dataset, tmp_path / "run", "--dataloader_num_workers", "0")
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "unfinished.json").write_text(json.dumps({"argv": command, "stopped": False}))
    for state in (tmp_path / "run").glob("checkpoint-*/scheduler.pt"):
        state.unlink()
    with pytest.raises(UserError, match="none of which is complete"):
        main(command)
    assert list((tmp_path / "run").glob("checkpoint-*/model.safetensors"))


def test_a_checkpoint_of_a_sharded_model_waits_for_its_launcher(
    bars_dataset: Path, tmp_path: Path, whole: Path
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    for checkpoint in (tmp_path / "run").glob("checkpoint-*"):
        (checkpoint / "pytorch_model_fsdp.bin").touch()
    with pytest.raises(UserError, match="by a run with FSDP, and this one is launched without: launch it as before"):
        main(options(bars_dataset, tmp_path / "run", "--resume_from_checkpoint"))


def test_stopped_in_the_last_evaluation_the_same_command_finishes(
    bars_dataset: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = options(bars_dataset, tmp_path / "run", "--dataloader_num_workers", "2")

    def evaluate(*args: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(finetune.run, "evaluate", evaluate)
        assert exit_cleanly(main)(command) == 75
    assert json.loads((tmp_path / "run" / "unfinished.json").read_text())["stopped"]
    main(command)
    assert (tmp_path / "run" / "metrics.json").exists() and same_weights(whole, tmp_path / "run")


def test_a_stop_is_saved_where_only_the_best_is(
    bars_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of an epoch that was no better than the one before: with a rate of 0 none is."""
    only_best = ("--save_strategy", "best", "--learning_rate", "0", "--dataloader_num_workers", "0")
    command = options(bars_dataset, tmp_path / "run", *only_best)
    stop_at(monkeypatch, 11)
    assert exit_cleanly(main)(command) == 75
    assert (tmp_path / "run" / "checkpoint-12").is_dir() and not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize(
    "optimizer", [["optimizer.pt"], ["optimizer.bin", "pytorch_model_fsdp.bin"]]
)  # the latter FSDP's
def test_old_checkpoints_go_but_not_the_best(tmp_path: Path, optimizer: list[str]) -> None:
    for step in (5, 10, 15, 100):
        staged = tmp_path / "staged"
        staged.mkdir()
        for name in ("trainer_state.json", *optimizer, "scheduler.pt", "model.safetensors", "config.json"):
            (staged / name).write_text("{}")
        publish(staged, tmp_path / f"checkpoint-{step}")
    remove_old(tmp_path, 1, str(tmp_path / "checkpoint-5"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-100", "checkpoint-5"]


def test_of_several_processes_the_one_that_writes_says_that_the_run_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one does not know whether the folder was begun: what it wrote would have its checkpoints removed."""
    command = options(tmp_path / "data", tmp_path / "run", "--use_cpu", "true")
    settings = parse_arguments(command)
    main_folder = RunFolder(settings, command)
    with monkeypatch.context() as patch:
        patch.setattr(type(settings.training), "process_index", 1)
        other = RunFolder(settings, command)
    with pytest.raises(Interrupted), main_folder.resumable():
        main_folder.begin(settings)
        raise Interrupted("stopped")
    with pytest.raises(Interrupted), other.resumable():
        raise Interrupted("stopped")
    unfinished = json.loads((tmp_path / "run" / "unfinished.json").read_text())
    assert unfinished["stopped"] and unfinished["begun"]


# Stops one of two processes only; the other must stop after the same step.
TWO = """
import os, signal, sys
from finetune.run import main
from finetune.training.trainer import VideoTrainer
from data_prep.errors import exit_cleanly, leave
whole = VideoTrainer.training_step
def training_step(self, *args, **kwargs):
    if self.state.global_step == 4 and self.batch_of_step == 0 and os.environ["RANK"] == "1" and os.environ.get("STOP"):
        os.kill(os.getpid(), signal.SIGTERM)
    return whole(self, *args, **kwargs)
VideoTrainer.training_step = training_step
leave(exit_cleanly(main)(sys.argv[1:]))
"""


def two_processes(folder: Path, arguments: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    (folder / "two.py").write_text(TWO)
    command = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", "2", "two.py"]
    return subprocess.run(
        [*command, *arguments, "--use_cpu", "true"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_learn_and_measure_what_one_does(bars_dataset: Path, tmp_path: Path) -> None:
    """The same clips in the same steps, and evaluation batches that do not come out even."""
    arguments = [
        "--dataset_name", str(bars_dataset), "--model_name_or_path", "timesformer-tiny", "--no_flip",
        "--learning_rate", "1e-3", "--max_steps", "9", "--class_weights", "balanced", "--label_smoothing_factor", "0.1",
        "--ema_decay", "0.9", "--report_to", "none", "--disable_tqdm", "true", "--dataloader_num_workers", "0",
        "--per_device_eval_batch_size", "3", "--head_start", "linear_probe",
    ]  # fmt: skip
    one = main([*arguments, "--output_dir", str(tmp_path / "one"), "--per_device_train_batch_size", "4"])
    process = two_processes(tmp_path, [*arguments, "--output_dir", "two", "--per_device_train_batch_size", "2"])
    assert process.returncode == 0, process.stderr
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name in first:
        off = (first[name] - second[name]).abs()
        if name.endswith("qkv.bias"):
            # The bias of the keys changes no attention: its gradient is what rounding leaves, which Adam makes large.
            off = off.view(3, -1)[[0, 2]]
        assert float(off.max()) < 1e-4, name
    metrics = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert all(metrics[name] == pytest.approx(value, abs=1e-4) for name, value in one.items())


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on_to_the_same_weights(
    bars_dataset: Path, tmp_path: Path, forks: Forks
) -> None:
    (tmp_path / "two.py").write_text(TWO)

    arguments = ["two.py", *options(bars_dataset, tmp_path, "--dataloader_num_workers", "2", "--num_train_epochs", "2", "--use_cpu", "true")]  # fmt: skip

    def two(output_dir: str, **env: str) -> list[subprocess.CompletedProcess[str]]:
        """What torchrun starts."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = str(server.getsockname()[1])
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        command = [*arguments, "--output_dir", output_dir]
        return forks.run_together([command] * 2, tmp_path, [{**env, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"])

    for process in two("whole"):
        assert process.returncode == 0, process.stderr
    first, second = two("run", STOP="1")
    assert first.returncode == second.returncode == 75, first.stderr + second.stderr
    assert "stopped by SIGTERM after step 5 of 6" in first.stderr
    for process in two("run"):
        assert process.returncode == 0, process.stderr
    assert same_weights(tmp_path / "whole", tmp_path / "run")
