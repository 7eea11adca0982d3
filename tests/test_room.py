"""What a run needs is looked at when it starts: disk, shared memory, caches. A home that can be written is not needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import datasets
import evaluate
import numpy as np
import pytest

from data_prep.errors import UserError
from finetune.clips.dataset import load_split
from finetune.results.metrics import compute_all
from finetune.results.multilabel_metrics import compute_multilabel
from finetune.run import main
from finetune.training.room import check_shared_memory

ROOT = Path(__file__).parents[1]
FAST = [
    "--model_name_or_path", "timesformer-tiny", "--no_flip", "--short_side_jitter", "48", "50", "--config", "none",
    "--per_device_train_batch_size", "12", "--report_to", "none", "--disable_tqdm", "true",
]  # fmt: skip


@pytest.fixture
def no_folder(tmp_path: Path) -> Path:
    """A folder that nobody can make, root neither."""
    (tmp_path / "file").touch()
    return tmp_path / "file" / "cache"


def test_metrics_write_nothing(no_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", no_folder)
    assert compute_all(np.eye(2), np.arange(2))["top1"] == 1
    assert compute_multilabel(np.eye(2), np.eye(2, dtype=int))["subset_accuracy"] == 1


def test_a_cache_that_cannot_be_written_is_said_before_videos_are_prepared(
    bars: Path, no_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", no_folder)
    with pytest.raises(UserError, match="cannot be written .*: set HF_DATASETS_CACHE to a folder that can"):
        load_split(str(bars), "train", None)


def test_checkpoints_that_the_disk_cannot_hold_are_said_before_training(bars_dataset: Path, tmp_path: Path) -> None:
    many = ("--max_steps", "100000000", "--save_strategy", "steps", "--save_steps", "1", "--eval_strategy", "no")
    command = ["--dataset_name", str(bars_dataset), "--output_dir", str(tmp_path / "run"), *FAST, *many]
    with pytest.raises(UserError, match=r"takes up to .* GB \(100000000 checkpoints of .* MB and the model\), and"):
        main([*command, "--save_total_limit", "200000000"])
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_batches_that_shared_memory_cannot_hold_are_said() -> None:
    crop = {"height": 224, "width": 224}
    check_shared_memory(1, 8, crop, "--batch_size")
    with pytest.raises(UserError, match="in smaller batches|docker run --shm-size"):
        check_shared_memory(1e9, 8, crop, "--batch_size")


def python(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
def test_a_run_needs_no_home(bars_dataset: Path, no_folder: Path, tmp_path: Path) -> None:
    homes = {name: str(no_folder) for name in ("HOME", "HF_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR")}
    command = ["--dataset_name", str(bars_dataset), "--output_dir", str(tmp_path / "run"), *FAST, "--max_steps", "1"]
    done = python(str(ROOT / "finetune" / "run.py"), *command, **homes)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "metrics.json").exists()
