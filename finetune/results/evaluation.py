"""Scores of a split's videos -> what is known about the model: the numbers, their intervals, the protocol behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from data_prep.errors import UserError
from finetune.clips.clip import IGNORED, ClipMaker
from finetune.clips.row_checks import has_labels
from finetune.clips.views import Average, VideoViews, Views
from finetune.model.finite import NotFinite
from finetune.model.modeling import MULTI_LABEL
from finetune.model.thresholds import label_thresholds
from finetune.results.calibration import log_probabilities
from finetune.results.intervals import (
    NUM_RESAMPLES,
    Interval,
    Statistics,
    bootstrap,
    class_statistics,
    label_statistics,
    resampling_units,
)
from finetune.results.metrics import SCALARS, compute_all
from finetune.results.multilabel_metrics import MULTILABEL_SCALARS, best_thresholds, compute_multilabel, sigmoid
from finetune.results.scoring import Scored, Scorer

_SMALLEST = np.finfo(np.float64).tiny  # whose logarithm is finite


@dataclass(frozen=True)
class Protocol:
    """What is measured: which views of a video, and what is averaged over them."""

    views: Views
    average: Average = "logits"

    def in_words(self, maker: ClipMaker) -> str:
        """For `metrics.json` and the card."""
        several = self.views.num_temporal > 1
        clips = f"{self.views.num_temporal} clips per video" if several else "one clip per video"
        sampled = maker.sampling.in_evaluation(maker.num_frames, self.views.num_temporal)
        words = f"{clips} ({sampled}), {self.views.in_words(maker.transform.crop)}"
        words += f", {self.average} averaged over the {len(self.views)} views" if len(self.views) > 1 else ""
        return words + ", every video of the split counted once"


@dataclass(frozen=True)
class Evaluation:
    """One split's videos, each once.

    `labels` int64 `(videos,)`, or of several labels per video 0 and 1 `(videos, classes)`; None where the split has
    none, of which there are scores and no metrics. `scores` float64
    `(videos, classes)` are probabilities, `view_scores` `(videos, views, classes)` those of each view. Videos that are
    not `readable` count as wrong in top-1, top-5 and subset accuracy; the other numbers are of those that are.
    """

    split: str
    rows: Dataset
    names: list[str]
    labels: np.ndarray | None
    readable: np.ndarray
    scores: np.ndarray
    view_scores: np.ndarray
    thresholds: np.ndarray | None  # `(classes,)`, of several labels per video
    unreadable: dict[str, str]
    metrics: dict[str, float]  # {split_top1, ..., split_loss}, in the order in which they are shown
    intervals: dict[str, Interval]  # 95 %, of some of them: {split_top1, ...}
    resampled: str  # videos or groups
    computed: dict[str, Any]  # everything `finetune.results.metrics` knows, matrices too
    protocol: str
    protocol_facts: dict[str, Any]
    clips_per_second: float | None  # as of `Scored`; not in `document()`, which is the same for the same model

    @property
    def is_multi_label(self) -> bool:
        return self.thresholds is not None

    def answers(self, scores: np.ndarray) -> np.ndarray:
        """bool of the shape of `scores` `(videos, classes)`: the likeliest class, or all from their thresholds on."""
        if self.thresholds is not None:
            return scores >= self.thresholds
        return np.eye(len(self.names), dtype=bool)[scores.argmax(1)]

    def truth(self) -> np.ndarray:
        """bool `(videos, classes)`; all False where the split has no labels."""
        if self.labels is None:
            return np.zeros((len(self.rows), len(self.names)), dtype=bool)
        return self.labels > 0 if self.is_multi_label else np.eye(len(self.names), dtype=bool)[self.labels]

    def document(self) -> dict[str, Any]:
        """All of it but the scores, for metrics.json."""
        unreadable = [{"video_id": name, "reason": reason} for name, reason in sorted(self.unreadable.items())]
        return {
            "protocol": self.protocol,
            **self.protocol_facts,
            "labels": self.names,
            **self.metrics,
            **({"num_unlabelled": len(self.rows)} if self.labels is None else {}),
            "intervals_95": {name: list(bounds) for name, bounds in self.intervals.items()},
            "intervals_over": f"{self.resampled}, {NUM_RESAMPLES} bootstrap resamples",
            **({"unreadable": unreadable} if unreadable else {}),
            **{key: self.computed[key] for key in ("per_class", "confusion_matrix") if key in self.computed},
        }


def evaluate_split(scorer: Scorer, maker: ClipMaker, rows: Dataset, split: str, protocol: Protocol) -> Evaluation:
    """Scores every video of `rows`, and measures where they have labels. Raises `UserError` where none can be read."""
    config = scorer.model.config
    names = [config.id2label[i] for i in range(config.num_labels)]
    labels = true_labels(rows, names, config.problem_type == MULTI_LABEL) if has_labels(rows) else None
    scored = _score(scorer, maker, rows, split, protocol)
    units, resampled = resampling_units(rows["group"] if "group" in rows.column_names else None, len(rows))
    thresholds = label_thresholds(config)
    averaged, view_scores = (_class_scores if thresholds is None else _label_scores)(scored, protocol.average)
    metrics: dict[str, float] = {}
    intervals: dict[str, Interval] = {}
    computed: dict[str, Any] = {}
    if labels is not None:
        computed, statistics = _measure(scored, averaged, labels, thresholds)
        shown = list(SCALARS if thresholds is None else MULTILABEL_SCALARS)
        shown += ["clip_top1"] if thresholds is None and len(protocol.views) > 1 else []
        metrics = {f"{split}_{'loss' if name == 'nll' else name}": computed[name] for name in shown}
        intervals = {f"{split}_{name}": bounds for name, bounds in bootstrap(units, statistics).items()}
    return Evaluation(
        split, rows, names, labels, scored.readable, averaged if thresholds is not None else np.exp(averaged),
        view_scores, thresholds, scored.unreadable, metrics, intervals, resampled, computed,
        protocol=protocol.in_words(maker) + _exceptions(scored, config, thresholds),
        protocol_facts={
            "split": split, "num_videos": len(rows), "views": str(protocol.views), "average": protocol.average,
        },
        clips_per_second=scored.clips_per_second,
    )  # fmt: skip


def _score(scorer: Scorer, maker: ClipMaker, rows: Dataset, split: str, protocol: Protocol) -> Scored:
    """Raises `UserError` where no video can be read, and where the model answers one with NaN: that is no class."""
    scored = scorer.score(VideoViews(rows, maker, protocol.views))
    if not scored.readable.any():
        raise UserError(f"none of the {len(rows)} videos of {split} can be read any more.")
    wrong = np.flatnonzero(scored.readable & ~np.isfinite(scored.logits).all((1, 2)))
    if len(wrong):
        raise NotFinite(f"the scores of {len(wrong)} of {len(rows)} videos of {split} are NaN or infinite, the first of {rows[int(wrong[0])]['video_id']}: nothing was measured. Take an earlier checkpoint; where it was computed in float16, bfloat16 (--bf16) or float32.")  # fmt: skip
    return scored


def _measure(
    scored: Scored, averaged: np.ndarray, labels: np.ndarray, thresholds: np.ndarray | None
) -> tuple[dict[str, Any], Statistics]:
    """All numbers of the videos' scores, and what computes them anew of resamples."""
    readable = scored.readable
    if thresholds is not None:
        computed = compute_multilabel(averaged, np.where(readable[:, None], labels, IGNORED), thresholds)
        return computed, label_statistics(averaged, labels, readable, thresholds)
    computed = compute_all(averaged, np.where(readable, labels, IGNORED))
    computed["clip_top1"] = _clip_accuracy(scored, labels)
    return computed, class_statistics(averaged, labels, readable)


