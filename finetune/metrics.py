"""Logits and labels -> numbers. An `evaluate` metric that lives here: nothing is fetched from the network."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np
from transformers import EvalPrediction


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of rows whose label is among the `k` largest of `logits` `(videos, classes)`; with k classes or fewer, 1."""
    best = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return float((best == labels[:, None]).any(axis=1).mean())


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, num_labels: int) -> np.ndarray:
    """int64 `(num_labels, num_labels)`: row is the true class, column the predicted one."""
    matrix = np.zeros((num_labels, num_labels), dtype=np.int64)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix


def per_class_scores(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """precision, recall, f1 (float64) and support (int64), each `(num_labels,)`, from a confusion matrix.

    A ratio with nothing below its line is 0, as scikit-learn has it.
    """
    hits = np.diag(matrix).astype(np.float64)
    support, guesses = matrix.sum(axis=1), matrix.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = np.nan_to_num(hits / guesses), np.nan_to_num(hits / support)
        f1 = np.nan_to_num(2 * hits / (support + guesses))
    return {"precision": precision, "recall": recall, "f1": f1, "support": support}


def macro_f1(matrix: np.ndarray) -> float:
    """Mean F1 over the classes that occur among labels or predictions (scikit-learn's `f1_score(average="macro")`)."""
    scores = per_class_scores(matrix)
    occurs = (matrix.sum(axis=1) + matrix.sum(axis=0)) > 0
    return float(scores["f1"][occurs].mean())


class VideoClassification(evaluate.Metric):
    """top1, top5, macro_f1 (floats), per_class (lists by class) and confusion_matrix (rows: true) of one logit row per video."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Top-1, top-5, macro-F1, per-class scores and the confusion matrix of video-level logits.",
            citation="",
            inputs_description="predictions: logits, one list of floats per video; references: class ids.",
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("float64")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:
        logits, labels = np.asarray(predictions, dtype=np.float64), np.asarray(references, dtype=np.int64)
        matrix = confusion_matrix(logits.argmax(axis=1), labels, logits.shape[1])
        return {
            "top1": top_k_accuracy(logits, labels, 1),
            "top5": top_k_accuracy(logits, labels, 5),
            "macro_f1": macro_f1(matrix),
            "per_class": {name: values.tolist() for name, values in per_class_scores(matrix).items()},
            "confusion_matrix": matrix.tolist(),
        }


def compute_all(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """What `VideoClassification` computes for `logits` `(videos, classes)` and `labels` `(videos,)`.

    A negative label is of a video that could not be read: it counts as wrong in top1 and top5, and not in the others.
    """
    metric = VideoClassification(keep_in_memory=True)
    readable = labels >= 0
    computed: dict[str, Any] = metric.compute(
        predictions=logits[readable].tolist(), references=labels[readable].tolist()
    )
    for name in ("top1", "top5"):
        computed[name] *= float(readable.mean())
    return computed


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """The Trainer's hook: the scalars only, since matrices would reach the loggers."""
    computed = compute_all(prediction.predictions, prediction.label_ids)
    return {name: computed[name] for name in ("top1", "top5", "macro_f1")}
