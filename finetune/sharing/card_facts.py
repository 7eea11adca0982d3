"""What the card says of a run, gathered where each fact is known."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import av
import datasets
import torch
import transformers

from data_prep.report.facts import plural
from data_prep.workers import available_cores
from finetune.clips.dataset import Splits
from finetune.model.modeling import MULTI_LABEL, is_plain
from finetune.model.named_models import NAMED_MODELS
from finetune.settings.arguments import Settings
from finetune.sharing.card import CardFacts


def collect_facts(
    trainer: Any,
    splits: Splits,
    settings: Settings,
    evaluation: Any,
    hub_model_id: str | None,
    seconds: float,
) -> CardFacts:
    """The facts of a finished run; `evaluation` is `finetune.results.evaluation.Evaluation` or None."""
    name = (hub_model_id or Path(trainer.args.output_dir).name).rpartition("/")[2]
    return CardFacts(
        name=name,
        repo_id=hub_model_id or f"ME/{name}",
        license=settings.model.license,
        examples=settings.model.push_examples,
        recipe=settings.recipe,
        changes=settings.changes,
        seconds=seconds,
        code=code_version(Path(__file__).parents[2]),
        versions={
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in (torch, transformers, datasets, av)},
        },
        **_start_facts(settings.model.model_name_or_path),
        **_data_facts(splits),
        **_model_facts(trainer),
        **_training_facts(trainer),
        **_evaluation_facts(evaluation),
    )


def _start_facts(start: str) -> dict[str, Any]:
    return {
        "base_model": start if _is_hub_id(start) else None,
        "architecture": start if start in NAMED_MODELS else None,
        "started_from": start if _is_hub_id(start) else Path(start).name,
    }


def _data_facts(splits: Splits) -> dict[str, Any]:
    given = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    there = {name: rows for name, rows in given.items() if rows is not None}
    return {
        "labels": splits.labels,
        "dataset": _dataset_name(splits.name),
        "dataset_id": splits.name if _is_hub_id(splits.name) else None,
        "counts": {name: _count(rows, splits.labels) for name, rows in there.items()},
        "num_unlabelled": len(splits.unlabelled or ()),
        "groups": {name: _count_groups(rows) for name, rows in there.items()},
        "split_seed": splits.summary.get("seed"),
        "rejected": splits.summary.get("rejected"),
        "kept_though_damaged": len(splits.summary.get("kept_though_damaged", [])),
        "notes": splits.summary.get("notes", []),
    }


def _model_facts(trainer: Any) -> dict[str, Any]:
    config, crop = trainer.model.config, trainer.processing_class.crop_size
    weights = Path(trainer.args.output_dir).glob("model*.safetensors")
    return {
        "num_frames": config.num_frames,
        "height": crop["height"],
        "width": crop["width"],
        "attention_type": config.attention_type,
        "is_plain": is_plain(config),
        "is_multi_label": config.problem_type == MULTI_LABEL,
        "num_parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "megabytes": sum(path.stat().st_size for path in weights) / 1e6,
    }


def _training_facts(trainer: Any) -> dict[str, Any]:
    maker, history = trainer.train_dataset.maker, trainer.state.log_history
    return {
        "augmentation": f"{maker.sampling.in_training()}, {maker.transform.in_words()}",
        "sampling": maker.sampling,
        "unreadable": sorted(trainer.unreadable),
        "num_processes": trainer.args.world_size,
        "training_seconds": trainer.clock.seconds,
        "training_parts": trainer.clock.parts,
        "device": _device(trainer.args.device),
        "computed_in": _computed_in(trainer.args),
        "eval_batch_size": trainer.args.per_device_eval_batch_size,
        "curve": _curve(history),
        "chosen_on_validation": trainer.args.load_best_model_at_end,
    }


def _evaluation_facts(evaluation: Any) -> dict[str, Any]:
    if evaluation is None:
        nothing: dict[str, Any] = {"metrics": {}, "intervals": {}, "resampled": "", "per_class": {}, "confusion": []}
        return nothing | {"split": "", "protocol": "", "clips_per_second": None}
    return {
        "split": evaluation.split,
        "metrics": evaluation.metrics,
        "intervals": evaluation.intervals,
        "resampled": evaluation.resampled,
        "per_class": evaluation.computed["per_class"],
        "confusion": evaluation.computed.get("confusion_matrix", []),  # none of several labels per video
        "protocol": evaluation.protocol,
        "clips_per_second": evaluation.clips_per_second,
    }


def code_version(root: Path) -> str:
    """The commit of this project's checkout, or its version where it is installed from a package."""
    if not (root / ".git").exists():
        return f"version {importlib.metadata.version('timesformer-finetuning')}"
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):  # no git, or a checkout of another user, which it will not read
        return "a checkout of an unknown commit"
    return f"commit {commit}{' and changes that are not committed' if changed else ''}"


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=root, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    ).stdout.strip()


def _curve(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """A row for each evaluation: its epoch and numbers, and the mean of the training losses logged since the last."""
    rows, losses = [], []
    for entry in history:
        if "loss" in entry:
            losses.append(entry["loss"])
        if "eval_loss" in entry:
            row = {key: entry[key] for key in ("epoch", "eval_loss", "eval_top1") if key in entry}
            rows.append(row | ({"loss": sum(losses) / len(losses)} if losses else {}))
            losses = []
    return rows


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({_cpu_name()}, {plural(available_cores(), 'core')})" if device.type == "cpu" else device.type


def _cpu_name() -> str:
    """As Linux tells it on x86; elsewhere the kind of processor."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        told = ""
    name = re.search(r"^model name\s*:\s*(.+)$", told, flags=re.MULTILINE)
    return name[1].strip() if name else platform.processor() or platform.machine()


def _computed_in(args: Any) -> str:
    """What the evaluation computed in, as the card says it."""
    threads = torch.get_num_threads()
    kind = (
        "bfloat16 where autocast allows" if args.bf16 else "float16 where autocast allows" if args.fp16 else "float32"
    )
    return f"{kind}, {threads} thread{'s' if threads > 1 else ''}" if args.device.type == "cpu" else kind


def _is_hub_id(name: str) -> bool:
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not Path(name).exists()


def _dataset_name(name: str) -> str:
    """The last part of a path: the rest is nobody's business."""
    return name if _is_hub_id(name) else Path(name).name


def _count(rows: Any, labels: list[str]) -> dict[str, int]:
    counts = dict.fromkeys(labels, 0)
    several = "labels" in rows.column_names
    for numbers in rows["labels"] if several else ([number] for number in rows["label"]):
        for number in numbers or ():
            if number is not None and 0 <= number < len(labels):  # a stream may hold rows that were never reached
                counts[labels[number]] += 1
    return counts


def _count_groups(rows: Any) -> int:
    return len(set(rows["group"]) - {None, ""}) if "group" in rows.column_names else 0