def _class_scores(scored: Scored, average: Average) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of each video `(videos, classes)`, probabilities of each view `(videos, views, classes)`."""
    of_views = np.exp(log_probabilities(scored.logits))
    averaged = scored.logits.mean(1) if average == "logits" else np.log(np.maximum(of_views.mean(1), _SMALLEST))
    return log_probabilities(averaged), of_views


def _label_scores(scored: Scored, average: Average) -> tuple[np.ndarray, np.ndarray]:
    """Likewise of several labels per video, but probabilities both."""
    of_views = sigmoid(scored.logits)
    return (sigmoid(scored.logits.mean(1)) if average == "logits" else of_views.mean(1)), of_views


def _clip_accuracy(scored: Scored, labels: np.ndarray) -> float:
    """Share of views whose own answer is right."""
    right = (scored.logits.argmax(2) == labels[:, None]) & scored.readable[:, None]
    return float(right.mean())


def true_labels(rows: Dataset, names: list[str], multi_label: bool) -> np.ndarray:
    """The labels of `rows` as the model numbers them, by name: int64 `(videos,)`, or 0 and 1 `(videos, classes)`.

    Raises `UserError` for a label the model does not know, and where one has several labels per video, the other one.
    """
    if ("labels" in rows.column_names) != multi_label:
        one, other = ("several labels", "one label") if multi_label else ("one label", "several labels")
        raise UserError(f"the model gives {one} per video, the dataset has {other}: evaluate it on a dataset of its kind.")  # fmt: skip
    own = (rows.features["labels"].feature if multi_label else rows.features["label"]).names
    unknown = sorted(set(own) - set(names))
    if unknown:
        raise UserError(f"the dataset has {len(unknown)} classes that the model does not know, the first {unknown[0]!r}; the model knows {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}.")  # fmt: skip
    number_of = np.array([names.index(name) for name in own])
    if not multi_label:
        return number_of[np.array(rows["label"])]
    labels = np.zeros((len(rows), len(names)), dtype=np.int64)
    for row, numbers in zip(labels, rows["labels"]):
        row[number_of[numbers]] = 1
    return labels


def choose_thresholds(scorer: Scorer, maker: ClipMaker, validation: Dataset, protocol: Protocol) -> None:
    """Writes into the model's config, so into its checkpoint, from which score on each of several labels is given."""
    config = scorer.model.config
    names = [config.id2label[i] for i in range(config.num_labels)]
    labels = true_labels(validation, names, multi_label=True)
    scored = _score(scorer, maker, validation, "validation", protocol)
    scores, _ = _label_scores(scored, protocol.average)
    config.label_thresholds = best_thresholds(scores[scored.readable], labels[scored.readable]).tolist()


def _exceptions(scored: Scored, config: Any, thresholds: np.ndarray | None) -> str:
    """What else is to be said of a protocol."""
    words = ""
    if thresholds is not None:
        chosen = getattr(config, "label_thresholds", None) is not None
        words = f"; a label is given from {'its threshold on, chosen by F1 on the validation split' if chosen else '0.5 on'}"
    if scored.unreadable:
        where = "top-1 and top-5" if thresholds is None else "subset accuracy"
        words += f"; those that could not be read any more count as wrong in {where}"
    return words
