"""finetune.results.metrics, multilabel_metrics, calibration: equal to scikit-learn's, and to what was worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as sk
from transformers import EvalPrediction

from data_prep.errors import UserError
from finetune.results.calibration import expected_calibration_error
from finetune.results.counts import top_k_right
from finetune.results.metrics import SCALARS, compute_all, compute_metrics, confusion_matrix
from finetune.results.multilabel_metrics import best_thresholds, compute_multilabel, sigmoid

LOGITS = np.eye(3)[[0, 0, 1, 1, 2, 0]] * 2.0  # predicted 0 0 1 1 2 0
LABELS = np.array([0, 0, 1, 2, 2, 1])
EXACT = {"rel": 0, "abs": 1e-9}


def test_confusion_has_true_classes_as_rows() -> None:
    assert confusion_matrix(LOGITS.argmax(1), LABELS, 3).tolist() == [[2, 0, 0], [1, 1, 0], [0, 1, 1]]


def test_numbers_worked_out_by_hand() -> None:
    computed = compute_all(LOGITS, LABELS)
    assert computed["top1"] == pytest.approx(4 / 6) and computed["top5"] == 1
    np.testing.assert_allclose(computed["per_class"]["precision"], [2 / 3, 1 / 2, 1])
    np.testing.assert_allclose(computed["per_class"]["recall"], [1, 1 / 2, 1 / 2])
    np.testing.assert_allclose(computed["per_class"]["f1"], [4 / 5, 1 / 2, 2 / 3])
    assert computed["per_class"]["support"] == [2, 2, 2]
    assert computed["macro_f1"] == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)
    confidence = np.exp(2) / (np.exp(2) + 2)
    assert computed["ece"] == pytest.approx(abs(confidence - 4 / 6))
    assert computed["nll"] == pytest.approx(-np.log(confidence) * 4 / 6 - np.log(1 / (np.exp(2) + 2)) * 2 / 6)


def test_top_k() -> None:
    logits = np.array([[3, 2, 1, 0], [0, 1, 2, 3], [1, 2, 0, 0]])
    for k, right in ((1, [True, False, False]), (2, [True, True, False]), (5, [True, True, True])):
        assert top_k_right(logits, np.array([0, 2, 2]), k).tolist() == right


@pytest.mark.parametrize("seed", range(6))
def test_equal_to_scikit_learn(seed: int) -> None:
    """Random cases of 7 classes, one or two of which have no video, or are never answered, or both."""
    random = np.random.default_rng(seed)
    labels = random.choice([0, 1, 3, 4, 5] if seed % 2 else [0, 1, 2, 3, 4, 5], size=60)
    logits = random.normal(size=(60, 7)) + 1.5 * np.eye(7)[labels]
    logits[:, 6] = -9 if seed % 3 else logits[:, 6]
    computed, predicted, classes = compute_all(logits, labels), logits.argmax(1), range(7)
    occurring = sorted({*labels, *predicted})
    expected = {
        "top1": sk.accuracy_score(labels, predicted),
        "top5": sk.top_k_accuracy_score(labels, logits, k=5, labels=classes),
        "mean_class_accuracy": sk.recall_score(labels, predicted, average="macro", labels=sorted(set(labels))),
        "macro_f1": sk.f1_score(labels, predicted, average="macro", labels=occurring, zero_division=0),
        "weighted_f1": sk.f1_score(labels, predicted, average="weighted", zero_division=0),
        "nll": sk.log_loss(labels, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels=classes),
    }
    assert {name: computed[name] for name in expected} == pytest.approx(expected, **EXACT)
    per_class = sk.precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "support"), per_class):
        np.testing.assert_allclose(computed["per_class"][name], values, rtol=0, atol=1e-9)
    assert computed["confusion_matrix"] == sk.confusion_matrix(labels, predicted, labels=classes).tolist()


def test_calibration_error_is_zero_when_confidence_is_accuracy_and_weighs_bins_by_videos() -> None:
    right = np.array([1, 1, 1, 0] * 5)
    assert expected_calibration_error(np.full(20, 0.75), right) == pytest.approx(0)
    # Bins (0.5333, 0.6] and (0.9333, 1]: 3 of 4 videos are 0.4 off, one is right at 1.
    assert expected_calibration_error(np.array([0.6, 0.6, 0.6, 1.0]), np.array([1, 1, 1, 1])) == pytest.approx(0.3)
    assert expected_calibration_error(np.array([0.0, 1 / 15]), np.array([0, 0])) == pytest.approx(1 / 30)


def test_an_unreadable_video_is_wrong_and_nothing_else() -> None:
    whole, without = compute_all(LOGITS, np.where(LABELS == 2, -100, LABELS)), compute_all(LOGITS[:3], LABELS[:3])
    assert whole["top1"] == pytest.approx(3 / 6) and whole["top5"] == pytest.approx(4 / 6)
    assert np.sum(whole["confusion_matrix"]) == 4 and np.sum(without["confusion_matrix"]) == 3


def _several_labels(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(scores, labels) of 50 videos and 6 classes, the last without a video; scores of two digits, so that many tie."""
    random = np.random.default_rng(seed)
    labels = (random.random((50, 6)) < 0.3).astype(int)
    labels[:, 5] = 0
    return np.round(np.clip(random.random((50, 6)) * 0.7 + 0.3 * labels, 0.01, 0.99), 2), labels


