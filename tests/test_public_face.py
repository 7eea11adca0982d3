"""The public face: what commands, recipes and Python code of users rely on. A move of files must change nothing of it.

A wanted change is written down by `python tests/test_public_face.py`, which writes tests/data/public_face.json anew, and by
a line for users; an unwanted one fails here.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])

import pytest
import yaml
from transformers import TrainingArguments

FACE = Path(__file__).with_name("data") / "public_face.json"
COMMANDS = (
    "data_prep.prepare", "data_prep.demo", "finetune.evaluate", "finetune.compare", "finetune.folds", "finetune.predict", "finetune.explain",
    "finetune.export", "finetune.hub", "finetune.space",
)  # fmt: skip
IMPORTS = {
    "finetune": ["Classifier", "UserError", "load"],
    "data_prep.video": ["probe", "read_frames"],
    "finetune.model.weights": ["load_checkpoint"],
    "finetune.model.modeling": ["TimesformerForVideoClassification"],
    "finetune.settings.arguments": ["FinetuningArguments"],
}


class _Parser(Exception):
    """Carries a command's parser out of the command, before it reads its arguments."""


def plain(value: Any) -> Any:
    """A default or choice as JSON has it; what depends on the machine (a number of cores) by its type."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return value
    if isinstance(value, list | tuple | dict):
        return [plain(item) for item in value]
    return str(value)


def parser_of(module: str) -> argparse.ArgumentParser:
    """The parser of a command, as its `main` makes it."""

    def parse_args(self: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        raise _Parser(self)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("parse_args", "parse_known_args"):
            patch.setattr(argparse.ArgumentParser, name, parse_args)
        patch.setattr(sys, "argv", [module])
        main: Any = importlib.import_module(module).main
        with contextlib.suppress(TypeError):
            main = main.__wrapped__ if hasattr(main, "__wrapped__") else main
        try:
            main([]) if module != "data_prep.demo" else main()
        except _Parser as caught:
            parser: argparse.ArgumentParser = caught.args[0]
            return parser
    raise AssertionError(f"{module} parses no arguments")


def options_of(parser: argparse.ArgumentParser) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= {name: options_of(sub) for name, sub in action.choices.items()}
        elif not isinstance(action, argparse._HelpAction):
            found[" ".join(action.option_strings) or action.dest] = {
                "default": "of this machine" if _is_of_machine(action.dest) else plain(action.default),
                "nargs": plain(action.nargs),
                "choices": plain(sorted(map(str, action.choices))) if action.choices else None,
                "required": action.required,
            }
    return found


def _is_of_machine(dest: str) -> bool:
    return dest in ("num_proc", "num_workers", "dataloader_num_workers", "launcher")  # cores, and where Python is


def training_flags() -> dict[str, Any]:
    """The flags of the training command that are ours, and those of transformers whose default is ours."""
    from finetune.settings.arguments import DataArguments, FinetuningArguments, LearningArguments, ModelArguments

    theirs = {field.name: field for field in dataclasses.fields(TrainingArguments)}
    found = {}
    for arguments in (DataArguments, ModelArguments, LearningArguments, FinetuningArguments):
        for field in dataclasses.fields(arguments):
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            base = theirs.get(field.name)
            if base is None or (base.default_factory is dataclasses.MISSING and base.default != default):
                found[field.name] = "of this machine" if _is_of_machine(field.name) else plain(default)
    return found


def recipes() -> dict[str, Any]:
    folder = Path(__file__).parents[1] / "finetune" / "recipes"
    return {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.yaml"))}


def face() -> dict[str, Any]:
    return {
        "flags": {module: options_of(parser_of(module)) for module in COMMANDS},
        "finetune/run.py": training_flags(),
        "recipes": recipes(),
        "launch": sorted(path.name for path in (Path(__file__).parents[1] / "finetune" / "launch").iterdir()),
    }


def changed(frozen: Any, found: Any, at: str = "") -> Iterator[str]:
    """A line for each place in which two JSON values differ."""
    if isinstance(frozen, dict) and isinstance(found, dict):
        for key in sorted(frozen.keys() | found.keys()):
            if key not in found:
                yield f"{at}/{key} is gone"
            elif key not in frozen:
                yield f"{at}/{key} is new"
            else:
                yield from changed(frozen[key], found[key], f"{at}/{key}")
    elif frozen != found:
        yield f"{at} was {frozen!r}, is {found!r}"


def test_flags_defaults_and_recipes_are_what_they_were() -> None:
    frozen = json.loads(FACE.read_text(encoding="utf-8"))
    found = json.loads(json.dumps(face()))
    assert not list(changed({key: frozen[key] for key in found}, found))


@pytest.mark.parametrize("module", IMPORTS)
def test_public_imports_are_there(module: str) -> None:
    for name in IMPORTS[module]:
        assert hasattr(importlib.import_module(module), name), f"from {module} import {name}"


def outputs_of(dataset: Path, run: Path) -> dict[str, Any]:
    """Names of files, columns and keys of a prepared dataset and a run."""
    import datasets

    rows = datasets.load_from_disk(str(dataset))["train"]
    with (run / "predictions.csv").open(newline="", encoding="utf-8") as file:
        header = next(csv.reader(file))
    files = (path for path in run.iterdir() if not path.name.startswith("checkpoint-"))
    return {
        "dataset files": sorted(path.name for path in dataset.iterdir()),
        "columns": {name: str(feature) for name, feature in rows.features.items()},
        "summary.json": sorted(json.loads((dataset / "summary.json").read_text(encoding="utf-8"))),
        "run files": sorted(path.name for path in files),
        "metrics.json": sorted(json.loads((run / "metrics.json").read_text(encoding="utf-8"))),
        "predictions.csv": header,
    }


def test_outputs_have_their_names_columns_and_keys(bars_dataset: Path, tmp_path: Path) -> None:
    from finetune.run import main

    run = tmp_path / "run"
    main(
        [
            "--dataset_name", str(bars_dataset), "--model_name_or_path", "timesformer-tiny", "--output_dir", str(run), "--config", "none",
            "--max_steps", "2", "--per_device_train_batch_size", "4", "--dataloader_num_workers", "0", "--report_to", "none",
        ]
    )  # fmt: skip
    frozen = json.loads(FACE.read_text(encoding="utf-8"))["outputs"]
    assert not list(changed(frozen, outputs_of(bars_dataset, run)))


if __name__ == "__main__":
    import tempfile

    from conftest import encode, moving_bar

    from data_prep.prepare import main as prepare
    from finetune.run import main as train

    with tempfile.TemporaryDirectory() as name:
        videos, dataset, run = (Path(name) / part for part in ("videos", "dataset", "run"))
        for label, direction in (("left", -1), ("right", 1)):
            for number in range(20):
                encode(videos / label / f"{number}.mp4", moving_bar(direction, seed=number))
        prepare([str(videos), str(dataset), "--splits", "0.6", "0.2", "0.2", "--seed", "3", "--num_proc", "1"])
        train(
            [
                "--dataset_name", str(dataset), "--model_name_or_path", "timesformer-tiny", "--output_dir", str(run), "--config", "none",
                "--max_steps", "2", "--per_device_train_batch_size", "4", "--dataloader_num_workers", "0", "--report_to", "none",
            ]
        )  # fmt: skip
        document = {**face(), "outputs": outputs_of(dataset, run)}
    FACE.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
