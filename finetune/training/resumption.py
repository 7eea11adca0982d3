"""Resumption of a run: from which step to which it goes on, and which settings were changed since it was trained."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from data_prep.errors import UserError
from finetune.settings.arguments import Settings
from finetune.settings.recipe import plain
from finetune.training.checkpoints import check_resumed_labels, check_same_architecture

RECIPE = "recipe.yaml"
UNFINISHED = "unfinished.json"  # there from the start of a run to its end: the command, and whether it was told to stop

# Settings whose value lies in the checkpoint, so that a new one does nothing, and why.
_OF_THE_OPTIMIZER = (
    "learning_rate", "lr_batch_size", "layer_decay", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon",
)  # fmt: skip
_OF_THE_START = ("model_name_or_path", "model_revision", "new_head", "head_start", "time_start", "input_channel_order")
# Settings that a checkpoint's optimizer or weights do not fit under another value.
_FIXED = ("optim", "weight_decay_on", "freeze_blocks", "lora_rank", "lora_alpha", "linear_probe")
# Settings that do not change what is learnt, or that are compared by the model's config.
_APART = (
    "num_frames", "image_size", "attention_type", "attn_implementation", "report_to", "run_name", "eval_views",
    "per_device_eval_batch_size", "license", "push_examples", "hub_private_repo", "save_total_limit",
)  # fmt: skip
_APART_PREFIXES = ("dataloader_", "logging_", "ddp_", "hub_")
_NOTE = "# until step "


@dataclass(frozen=True)
class Earlier:
    """The run that a checkpoint is of, as its folder tells it before anything is written there."""

    checkpoint: str
    recipe: dict[str, Any] | None  # None where there is none, as beside a checkpoint that was copied
    notes: list[str]  # of its recipe: what was set otherwise until which step
    is_finished: bool
    state: dict[str, Any]  # of transformers' Trainer

    @classmethod
    def of(cls, checkpoint: str) -> Earlier:
        folder = Path(checkpoint).parent
        state = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
        try:
            text = (folder / RECIPE).read_text(encoding="utf-8")
            recipe = yaml.safe_load(text)
        except (OSError, ValueError, yaml.YAMLError):
            text, recipe = "", None
        notes = [line.removeprefix("# ") for line in text.splitlines() if line.startswith(_NOTE)]
        known = recipe if isinstance(recipe, dict) else None
        return cls(checkpoint, known, notes, _is_finished(folder), state)

    @property
    def step(self) -> int:
        return int(self.state["global_step"])

    def stopped_early(self, patience: int | None) -> bool:
        """Return True if early stopping had ended the run at this checkpoint."""
        saved = self.state.get("stateful_callbacks", {}).get("EarlyStoppingCallback", {})
        counter = saved.get("attributes", {}).get("early_stopping_patience_counter", 0) if saved else 0
        return patience is not None and counter >= patience


def _is_finished(folder: Path) -> bool:
    """Return True where nothing but a push is left of a run."""
    try:
        return bool(json.loads((folder / UNFINISHED).read_text(encoding="utf-8")).get("trained"))
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False


def recipe_text(settings: Settings) -> str:
    """`recipe.yaml`: the settings, below comments on those that were others until some step."""
    notes = "".join(f"# {note}\n" for note in settings.changes)
    return notes + yaml.safe_dump(settings.recipe, sort_keys=False)


def settle_resumption(earlier: Earlier, settings: Settings, trainer: Any) -> Settings:
    """Say what the run goes on with; return the settings with the values that really hold, for recipe and card.

    Raises `UserError` where nothing is left to train, or where the checkpoint does not fit the settings.
    """
    config = trainer.model.config
    check_resumed_labels(earlier.checkpoint, [config.id2label[number] for number in range(config.num_labels)])
    check_same_architecture(earlier.checkpoint, config)
    changed = _changed(earlier.recipe, settings)
    _check_fixed(earlier, changed)
    without_effect = {key: changed.pop(key) for key in [*_OF_THE_OPTIMIZER, *_OF_THE_START] if key in changed}
    max_steps, steps_per_epoch = trainer.planned_steps(earlier.state)
    patience = settings.learning.early_stopping_patience
    is_done = earlier.step >= max_steps or earlier.stopped_early(patience)
    if is_done and (earlier.is_finished or changed):
        raise UserError(_nothing_left(earlier, max_steps, patience))
    if settings.training.process_index == 0:
        epochs = (earlier.step / steps_per_epoch, max_steps / steps_per_epoch)
        print(_in_words(earlier, settings, max_steps, epochs, is_done))
        _print_changes(earlier, changed, without_effect)
    notes = list(earlier.notes)
    if changed:
        notes.append(f"until step {earlier.step}: {', '.join(f'{key} {_shown(old)}' for key, (old, _) in changed.items())}")  # fmt: skip
    held = {key: old for key, (old, _) in without_effect.items()}
    return replace(settings, recipe=settings.recipe | held, changes=tuple(notes))


def _in_words(earlier: Earlier, settings: Settings, max_steps: int, epochs: tuple[float, float], is_done: bool) -> str:
    line = f"going on from {earlier.checkpoint}: step {earlier.step} of {max_steps}, epoch {epochs[0]:.4g} of {epochs[1]:.4g}"
    if not settings.data.streaming and abs(epochs[0] - float(earlier.state["epoch"])) > 0.01:
        line += f" as steps are counted now ({float(earlier.state['epoch']):.4g} as it was trained)"
    if is_done:
        line += "; training was done, what is left is the evaluation"
    elif earlier.is_finished and earlier.recipe is not None and earlier.step < int(earlier.state["max_steps"]):
        line += "; its later steps are not kept, and are trained again"
    return f"{line} (to start anew, delete {settings.training.output_dir})"


def _print_changes(earlier: Earlier, changed: dict[str, Any], without_effect: dict[str, Any]) -> None:
    if earlier.recipe is None:
        print(f"  the settings it was trained with are not known: there is no {RECIPE} beside it")
    for keys, reason in (
        (_OF_THE_OPTIMIZER, "the optimizer and its schedule go on from the checkpoint"),
        (_OF_THE_START, "the weights are the checkpoint's"),
    ):
        listed = {key: without_effect[key] for key in keys if key in without_effect}
        if listed:
            print(f"  without effect, as {reason}: {_listed(listed)}")
    if changed:
        print(f"  changed from here on: {_listed(changed)}")
    elif earlier.recipe is not None:
        print("  with the settings it was trained with", flush=True)


def _changed(stored: dict[str, Any] | None, settings: Settings) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ from the `stored` recipe: {key: (old, new)}."""
    changed = {}
    for key in dict.fromkeys([*(stored or ()), *settings.recipe]):
        if stored is None or key in _APART or key.startswith(_APART_PREFIXES):
            continue
        old = stored[key] if key in stored else _default(settings, key)
        new = settings.recipe[key] if key in settings.recipe else _asked(settings, key)
        if old != new and not (key == "model_name_or_path" and key not in stored):  # which a local path never is
            changed[key] = (old, new)
    return changed


