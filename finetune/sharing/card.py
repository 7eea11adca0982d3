"""Facts of a run -> the model card. `render_card` is pure; model_cards/template.md lays the facts out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from finetune.clips.sampling import Sampling
from finetune.results.templates import environment, read_clip_code

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
    changes: tuple[str, ...] = ()  # what of the recipe was set otherwise until which step
    num_unlabelled: int = 0  # test videos without labels, which were predicted and not measured


def render_card(facts: CardFacts) -> str:
    """README.md: YAML metadata for the Hub, then Markdown. Nothing in `facts` can break either."""
    body = environment().get_template("template.md").render(
        facts=facts, read_clip=read_clip_code(facts.sampling, facts.num_frames), confusions=most_frequent_confusions(facts), table_classes=_TABLE_CLASSES, curve=thinned(facts.curve)
    )  # fmt: skip
    return f"---\n{card_data(facts).to_yaml()}\n---\n\n{body}"


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
