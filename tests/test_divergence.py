"""A run that diverges ends with 2 and one line, keeps its last good checkpoint, and leaves no NaN anywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Forks
from safetensors.torch import load_file, save_file

from data_prep.errors import UserError, exit_cleanly
from finetune.evaluate import main as evaluate
from finetune.hub import check_finished
from finetune.run import main
from finetune.training.divergence import Divergence

NORM = "timesformer.layernorm.weight"
ROOT = Path(__file__).parents[1]


def options(dataset: Path, model: str, output_dir: Path, *more: str) -> list[str]:
    """Four steps of four clips, the first of which does not move the weights yet."""
    return [
        "--dataset_name", str(dataset), "--model_name_or_path", model, "--output_dir", str(output_dir), "--config", "none",
        "--max_steps", "4", "--warmup_steps", "2", "--per_device_train_batch_size", "4", "--dataloader_num_workers", "0",
        "--report_to", "none", "--disable_tqdm", "true", "--logging_steps", "9", "--eval_strategy", "no", "--save_strategy", "no", *more,
    ]  # fmt: skip


SAVING = ("--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "1")


def strict(constant: str) -> Any:
    raise ValueError(constant)


def test_weights_that_overflow_are_not_saved_and_the_last_good_checkpoint_stays(
    bars_dataset: Path, random_checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert exit_cleanly(main)(options(bars_dataset, random_checkpoint, out, *SAVING, "--learning_rate", "1e39")) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "weights are NaN or infinite" in line and "at step 2 of 4" in line and "smaller --learning_rate" in line
    good = out / "checkpoint-1"
    assert str(good) in line and [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-1"]
    assert all(weight.isfinite().all() for weight in load_file(good / "model.safetensors").values())
    assert not (out / "model.safetensors").exists() and not (out / "metrics.json").exists()
    assert not json.loads((out / "unfinished.json").read_text())["stopped"]
    for path in out.rglob("*.json"):
        json.loads(path.read_text(), parse_constant=strict)
    with pytest.raises(UserError):
        check_finished(out)
    main(options(bars_dataset, str(good), tmp_path / "again", "--learning_rate", "1e-4", "--warmup_steps", "0"))


def test_a_finite_but_useless_checkpoint_does_not_take_the_good_ones_place(
    bars_dataset: Path, random_checkpoint: str, tmp_path: Path
) -> None:
    with pytest.raises(
        UserError, match="loss is NaN or infinite at step 3 of 4.*last good checkpoint is .*checkpoint-1:"
    ):
        main(options(bars_dataset, random_checkpoint, tmp_path / "run", *SAVING, "--learning_rate", "1e25"))
    assert (tmp_path / "run" / "checkpoint-1" / "model.safetensors").is_file()
    main(options(bars_dataset, random_checkpoint, tmp_path / "good", *SAVING))
    assert [path.name for path in (tmp_path / "good").glob("checkpoint-*")] == ["checkpoint-4"]


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (("--learning_rate", "1e25"), "the loss is NaN or infinite at step 3 of 4"),
        (("--learning_rate", "1e39", "--ema_decay", "0.9"), "weights are NaN or infinite"),
        (("--learning_rate", "1e25", "--max_steps", "2", "--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "steps", "--save_steps", "1"), "scores of 8 of 8 validation videos are NaN or infinite at step 2 of 2"),
        (("--learning_rate", "1e25", "--max_steps", "2"), "scores of 8 of 8 videos of test are NaN or infinite"),
    ],
)  # fmt: skip
def test_what_is_no_number_stops_the_run_at_its_step(
    bars_dataset: Path, random_checkpoint: str, tmp_path: Path, more: tuple[str, ...], what: str
) -> None:
    with pytest.raises(UserError) as caught:
        main(
            options(
                bars_dataset, random_checkpoint, tmp_path / "run", *more, *(SAVING if "--ema_decay" in more else ())
            )
        )
    assert what in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "metrics.json").exists() and (tmp_path / "run" / "unfinished.json").exists()


@pytest.fixture
def overflowing(random_checkpoint: str, tmp_path: Path) -> str:
    """A checkpoint of finite weights whose answers are not."""
    folder = shutil.copytree(random_checkpoint, tmp_path / "overflowing")
    state = load_file(folder / "model.safetensors")
    state[NORM] = torch.full_like(state[NORM], 3e38)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def test_scores_that_are_no_numbers_are_of_no_class(bars_dataset: Path, overflowing: str, tmp_path: Path) -> None:
    config = json.loads((Path(overflowing) / "config.json").read_text())
    names = {"id2label": {"0": "left", "1": "right"}, "label2id": {"left": 0, "right": 1}}
    (Path(overflowing) / "config.json").write_text(json.dumps(config | names))
    state = load_file(Path(overflowing) / "model.safetensors")
    state |= {name: state[name][:2].contiguous() for name in ("classifier.weight", "classifier.bias")}
    save_file(state, Path(overflowing) / "model.safetensors", metadata={"format": "pt"})
    written = [tmp_path / "metrics.json", tmp_path / "predictions.csv"]
    with pytest.raises(UserError, match="scores of 8 of 8 videos of test are NaN or infinite, the first of .*mp4"):
        evaluate([overflowing, str(bars_dataset), "--device", "cpu", "--dataloader_num_workers", "0",
                  "--output", str(written[0]), "--predictions", str(written[1])])  # fmt: skip
    assert not any(path.exists() for path in written)


def test_a_linear_probe_of_features_that_are_no_numbers_is_refused(
    bars_dataset: Path, overflowing: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="features of 24 of 24 videos are NaN or infinite"):
        main(options(bars_dataset, overflowing, tmp_path / "run", "--linear_probe", "true"))
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_the_step_is_known_however_late_it_is_looked_at() -> None:
    found = Divergence()
    for step, loss in enumerate([1.0, 2.0, float("inf"), float("nan"), 1.0], 1):
        found.note("loss", torch.tensor(loss), step)
        found.note("gradient", torch.tensor(float("nan") if step > 3 else 1.0), step)
    assert found.first(torch.device("cpu"), 1) == (3, "loss")


def test_a_scaler_that_looks_for_its_scale_is_no_divergence() -> None:
    found = Divergence()
    for step in range(1, 61):
        found.note_scaled(step % 20 != 0, step)
    assert found.first(torch.device("cpu"), 1) is None
    for step in range(61, 100):
        found.note_scaled(True, step)
    assert found.first(torch.device("cpu"), 1) == (90, "gradient")


TWO = """
import sys
from data_prep.errors import exit_cleanly
from finetune.run import main
sys.exit(exit_cleanly(main)())
"""


@pytest.mark.slow
def test_all_processes_stop_together_and_one_says_it(
    bars_dataset: Path, random_checkpoint: str, tmp_path: Path, forks: Forks
) -> None:
    (tmp_path / "two.py").write_text(TWO)
    more = (*SAVING, "--learning_rate", "1e39", "--use_cpu", "true")
    done = forks.run(
        "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "two.py",
        *options(bars_dataset, random_checkpoint, tmp_path / "run", *more), cwd=tmp_path, PYTHONPATH=str(ROOT),
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.count("error: training diverged") >= 1 and "at step 2 of 4" in done.stderr
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-1"]