def _groups(settings: Settings) -> tuple[Any, ...]:
    return settings.data, settings.model, settings.learning, settings.training


def _asked(settings: Settings, key: str) -> Any:
    """The value in force; of a path its last part alone. None for a key that this version does not know."""
    value = plain(next((getattr(group, key) for group in _groups(settings) if hasattr(group, key)), None))
    return Path(value).name if key == "model_name_or_path" else value


def _default(settings: Settings, key: str) -> Any:
    for group in _groups(settings):
        for field in dataclasses.fields(group):
            if field.name == key:
                return None if field.default is dataclasses.MISSING else plain(field.default)
    return None


def _check_fixed(earlier: Earlier, changed: dict[str, tuple[Any, Any]]) -> None:
    """Raises `UserError` for a change that the checkpoint's weights or optimizer cannot follow."""
    fixed = {key: changed[key] for key in _FIXED if key in changed}
    old, new = changed.get("ema_decay", (0, 0))
    if bool(old) != bool(new):  # the checkpoint has, or lacks, weights beside their average
        fixed["ema_decay"] = (old, new)
    if fixed:
        was = ", ".join(f"--{key} {_shown(old)}" for key, (old, _) in fixed.items())
        now = ", ".join(f"{_shown(new)}" for _, new in fixed.values())
        raise UserError(f"{earlier.checkpoint} was trained with {was}, and cannot go on with {now}: give what it was trained with, or start a new run in another --output_dir.")  # fmt: skip


def _nothing_left(earlier: Earlier, max_steps: int, patience: int | None) -> str:
    """The line for a run that would train nothing."""
    if earlier.step >= max_steps:
        why = f"it has done {earlier.step} steps, and {max_steps} are asked for. Ask for more (--num_train_epochs or --max_steps)"
    else:
        why = f"early stopping ended it after {patience} evaluations without a better one. Give a larger --early_stopping_patience"
    return (
        f"nothing is left to train from {earlier.checkpoint}: {why}, measure it with python -m finetune.evaluate, "
        "or start a new run in another --output_dir."
    )


def _listed(changes: dict[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"{key} {_shown(old)} -> {_shown(new)}" for key, (old, new) in changes.items())


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, allow_nan=False)
