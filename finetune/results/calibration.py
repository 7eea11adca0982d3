"""How far a classifier's probabilities can be trusted: pure functions of probabilities and labels."""

from __future__ import annotations

import numpy as np


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Logarithm of the softmax of `(..., classes)`; log-probabilities come back as they are."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    normalised: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalised


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean over rows of -log p(label), in nats: cross-entropy. `logits` `(videos, classes)`, `labels` `(videos,)`."""
    return float(-log_probabilities(logits)[np.arange(len(labels)), labels].mean())


def expected_calibration_error(confidence: np.ndarray, right: np.ndarray, num_bins: int = 15) -> float:
    """Mean distance between confidence and accuracy, over bins of equal width weighted by their videos, 0 to 1.

    `confidence` `(videos,)`: probability of the answer given; `right` `(videos,)`: whether it was the label. Guo et al.
    2017, arXiv 1706.04599, equation 3, with their 15 bins; bin m holds confidences in ((m - 1) / 15, m / 15].
    """
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(confidence))