@pytest.mark.parametrize("seed", range(4))
def test_several_labels_are_equal_to_scikit_learn(seed: int) -> None:
    scores, labels = _several_labels(seed)
    thresholds = np.array([0.3, 0.4, 0.5, 0.6, 0.7, 2.0])
    computed, answers = compute_multilabel(scores, labels, thresholds), (scores >= thresholds).astype(int)
    expected = {
        "mean_average_precision": sk.average_precision_score(labels[:, :5], scores[:, :5], average="macro"),
        "macro_f1": sk.f1_score(labels, answers, average="macro", labels=range(5), zero_division=0),
        "micro_f1": sk.f1_score(labels, answers, average="micro", zero_division=0),
        "subset_accuracy": sk.accuracy_score(labels, answers),
        "nll": np.mean([sk.log_loss(labels[:, c], scores[:, c], labels=[0, 1]) for c in range(6)]),
    }
    assert {name: computed[name] for name in expected} == pytest.approx(expected, **EXACT)
    per_class = sk.precision_recall_fscore_support(labels, answers, average=None, zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "support"), per_class):
        np.testing.assert_allclose(computed["per_class"][name], values, rtol=0, atol=1e-9)
    assert computed["per_class"]["average_precision"][5] is None, "no video, no number"


@pytest.mark.parametrize("seed", range(4))
def test_thresholds_reach_the_highest_f1_there_is(seed: int) -> None:
    scores, labels = _several_labels(seed)
    thresholds = best_thresholds(scores, labels)
    assert thresholds[5] == 0.5
    for c in range(5):
        precision, recall, _ = sk.precision_recall_curve(labels[:, c], scores[:, c])
        highest = np.nanmax(2 * precision * recall / np.maximum(precision + recall, 1e-300))
        reached = sk.f1_score(labels[:, c], scores[:, c] >= thresholds[c])
        assert reached == pytest.approx(highest, **EXACT)


def test_the_trainer_gets_scalars_only_of_one_label_or_several() -> None:
    one = compute_metrics(EvalPrediction(LOGITS, LABELS))
    assert set(one) == {*SCALARS, "loss"} - {"nll"} and all(isinstance(value, float) for value in one.values())
    several = np.eye(3)[LABELS]
    several[0] = -100
    computed = compute_metrics(EvalPrediction(LOGITS - 1, several))
    assert all(isinstance(value, float) for value in computed.values())
    assert computed["subset_accuracy"] == pytest.approx(3 / 6), "one is unreadable, two are wrong"
    assert one["loss"] == pytest.approx(compute_all(LOGITS, LABELS)["nll"])
    for nothing in (np.full(6, -100), np.full((6, 3), -100.0)):
        with pytest.raises(UserError, match="none of the 6 videos of validation can be read"):
            compute_metrics(EvalPrediction(LOGITS, nothing))
    assert sigmoid(np.array([-800.0, 0.0, 800.0])).tolist() == [0.0, 0.5, 1.0]
