"""Facts of a run -> the model card. `render_card` is pure; model_cards/template.md lays the facts out."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import datasets
import jinja2
import torch
import transformers
from huggingface_hub import EvalResult, ModelCardData

from finetune.arguments import Settings
from finetune.dataset import Splits
from finetune.modeling import is_plain
from finetune.named_models import NAMED_MODELS

TEMPLATE = Path(__file__).parents[1] / "model_cards" / "template.md"


@dataclass(frozen=True)
class CardFacts:
    """All a card says. Texts are untrusted: labels and names come from users' folders."""

    name: str
    repo_id: str
    labels: list[str]
    base_model: str | None  # a Hub id
    architecture: str | None  # a named one, started from random weights
    started_from: str  # a checkpoint, or the named architecture
    license: str | None
    dataset: str
    dataset_id: str | None  # a Hub id
    counts: dict[str, dict[str, int]]  # split -> label -> videos
    rejected: int | None
    notes: list[str]
    split: str  # the one that was evaluated
    metrics: dict[str, float]
    per_class: dict[str, list[float]]
    protocol: str
    num_frames: int
    height: int
    width: int
    attention_type: str
    is_plain: bool  # whether transformers alone gives the same
    num_parameters: int
    augmentation: str
    sampling: str  # the strategy's name
    unreadable: list[str]  # videos that were skipped
    recipe: dict[str, Any]
    num_processes: int
    seconds: float
    chosen_on_validation: bool  # whether the checkpoint is the best of several
    examples: bool  # whether the card may show frames of the test videos
    versions: dict[str, str] = field(default_factory=dict)


def collect_facts(
    trainer: Any,
    splits: Splits,
    settings: Settings,
    evaluation: Any,
    hub_model_id: str | None,
    seconds: float,
) -> CardFacts:
    """The facts of a finished run; `evaluation` is `finetune.evaluation.Evaluation` or None."""
    config, start = trainer.model.config, settings.model.model_name_or_path
    crop = trainer.processing_class.crop_size
    name = (hub_model_id or Path(trainer.args.output_dir).name).rpartition("/")[2]
    maker = trainer.train_dataset.maker
    given = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    return CardFacts(
        name=name,
        repo_id=hub_model_id or f"ME/{name}",
        labels=splits.labels,
        base_model=start if _is_hub_id(start) else None,
        architecture=start if start in NAMED_MODELS else None,
        started_from=start if _is_hub_id(start) else Path(start).name,
        license=settings.model.license,
        dataset=_dataset_name(splits.name),
        dataset_id=splits.name if _is_hub_id(splits.name) else None,
        counts={key: _count(rows, splits.labels) for key, rows in given.items() if rows is not None},
        rejected=splits.summary.get("rejected"),
        notes=splits.summary.get("notes", []),
        split=evaluation.split if evaluation else "",
        metrics=evaluation.metrics if evaluation else {},
        per_class=evaluation.computed["per_class"] if evaluation else {},
        protocol=evaluation.protocol if evaluation else "",
        num_frames=config.num_frames,
        height=crop["height"],
        width=crop["width"],
        attention_type=config.attention_type,
        is_plain=is_plain(config),
        num_parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
        augmentation=f"{maker.sampling.in_training()}, {maker.transform.in_words()}",
        sampling=maker.sampling.strategy,
        unreadable=sorted(trainer.unreadable),
        recipe=settings.recipe,
        num_processes=trainer.args.world_size,
        seconds=seconds,
        chosen_on_validation=trainer.args.load_best_model_at_end,
        examples=settings.model.push_examples,
        versions={
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in (torch, transformers, datasets, av)},
        },
    )


def _is_hub_id(name: str) -> bool:
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not Path(name).exists()


def _dataset_name(name: str) -> str:
    """The last part of a path: the rest is nobody's business."""
    return name if _is_hub_id(name) else Path(name).name


def _count(rows: Any, labels: list[str]) -> dict[str, int]:
    counts = dict.fromkeys(labels, 0)
    several = "labels" in rows.column_names
    for numbers in rows["labels"] if several else ([number] for number in rows["label"]):
        for number in numbers:
            counts[labels[number]] += 1
    return counts


def render_card(facts: CardFacts) -> str:
    """README.md: YAML metadata for the Hub, then Markdown. Nothing in `facts` can break either."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)  # fmt: skip
    environment.filters["text"] = as_markdown_text
    environment.filters["code"] = as_code
    body = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(facts=facts)
    return f"---\n{card_data(facts).to_yaml()}\n---\n\n{body}"


def card_data(facts: CardFacts) -> ModelCardData:
    """The metadata the Hub shows."""
    names = {
        "top1": ("accuracy", "top-1 accuracy"),
        "top5": ("top_5_accuracy", "top-5 accuracy"),
        "macro_f1": ("f1", "macro-F1"),
    }
    results = [
        EvalResult(
            task_type="video-classification",
            dataset_type=facts.dataset_id or "videos",
            dataset_name=facts.dataset,
            dataset_split=facts.split,
            metric_type=names[key][0],
            metric_name=names[key][1],
            metric_value=round(value, 4),
        )
        for key, value in ((key.removeprefix(f"{facts.split}_"), value) for key, value in facts.metrics.items())
        if key in names
    ]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="video-classification",
        license=facts.license,
        base_model=facts.base_model,
        datasets=[facts.dataset_id] if facts.dataset_id else None,
        metrics=["accuracy", "f1"],
        tags=["timesformer", "video-classification"],
        model_name=facts.name if results else None,
        eval_results=results or None,
    )


def as_markdown_text(text: Any) -> str:
    """`text` as it reads, in Markdown: no control characters, and every character with a meaning escaped."""
    plain = "".join(char if char.isprintable() else " " for char in str(text))
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~&$-])", r"\\\1", plain)


def as_code(text: Any) -> str:
    """`text` inside backticks in a Markdown table."""
    plain = "".join(char if char.isprintable() else " " for char in str(text)).replace("`", "'").replace("|", "\\|")
    return f"`{plain}`"
