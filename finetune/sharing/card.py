"""Facts of a run -> the model card. `render_card` is pure; model_cards/template.md lays the facts out."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from finetune.clips.sampling import Sampling

_TEMPLATES = Path(__file__).parents[2] / "model_cards"
_TABLE_CLASSES = 12  # whose confusion matrix fits a page as text; of more, the most frequent confusions are told
_SHOWN_CONFUSIONS = 10
_SHOWN_CURVE = 12  # rows
# Our names -> type and name on the Hub.
_HUB_METRICS = {
    "top1": ("accuracy", "top-1 accuracy"),
    "top5": ("top_5_accuracy", "top-5 accuracy"),
    "mean_class_accuracy": ("mean_class_accuracy", "mean class accuracy"),
    "macro_f1": ("f1", "macro-F1"),
    "weighted_f1": ("f1", "weighted F1"),
    "mean_average_precision": ("mAP", "mean average precision"),
    "micro_f1": ("f1", "micro-F1"),
    "subset_accuracy": ("accuracy", "subset accuracy: all labels of a video right"),
}


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
    groups: dict[str, int]  # split -> groups
    split_seed: int | None  # of data_prep, where it made the splits
    rejected: int | None
    kept_though_damaged: int
    notes: list[str]
    split: str  # the one that was evaluated
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]  # 95 %, of the metrics that have one
    resampled: str  # videos or groups: what the intervals are over
    per_class: dict[str, list[float]]
    confusion: list[list[int]]  # rows: true
    protocol: str
    num_frames: int
    height: int
    width: int
    attention_type: str
    is_plain: bool  # whether transformers alone gives the same
    is_multi_label: bool
    num_parameters: int
    megabytes: float  # of the weights' files
    augmentation: str
    sampling: Sampling
    unreadable: list[str]  # videos that were skipped
    recipe: dict[str, Any]
    num_processes: int
    seconds: float  # all of the run, since it was last started
    training_seconds: float | None  # over all its parts
    training_parts: int
    device: str
    computed_in: str  # what the evaluation computed in: type of number, and threads of a CPU
    eval_batch_size: int
    clips_per_second: float | None  # of one process
    code: str  # version or commit of this project
    curve: list[dict[str, float]]  # epoch, loss, eval_loss, eval_top1, where measured
    chosen_on_validation: bool  # whether the checkpoint is the best of several
    examples: bool  # whether the card may show frames of the test videos
    versions: dict[str, str] = field(default_factory=dict)


def render_card(facts: CardFacts) -> str:
    """README.md: YAML metadata for the Hub, then Markdown. Nothing in `facts` can break either."""
    body = environment().get_template("template.md").render(
        facts=facts, read_clip=read_clip_code(facts.sampling, facts.num_frames), confusions=most_frequent_confusions(facts), table_classes=_TABLE_CLASSES, curve=thinned(facts.curve)
    )  # fmt: skip
    return f"---\n{card_data(facts).to_yaml()}\n---\n\n{body}"


def read_clip_code(sampling: Sampling, num_frames: int) -> str:
    """Python that reads the clip a model is shown with PyAV and numpy alone: `read_clip(path)`."""
    return environment().get_template("read_clip.py.jinja").render(sampling=sampling, num_frames=num_frames)


def environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    made.filters |= {"text": as_markdown_text, "code": as_code, "repo": as_repo_id, "duration": as_duration}
    return made


def most_frequent_confusions(facts: CardFacts) -> list[tuple[str, str, int]]:
    """(true, predicted, videos), the most frequent first."""
    wrong = [
        (facts.labels[row], facts.labels[column], count)
        for row, counts in enumerate(facts.confusion)
        for column, count in enumerate(counts)
        if row != column and count
    ]
    return sorted(wrong, key=lambda entry: -entry[2])[:_SHOWN_CONFUSIONS]


def thinned(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """At most `_SHOWN_CURVE` of them, evenly, the last one always."""
    step = -(-len(rows) // _SHOWN_CURVE) or 1
    return rows[::-1][::step][::-1]


def card_data(facts: CardFacts) -> ModelCardData:
    """The metadata the Hub shows."""
    results = eval_results(facts)
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="video-classification",
        license=facts.license,
        base_model=facts.base_model,
        datasets=[facts.dataset_id] if facts.dataset_id else None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        tags=["timesformer", "video-classification"],
        model_name=facts.name if results else None,
        eval_results=results or None,
    )


def eval_results(facts: CardFacts) -> list[EvalResult]:
    """Each number that was measured and that has a name on the Hub, its interval and the protocol with it."""
    results = []
    for key, value in facts.metrics.items():
        kind, name = _HUB_METRICS.get(key.removeprefix(f"{facts.split}_"), ("", ""))
        if not kind or (kind == "top_5_accuracy" and len(facts.labels) <= 5):  # which is 1 whatever the model says
            continue
        bounds = facts.intervals.get(key)
        interval = (
            {"interval_95": [round(bound, 4) for bound in bounds], "interval_over": facts.resampled} if bounds else {}
        )
        results.append(
            EvalResult(
                task_type="video-classification",
                dataset_type=facts.dataset_id or "videos",
                dataset_name=facts.dataset,
                dataset_split=facts.split,
                metric_type=kind,
                metric_name=name,
                metric_value=round(value, 4),
                metric_args={"protocol": facts.protocol, **interval},
            )
        )
    return results


def as_markdown_text(text: Any) -> str:
    """`text` as it reads, in Markdown: no control characters, and every character with a meaning escaped."""
    plain = "".join(char if char.isprintable() else " " for char in str(text))
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~&$-])", r"\\\1", plain)


def as_duration(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.0f} seconds" if seconds < 60 else f"{seconds / 60:.1f} minutes"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"


def as_repo_id(text: Any) -> str:
    """`text` where code names a repository: nothing that could end a string or a code block."""
    return re.sub(r"[^\w./-]", "-", str(text), flags=re.ASCII)


def as_code(text: Any) -> str:
    """`text` as code, in a Markdown table too: in backticks unless it holds what they, or a table's cell, would not keep."""
    plain = "".join(char if char.isprintable() else " " for char in str(text))
    return f"<code>{as_markdown_text(plain)}</code>" if re.search(r"[`|\\]", plain) else f"`{plain}`"
