"""Logits and labels -> numbers. An `evaluate` metric that lives here: nothing is fetched from the network."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np
from transformers import EvalPrediction

from data_prep.errors import UserError
from finetune.model.finite import NotFinite
from finetune.results.calibration import expected_calibration_error, log_probabilities, negative_log_likelihood
from finetune.results.counts import class_averages, per_class_scores, top_k_right
from finetune.results.local_metric import LocalMetric
from finetune.results.multilabel_metrics import MULTILABEL_SCALARS, compute_multilabel, sigmoid

# In the order in which they are shown. `nll` is called loss where a Trainer or a run reports it.
SCALARS = ("top1", "top5", "mean_class_accuracy", "macro_f1", "weighted_f1", "ece", "nll")


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, num_labels: int) -> np.ndarray:
    """int64 `(num_labels, num_labels)`: row is the true class, column the predicted one."""
    matrix = np.zeros((num_labels, num_labels), dtype=np.int64)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix


class VideoClassification(LocalMetric):
    """`SCALARS`, per_class (lists by class) and confusion_matrix (rows: true) of one row of logits per video."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Accuracy, F1, calibration, per-class scores and the confusion matrix of video-level logits.",
            citation="",
            inputs_description="predictions: logits, one list of floats per video; references: class ids.",
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("float64")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:
        logits, labels = np.asarray(predictions, dtype=np.float64), np.asarray(references, dtype=np.int64)
        right = top_k_right(logits, labels, 1)
        matrix = confusion_matrix(logits.argmax(axis=1), labels, logits.shape[1])
        hits, support, guesses = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
        confidence = np.exp(log_probabilities(logits).max(axis=1))
        scores = per_class_scores(hits, support, guesses)
        return {
            "top1": float(right.mean()),
            "top5": float(top_k_right(logits, labels, 5).mean()),
            **{name: float(value) for name, value in class_averages(hits, support, guesses).items()},
            "ece": expected_calibration_error(confidence, right),
            "nll": negative_log_likelihood(logits, labels),
            "per_class": {name: values.tolist() for name, values in (scores | {"support": support}).items()},
            "confusion_matrix": matrix.tolist(),
        }


def compute_all(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """What `VideoClassification` computes for `logits` `(videos, classes)` and `labels` `(videos,)`.

    A negative label is of a video that could not be read: it counts as wrong in top1 and top5, and not in the others.
    """
    metric = VideoClassification()
    readable = labels >= 0
    computed: dict[str, Any] = metric.compute(
        predictions=logits[readable].tolist(), references=labels[readable].tolist()
    )
    for name in ("top1", "top5"):
        computed[name] *= float(readable.mean())
    return computed


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """The Trainer's hook: the scalars only, since matrices would reach the loggers. Raises `UserError` where no video
    could be read, and `NotFinite` where the model answers with no numbers.

    Its `loss` replaces the Trainer's own, a mean over batches: of several processes that one counts the videos twice
    which fill up the last batches. Labels `(videos, classes)` of 0 and 1 are of several labels per video, thresholds
    then 0.5.
    """
    logits, labels = prediction.predictions, prediction.label_ids
    if (labels < 0).all():
        raise UserError(f"none of the {len(labels)} videos of validation can be read any more.")
    if wrong := int((~np.isfinite(logits)).any(-1).sum()):
        raise NotFinite(f"the scores of {wrong} of {len(logits)} validation videos are NaN or infinite")
    several = labels.ndim == 2
    computed = compute_multilabel(sigmoid(logits), labels) if several else compute_all(logits, labels)
    return {"loss" if name == "nll" else name: computed[name] for name in (MULTILABEL_SCALARS if several else SCALARS)}
