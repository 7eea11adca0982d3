"""How often classes were right, true and guessed -> precision, recall, F1 and their means; of bootstrap resamples too."""

from __future__ import annotations

import numpy as np


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
