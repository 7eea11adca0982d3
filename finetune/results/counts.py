"""Which answers are right, and how often classes were right, true and guessed -> precision, recall, F1 and their means.

Of bootstrap resamples too. NumPy alone: `finetune.compare` answers at once.
"""

from __future__ import annotations

import numpy as np


def top_k_right(logits: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """bool `(videos,)`: whether the label is among the `k` largest of `logits` `(videos, classes)`."""
    best = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    right: np.ndarray = (best == labels[:, None]).any(axis=1)
    return right


def per_class_scores(hits: np.ndarray, support: np.ndarray, guesses: np.ndarray) -> dict[str, np.ndarray]:
    """precision, recall and f1, float64 of the shape of the counts `(..., num_labels)`.

    A ratio with nothing below its line is 0, as scikit-learn has it.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "precision": np.nan_to_num(hits / guesses),
            "recall": np.nan_to_num(hits / support),
            "f1": np.nan_to_num(2 * hits / (support + guesses)),
        }


def class_averages(hits: np.ndarray, support: np.ndarray, guesses: np.ndarray) -> dict[str, np.ndarray]:
    """mean_class_accuracy, macro_f1 and weighted_f1, each `(...)`, of counts `(..., num_labels)`.

    Mean recall of the classes that have videos (scikit-learn's `balanced_accuracy_score`); mean F1 of those that occur
    among labels or predictions (`f1_score(average="macro")`), and weighted by videos (`"weighted"`).
    """
    scores = per_class_scores(hits, support, guesses)
    there, occurs = support > 0, support + guesses > 0
    return {
        "mean_class_accuracy": (scores["recall"] * there).sum(-1) / there.sum(-1),
        "macro_f1": (scores["f1"] * occurs).sum(-1) / occurs.sum(-1),
        "weighted_f1": (scores["f1"] * support).sum(-1) / support.sum(-1),
    }


def label_averages(hits: np.ndarray, support: np.ndarray, guesses: np.ndarray) -> dict[str, np.ndarray]:
    """macro_f1 and micro_f1, `(...)`, of counts `(..., classes)`: of the classes that occur, and of all decisions."""
    occurs = support + guesses > 0
    f1 = per_class_scores(hits, support, guesses)["f1"]
    micro = per_class_scores(hits.sum(-1), support.sum(-1), guesses.sum(-1))["f1"]
    return {"macro_f1": (f1 * occurs).sum(-1) / np.maximum(occurs.sum(-1), 1), "micro_f1": micro}


def average_precision(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Sum over thresholds of precision times the recall gained, as scikit-learn's `average_precision_score`: `(...)`.

    Of one class: `scores` and `labels` (0 or 1) `(videos,)`; `weights` `(..., videos)`, 1 each by default. NaN where no
    video has the label.
    """
    order = np.argsort(-scores, kind="stable")
    last_of_score = np.append(np.diff(scores[order]) != 0, True)
    weights = np.ones(len(scores)) if weights is None else weights
    weights = weights[..., order]
    found = np.cumsum(weights * labels[order], axis=-1)[..., last_of_score]
    taken = np.cumsum(weights, axis=-1)[..., last_of_score]
    gained = np.diff(found, prepend=0, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        area: np.ndarray = (gained * np.nan_to_num(found / taken)).sum(-1) / found[..., -1]
    return area
