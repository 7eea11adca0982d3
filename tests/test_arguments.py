"""finetune.settings.arguments: one flat list of settings; the command line wins; what is unknown is an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from data_prep.errors import UserError
from data_prep.prepare import main as data_prep
from finetune.model.wanted import ModelArguments
from finetune.predict import main as predict
from finetune.settings.arguments import (
    DataArguments,
    FinetuningArguments,
    Settings,
    _Parser,
    parse_arguments,
)
from finetune.settings.learning import LearningArguments
from finetune.settings.recipe import recipe_names, recipe_path

BASE = ["--dataset_name", "d", "--model_name_or_path", "timesformer-tiny", "--output_dir", "o"]


def recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_the_recipe_gives_defaults_and_the_command_line_wins(tmp_path: Path) -> None:
    path = recipe(
        tmp_path,
        "dataset_name: d\nmodel_name_or_path: timesformer-tiny\noutput_dir: o\nlearning_rate: 1e-3\nno_flip: true\n"
        "short_side_jitter: [40, 50]\nnum_train_epochs: 7\nload_best_model_at_end: false\nlr_scheduler_kwargs: {num_cycles: 2}\n",
    )
    settings = parse_arguments(["--num_train_epochs", "2", "--config", str(path)])
    assert settings.training.learning_rate == 1e-3
    assert settings.training.num_train_epochs == 2
    assert settings.training.load_best_model_at_end is False
    assert settings.training.lr_scheduler_kwargs == {"num_cycles": 2}
    assert settings.data.no_flip is True
    assert settings.data.short_side_jitter == [40, 50]


def test_a_runs_recipe_reads_back_to_the_same_settings_and_holds_no_paths(tmp_path: Path) -> None:
    first = parse_arguments(
        ["--dataset_name", str(tmp_path), "--model_name_or_path", "timesformer-tiny", "--output_dir", str(tmp_path / "o"),
         "--learning_rate", "3e-4", "--warmup_steps=0.1", "--no_flip"]
    )  # fmt: skip
    assert not any(str(tmp_path) in str(value) for value in first.recipe.values())
    path = recipe(tmp_path, yaml.safe_dump(first.recipe))
    again = parse_arguments(["--config", str(path), "--dataset_name", str(tmp_path), "--output_dir", "o"])
    assert again.recipe == first.recipe
    assert (again.training.learning_rate, again.training.warmup_steps, again.data.no_flip) == (3e-4, 0.1, True)


def test_without_a_dataset_the_demonstration_runs() -> None:
    settings: Settings = parse_arguments(["--seed", "3"])
    assert settings.data.demo_videos_per_class
    assert settings.training.output_dir == "runs/demo"
    assert settings.training.seed == 3
    assert parse_arguments(BASE).data.demo_videos_per_class is None


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([*BASE, "--learning_rte", "1"], "unknown argument --learning_rte. Did you mean --learning_rate?"),
        ([*BASE, "--learning_rate", "fast"], "argument --learning_rate"),
        ([*BASE, "extra"], "unknown argument extra"),
        (BASE[:2] + BASE[4:], "--model_name_or_path is missing"),
        (BASE[:4], "--output_dir is missing"),
        ([*BASE, "--hub_token", "secret"], "--hub_token would be written into the run's files"),
        ([*BASE, "--push_to_hub"], "needs --hub_model_id"),
        ([*BASE, "--hub_strategy", "every_save"], "--hub_strategy must stay end"),
        ([*BASE, "--hub_revision", "dev"], "--hub_revision is not supported"),
        ([*BASE, "--short_side_jitter", "60", "50"], "the smallest and the largest"),
        ([*BASE, "--eval_strategy", "sometimes"], "sometimes"),
        ([*BASE, "--save_strategy", "steps"], "match"),
        ([*BASE, "--config", "none.yaml"], "cannot be read"),
        ([*BASE, "--metric_for_best_model", "accuracy"], "expected one of top1, top5, mean_class_accuracy"),
        ([*BASE, "--prediction_loss_only", "true"], "--prediction_loss_only is not supported"),
        ([*BASE, "--train_sampling_strategy", "sequential"], "must stay random"),
        ([*BASE, "--seed", "-1"], "--seed is -1"),
        ([*BASE, "--per_device_train_batch_size", "0"], "expected at least 1"),
        ([*BASE, "--num_train_epochs", "0"], "--num_train_epochs is 0, which trains nothing"),
        ([*BASE, "--num_train_epochs", "-3"], "--num_train_epochs is -3, which trains nothing"),
        ([*BASE, "--max_steps", "0"], "--max_steps is 0, which trains nothing"),
        ([*BASE, "--max_steps", "-2"], "--max_steps is -2, which trains nothing"),
        ([*BASE, "--learning_rate", "-1"], "--learning_rate is -1, expected at least 0"),
        ([*BASE, "--weight_decay", "-0.1"], "--weight_decay is -0.1, expected at least 0"),
        ([*BASE, "--max_grad_norm", "-1"], "--max_grad_norm is -1, expected at least 0"),
        ([*BASE, "--adam_beta2", "1"], "--adam_beta2 is 1, expected less than 1"),
        ([*BASE, "--adam_beta1", "-0.5"], "--adam_beta1 is -0.5, expected at least 0"),
        ([*BASE, "--adam_epsilon", "0"], "--adam_epsilon is 0, expected more than 0"),
        ([*BASE, "--gradient_accumulation_steps", "0"], "expected at least 1"),
        ([*BASE, "--eval_accumulation_steps", "0"], "expected at least 1"),
        ([*BASE, "--seed", "4294967296"], "--seed is 4294967296, expected less than 4294967296"),
        ([*BASE, "--short_side_jitter", "-5", "50"], "the smallest and the largest"),
        ([*BASE, "--lora_alpha", "0"], "--lora_alpha is 0"),
        (
            [*BASE, "--lr_scheduler_kwargs", '{"num_cycles": Infinity}'],
            "--lr_scheduler_kwargs is inf, expected a finite number",
        ),
    ],
)
def test_wrong_usage_is_one_clear_line(argv: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_arguments(argv)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("flag", ["--lora_rank", "--lora-rank", "--lora-rank=2"])
def test_a_flag_takes_the_place_of_what_contradicts_it_however_it_is_spelt(flag: str) -> None:
    given = [flag] if "=" in flag else [flag, "2"]
    settings = parse_arguments([*BASE, "--config", "small_data", *given])
    assert settings.learning.lora_rank == 2 and not settings.learning.freeze_blocks


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rte: 1", "unknown key 'learning_rte'. Did you mean 'learning_rate'?"),
        ("- a\n- b", "expected a flat list of settings"),
        ("a: [1", "is not YAML"),
        ("learning_rate: {a: 1}", "argument --learning_rate"),
        ("config: other.yaml", "unknown key 'config'"),
    ],
)
def test_a_wrong_recipe_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_arguments([*BASE, "--config", str(recipe(tmp_path, text))])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_training_without_validation_keeps_no_best_checkpoint() -> None:
    assert parse_arguments([*BASE, "--eval_strategy", "no"]).training.load_best_model_at_end is False


def test_settings_that_are_objects_or_read_as_booleans_survive_the_recipe(tmp_path: Path) -> None:
    settings = parse_arguments(
        [*BASE, "--accelerator_config", '{"split_batches": true}', "--debug", "underflow_overflow"]
    )
    assert yaml.safe_load(yaml.safe_dump(settings.recipe))["accelerator_config"]["split_batches"] is True
    again = parse_arguments([*BASE, "--config", str(recipe(tmp_path, "eval_strategy: no\nsave_strategy: no\n"))])
    assert again.training.eval_strategy == again.training.save_strategy == "no"


def test_every_flag_is_described_in_help() -> None:
    parser = _Parser((DataArguments, ModelArguments, LearningArguments, FinetuningArguments))
    assert [action.dest for action in parser._actions if not action.help] == []
    assert "--short_side_jitter" in parser.format_help()


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid_and_says_its_source_command_and_result(name: str) -> None:
    text = recipe_path(name).read_text()
    needed = ["--dataset_name", "data", "--output_dir", "out"]
    if "model_name_or_path" not in yaml.safe_load(text):
        needed += ["--model_name_or_path", "timesformer-small"]
    settings = parse_arguments(["--config", name, *needed])
    assert {key: value for key, value in settings.recipe.items() if key in yaml.safe_load(text)}
    head = text.partition("\n\n")[0]
    assert "# Source: " in head and ("# Command: " in head or name == "demo"), name


def test_the_command_line_wins_over_a_recipe_and_a_file_over_its_namesake(tmp_path: Path) -> None:
    given = ["--dataset_name", "data", "--output_dir", "out"]
    settings = parse_arguments(["--config", "paper", "--learning_rate", "0.1", *given])
    assert settings.training.learning_rate == 0.1 and settings.training.max_grad_norm == 0
    assert settings.learning.lr_milestones == [11, 14] and settings.recipe["lr_milestones"] == [11.0, 14.0]
    with pytest.raises(UserError, match="one of blog, demo, "):
        parse_arguments(["--config", str(tmp_path / "paper"), *given])


@pytest.mark.parametrize(
    ("given", "left_out"),
    [
        (["--early_stopping_patience", "3"], lambda settings: settings.training.load_best_model_at_end),
        (["--streaming"], lambda settings: settings.learning.head_start == "random"),
        (["--linear_probe", "true"], lambda settings: settings.learning.freeze_blocks == 0),
        (["--lora_rank", "4"], lambda settings: settings.learning.freeze_blocks == 0),
    ],
)
def test_what_is_given_takes_out_of_the_recipe_what_would_contradict_it(
    given: list[str], left_out: Callable[[Settings], bool]
) -> None:
    assert not left_out(parse_arguments([*BASE, "--config", "small_data"]))
    assert left_out(parse_arguments([*BASE, "--config", "small_data", *given]))


FLOATS = [
    name
    for group in (DataArguments, ModelArguments, LearningArguments, FinetuningArguments)
    for name, kind in get_type_hints(group).items()
    if name in group.__dataclass_fields__ and "float" in str(kind)
]


@pytest.mark.parametrize("name", FLOATS)
def test_no_number_is_nan_or_infinite_on_the_command_line_or_in_a_recipe(name: str, tmp_path: Path) -> None:
    assert len(FLOATS) > 25
    for given in ("nan", "inf", "-inf"):
        with pytest.raises(UserError, match=f"--{name} is {given}, expected a finite number"):
            parse_arguments([*BASE, f"--{name}={given}"])
    with pytest.raises(UserError, match=f"--{name} is nan, expected a finite number"):
        parse_arguments([*BASE, "--config", str(recipe(tmp_path, f"{name}: .nan"))])


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        (predict, ["model", "video", "--timeline", "--min_score"]),
        (data_prep, ["videos", "dataset", "--splits", "0.8", "0.1"]),
        (data_prep, ["videos", "dataset", "--time_limit"]),
    ],
)
def test_other_commands_take_finite_numbers_alone(command: Callable, argv: list[str]) -> None:
    with pytest.raises(UserError, match="is nan, expected a finite number"):
        command([*argv, "nan"])


def test_a_linear_probe_has_no_epochs_to_check() -> None:
    assert parse_arguments([*BASE, "--linear_probe", "--num_train_epochs", "0"]).learning.linear_probe
