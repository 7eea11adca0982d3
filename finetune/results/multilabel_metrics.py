"""Probabilities and labels of videos with several labels each -> numbers, and the thresholds that turn one into the other."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

from finetune.results.counts import average_precision, label_averages, per_class_scores
from finetune.results.local_metric import LocalMetric

MULTILABEL_SCALARS = ("mean_average_precision", "macro_f1", "micro_f1", "subset_accuracy", "nll")


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """float64 probabilities of the shape of `logits`."""
    probabilities: np.ndarray = 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))
    return probabilities


def best_thresholds(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`(classes,)`: for each class of `(videos, classes)` the score from which on F1 is highest; 0.5 without a positive.

    It lies in the middle between two scores. Choose it on validation, never on what is then measured.
    """
    return np.array([_best_threshold(scores[:, c], labels[:, c]) for c in range(scores.shape[1])])


def _best_threshold(scores: np.ndarray, labels: np.ndarray) -> float:
    if not labels.any():
        return 0.5
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    f1 = 2 * np.cumsum(labels[order]) / (np.arange(1, len(ordered) + 1) + labels.sum())
    f1[:-1][np.diff(ordered) == 0] = -1  # equal scores cannot be told apart
    best = int(f1.argmax())
    below = ordered[best + 1] if best + 1 < len(ordered) else 0.0
    return float((ordered[best] + below) / 2)


class MultiLabelClassification(LocalMetric):
    """`MULTILABEL_SCALARS` and per_class (lists by class) of one row of probabilities per video.

    mean_average_precision is of the classes that have videos; `nll` the mean binary cross-entropy of all decisions, nats.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Average precision, F1 and subset accuracy of videos with several labels.",
            citation="",
            inputs_description="predictions: probabilities, references: 0 or 1, each a list by class per video.",
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("float64")), "references": datasets.List(datasets.Value("int64"))}
            ),
        )  # fmt: skip

    def _compute(self, predictions: Any, references: Any, thresholds: list[float]) -> dict[str, Any]:
        scores, labels = np.asarray(predictions, dtype=np.float64), np.asarray(references, dtype=np.int64)
        answers = scores >= np.asarray(thresholds)
        hits, support, guesses = (answers & (labels > 0)).sum(0), labels.sum(0), answers.sum(0)
        areas = np.array([average_precision(scores[:, c], labels[:, c]) for c in range(scores.shape[1])])
        per_class = {
            "average_precision": [None if np.isnan(area) else float(area) for area in areas],
            **{name: values.tolist() for name, values in per_class_scores(hits, support, guesses).items()},
            "support": support.tolist(),
            "threshold": list(thresholds),
        }
        likelihood = np.where(labels > 0, scores, 1 - scores)
        return {
            "mean_average_precision": float(areas[support > 0].mean()) if support.any() else 0.0,
            **{name: float(value) for name, value in label_averages(hits, support, guesses).items()},
            "subset_accuracy": float((answers == (labels > 0)).all(axis=1).mean()),
            "nll": float(-np.log(np.maximum(likelihood, np.finfo(np.float64).tiny)).mean()),
            "per_class": per_class,
        }


def compute_multilabel(scores: np.ndarray, labels: np.ndarray, thresholds: np.ndarray | None = None) -> dict[str, Any]:
    """What `MultiLabelClassification` computes for `scores` and `labels` `(videos, classes)`; `thresholds` 0.5 by default.

    Negative labels are of a video that could not be read: wrong in subset_accuracy, and not counted in the others.
    """
    readable = labels[:, 0] >= 0
    chosen = np.full(scores.shape[1], 0.5) if thresholds is None else thresholds
    computed: dict[str, Any] = MultiLabelClassification().compute(
        predictions=scores[readable].tolist(), references=labels[readable].astype(int).tolist(), thresholds=chosen.tolist()
    )  # fmt: skip
    computed["subset_accuracy"] *= float(readable.mean())
    return computed
