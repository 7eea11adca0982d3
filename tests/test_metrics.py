"""finetune.metrics: numbers with a known answer, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import EvalPrediction

from finetune.metrics import compute_all, compute_metrics, confusion_matrix, macro_f1, per_class_scores, top_k_accuracy

LOGITS = np.eye(3)[[0, 0, 1, 1, 2, 0]] * 2.0  # predicted 0 0 1 1 2 0
LABELS = np.array([0, 0, 1, 2, 2, 1])


def test_confusion_has_true_classes_as_rows() -> None:
    assert confusion_matrix(LOGITS.argmax(1), LABELS, 3).tolist() == [[2, 0, 0], [1, 1, 0], [0, 1, 1]]


def test_per_class_and_macro_f1() -> None:
    scores = per_class_scores(confusion_matrix(LOGITS.argmax(1), LABELS, 3))
    np.testing.assert_allclose(scores["precision"], [2 / 3, 1 / 2, 1])
    np.testing.assert_allclose(scores["recall"], [1, 1 / 2, 1 / 2])
    np.testing.assert_allclose(scores["f1"], [4 / 5, 1 / 2, 2 / 3])
    assert macro_f1(confusion_matrix(LOGITS.argmax(1), LABELS, 3)) == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)


def test_a_class_that_nowhere_occurs_does_not_lower_macro_f1() -> None:
    padded = np.pad(confusion_matrix(LOGITS.argmax(1), LABELS, 3), ((0, 1), (0, 1)))
    assert macro_f1(padded) == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)
    never_predicted = np.array([[2, 0], [1, 0]])
    assert macro_f1(never_predicted) == pytest.approx((4 / 5 + 0) / 2)


def test_top_k() -> None:
    logits = np.array([[3, 2, 1, 0], [0, 1, 2, 3], [1, 2, 0, 0]])
    assert top_k_accuracy(logits, np.array([1, 3, 2]), 1) == pytest.approx(1 / 3)
    assert top_k_accuracy(logits, np.array([1, 3, 2]), 2) == pytest.approx(2 / 3)
    assert top_k_accuracy(logits, np.array([1, 3, 2]), 5) == 1


def test_the_evaluate_metric_gives_all_of_it_offline() -> None:
    computed = compute_all(LOGITS, LABELS)
    assert computed["top1"] == pytest.approx(4 / 6)
    assert computed["top5"] == 1
    assert computed["confusion_matrix"] == [[2, 0, 0], [1, 1, 0], [0, 1, 1]]
    assert computed["per_class"]["support"] == [2, 2, 2]


def test_the_trainer_gets_scalars_only() -> None:
    assert all(isinstance(value, float) for value in compute_metrics(EvalPrediction(LOGITS, LABELS)).values())
