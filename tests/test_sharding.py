"""A model sharded over two processes (FSDP2), with the settings of finetune/launch/fsdp2.yaml but for the CPU's precision."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from forks import Forks
from safetensors.torch import load_file
from test_evaluate import two_ranks
from transformers import Dinov2Config, Dinov2Model

from finetune.model.weights import load_checkpoint
from finetune.training.checkpoints import complete_checkpoints

ROOT = Path(__file__).parents[1]
WHOLE, SHARDED = ROOT / "finetune" / "run.py", ROOT / "tests" / "sharded.py"


@pytest.mark.slow
def test_a_sharded_model_learns_what_a_whole_one_does_and_goes_on_bit_for_bit(
    bars_dataset: Path, tmp_path: Path, forks: Forks
) -> None:
    """By the recipe for few videos: the head and time start from the videos, and the average is what is saved."""
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=2)  # fmt: skip
    Dinov2Model(config).save_pretrained(tmp_path / "image_model")

    def two(script: Path, name: str, more: tuple[str, ...] = (), **env: str) -> list[subprocess.CompletedProcess[str]]:
        command = [
            str(script), "--dataset_name", str(bars_dataset), "--model_name_or_path", "image_model", "--output_dir", name,
            "--num_frames", "4", "--per_device_train_batch_size", "4", "--num_train_epochs", "2", "--learning_rate", "0.003",
            "--save_total_limit", "2", "--no_flip", "--dataloader_num_workers", "0", "--report_to", "none",
            "--disable_tqdm", "true", "--use_cpu", "true", *more,
        ]  # fmt: skip
        launch = {"LAUNCH": "--mixed_precision no", **env}
        return forks.run_together([command] * 2, tmp_path, [{**rank, **launch} for rank in two_ranks()])

    for script, name in ((WHOLE, "whole"), (SHARDED, "sharded")):
        both = two(script, name)
        assert [process.returncode for process in both] == [0, 0], both[0].stderr + both[1].stderr
        assert "time: " in both[0].stdout
    whole, sharded = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "sharded"))
    assert set(whole) == set(sharded)
    for name, weight in whole.items():
        assert torch.allclose(sharded[name], weight, rtol=0, atol=0.01 * float(weight.abs().max()) + 1e-4), name
    load_checkpoint(str(tmp_path / "sharded"))
    last = complete_checkpoints(tmp_path / "sharded")[-1]
    learned = load_file(last / "training_weights.safetensors")
    assert last.name == "checkpoint-6" and any(
        float((learned[name] - sharded[name]).abs().max()) > 1e-3 for name in learned
    )

    resume = ("--resume_from_checkpoint", str(tmp_path / "whole" / "checkpoint-6"))
    refusals = (two(SHARDED, "no", more=resume), two(SHARDED, "no", LAUNCH="--fsdp_state_dict_type SHARDED_STATE_DICT"))
    for (first, _), words in zip(refusals, ("by a run without FSDP", "fsdp_state_dict_type: FULL_STATE_DICT")):
        assert first.returncode == 2 and words in first.stderr, first.stderr
    stopped = two(SHARDED, "resumed", STOP="5")
    assert [process.returncode for process in stopped] == [75, 75], stopped[0].stderr + stopped[1].stderr
    gone_on = two(SHARDED, "resumed")
    assert [process.returncode for process in gone_on] == [0, 0], gone_on[0].stderr + gone_on[1].stderr
    assert "going on from" in gone_on[0].stdout
    resumed = load_file(tmp_path / "resumed" / "model.safetensors")
    assert all(torch.equal(resumed[name], weight) for name, weight in sharded.items())
