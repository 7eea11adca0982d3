"""A recipe: settings as one flat YAML list, read as words of a command line and written from what a run was asked for."""

from __future__ import annotations

import argparse
import difflib
import json
import os
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from data_prep.errors import UserError
from finetune.settings.learning import NOT_OF_A_PROBE

RECIPES = Path(__file__).parents[1] / "recipes"
NO_RECIPE = "none"
# A setting of the command line takes these of the recipe with it, which would contradict it.
_REPLACES = {
    "crop_scale": ("short_side_jitter",),
    "short_side_jitter": ("crop_scale",),
    "sampling": ("frame_stride",),
    "eval_strategy": ("early_stopping_patience",),
    "early_stopping_patience": ("load_best_model_at_end",),
    "streaming": ("head_start", "time_start"),
    "lora_rank": ("freeze_blocks",),
    "linear_probe": (*NOT_OF_A_PROBE, "head_start"),
}

# Always in a run's recipe.yaml, given or not: what another person needs to repeat the run.
_RECIPE_KEYS = (
    "model_name_or_path", "num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps",
    "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "weight_decay_on", "optim",
    "label_smoothing_factor", "seed",
)  # fmt: skip
# Never in it: where this run lay, and what says nothing about the model.
_PRIVATE_KEYS = (
    "config", "dataset_name", "demo_videos_per_class", "output_dir", "overwrite_output_dir", "resume_from_checkpoint",
    "push_to_hub", "hub_model_id", "disable_tqdm",
)  # fmt: skip


def recipe_names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_path(config: str) -> Path:
    """The file that `--config` means."""
    shipped = RECIPES / f"{config}.yaml"
    return shipped if shipped.is_file() and not Path(config).is_file() else Path(config)


def recipe_of(arguments: Sequence[Any], argv: list[str], parser: argparse.ArgumentParser) -> dict[str, Any]:
    """The settings given in `argv` and those every recipe has, without paths of this machine."""
    recipe = {}
    for key in dict.fromkeys([*_given(argv, parser), *_RECIPE_KEYS]):
        if key in _PRIVATE_KEYS:
            continue
        value = next(getattr(group, key) for group in arguments if hasattr(group, key))
        if isinstance(value, str) and (os.path.isabs(value) or os.path.exists(value)):
            continue
        recipe[key] = plain(value)
    return recipe


def _given(argv: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """The settings named in `argv`, in order; HfArgumentParser takes them with dashes too."""
    dest_of = {flag: action.dest for action in parser._actions for flag in action.option_strings}
    flags = [word.partition("=")[0] for word in argv]
    return [dest_of[flag] for flag in flags if flag in dest_of]


def plain(value: Any) -> Any:
    """A setting's value as YAML can say it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.to_dict() if hasattr(value, "to_dict") else value


def recipe_words(path: Path, parser: argparse.ArgumentParser, argv: list[str]) -> list[str]:
    """A recipe as command-line words, so that one parser checks both, without what `argv` replaces."""
    replaced = {name for key in _given(argv, parser) for name in _REPLACES.get(key, ())}
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {path} cannot be read ({error.strerror}): expected a YAML file, or one of {', '.join(recipe_names())}.") from error  # fmt: skip
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(recipe, dict):
        raise UserError(f"--config {path}: expected a flat list of settings, as `learning_rate: 0.001`.")
    known = {action.dest for action in parser._actions} - {"help", "config"}
    words: list[str] = []
    for key, value in recipe.items():
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            raise UserError(f"--config {path}: unknown key {key!r}.{f' Did you mean {close[0]!r}?' if close else ''}")
        if value is False and key.endswith("_strategy"):
            value = "no"  # which YAML reads as False
        if key == "report_to" and value == []:
            value = "none"  # which TrainingArguments turns into an empty list, and a run's recipe holds that
        if value is not None and key not in replaced:
            words += [f"--{key}", *_words(value)]
    return words


def _words(value: Any) -> list[str]:
    if isinstance(value, list):
        return [str(item) for item in value]
    return [json.dumps(value, allow_nan=False) if isinstance(value, dict) else str(value)]
