"""finetune.results.intervals and finetune.compare: what chance could have done."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from data_prep.errors import UserError, exit_cleanly
from finetune.compare import main as compare
from finetune.compare import mcnemar
from finetune.results.intervals import bootstrap, class_statistics, label_statistics, resampling_units
from finetune.results.metrics import compute_all
from finetune.results.multilabel_metrics import compute_multilabel


def _mean_of(values: np.ndarray):
    return lambda weights: {"mean": weights @ values / weights.sum(1)}


def test_an_interval_is_that_of_the_textbook() -> None:
    """The mean of 400 coin flips: 1.96 standard errors to each side, within what 2,000 resamples can tell."""
    values = np.arange(400) % 2 * 1.0
    low, high = bootstrap(np.arange(400), _mean_of(values))["mean"]
    assert (low, high) == pytest.approx((0.5 - 0.049, 0.5 + 0.049), abs=0.005)
    assert bootstrap(np.arange(400), _mean_of(values))["mean"] == (low, high), "the same each time"
    assert bootstrap(np.zeros(5, dtype=int), _mean_of(values[:5])) == {}, "one group says nothing of others"


def test_groups_of_equal_videos_make_the_interval_wider() -> None:
    """Ten recordings of twenty clips each, all right or all wrong: they are worth ten videos, not two hundred."""
    values = np.repeat(np.arange(10) % 2, 20) * 1.0
    units, resampled = resampling_units([f"g{i // 20}" for i in range(200)], 200)
    assert resampled == "groups"
    by_group, by_video = (np.subtract(*bootstrap(u, _mean_of(values))["mean"][::-1]) for u in (units, np.arange(200)))
    assert by_group > 3 * by_video


def test_units_are_videos_where_groups_say_nothing_more() -> None:
    assert resampling_units(["a", "b", "c"], 3)[1] == "videos"
    assert resampling_units(None, 3)[1] == "videos"
    assert resampling_units(["", None, ""], 3)[1] == "videos"
    units, resampled = resampling_units(["a", None, "a", None], 4)
    assert resampled == "groups" and units[0] == units[2] and len(set(units.tolist())) == 3


def test_the_bootstrap_weighs_what_the_metrics_measure() -> None:
    """Every video drawn once gives the plain numbers; a video drawn twice counts as two."""
    random = np.random.default_rng(0)
    labels, readable = random.integers(0, 4, 30), random.random(30) > 0.2
    logits = random.normal(size=(30, 4)) + np.eye(4)[labels]
    logits = np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
    twice = np.r_[np.arange(30), np.arange(10)]
    weights = np.stack([np.ones(30), np.bincount(twice)])
    values = class_statistics(logits, labels, readable)(weights)
    for row, chosen in enumerate((np.arange(30), twice)):
        computed = compute_all(logits[chosen], np.where(readable, labels, -100)[chosen])
        assert {name: value[row] for name, value in values.items()} == pytest.approx(
            {name: computed[name] for name in values}, abs=1e-9
        )
    scores, several = random.random((30, 5)).round(1), (random.random((30, 5)) < 0.4).astype(int)
    thresholds = np.full(5, 0.55)
    values = label_statistics(scores, several, readable, thresholds)(weights)
    for row, chosen in enumerate((np.arange(30), twice)):
        computed = compute_multilabel(scores[chosen], np.where(readable[:, None], several, -100)[chosen], thresholds)
        assert {name: value[row] for name, value in values.items()} == pytest.approx(
            {name: computed[name] for name in values}, abs=1e-9
        )


@pytest.mark.parametrize("counts", [(0, 0), (1, 5), (3, 3), (0, 12), (40, 22), (700, 600)])
def test_mcnemar_is_the_exact_binomial_test(counts: tuple[int, int]) -> None:
    expected = binomtest(counts[0], sum(counts)).pvalue if sum(counts) else 1.0
    assert mcnemar(*counts) == pytest.approx(expected, rel=1e-9)


def _predictions(path: Path, answers: list[str], labels: str = "aabb", ids: str = "1234", group: str = "") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video_id", "view", "group", "label", "prediction", "score", "a", "b"])
        for video_id, label, answer in zip(ids, labels, answers):
            scores = ["", "", ""] if answer == "unreadable" else [0.9, 0.9 * (answer == "a"), 0.9 * (answer == "b")]
            writer.writerow([video_id, "mean", group, label, answer, *scores])
            writer.writerow([video_id, "clip 1 crop 1", group, label, "b", 1, 0, 1])
    return path


def test_two_models_are_compared_video_by_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In another order, with one video that could not be read, which is wrong."""
    a = _predictions(tmp_path / "a.csv", ["a", "b", "b", "unreadable"])
    b = _predictions(tmp_path / "b.csv", ["b", "b", "a", "a"], labels="bbaa", ids="4321")
    compared = compare([str(a), str(b)])
    assert (compared.both_right, compared.only_a_right, compared.only_b_right, compared.both_wrong) == (2, 0, 2, 0)
    assert (compared.accuracy_a, compared.accuracy_b, compared.difference) == (0.5, 1, 0.5)
    assert compared.interval == (0, 1) and compared.p_value == 0.5
    assert "p = 0.5" in capsys.readouterr().out


def test_files_that_cannot_be_compared_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = str(_predictions(tmp_path / "a.csv", ["a", "b", "b", "b"]))
    (tmp_path / "text.csv").write_text("hello")
    broken = (tmp_path / "a.csv").read_text().replace("0.9,0.9,0.0", "0.9,x,0.0", 1)
    (tmp_path / "broken.csv").write_text(broken)
    for other, message in (
        (_predictions(tmp_path / "ids.csv", ["a"] * 4, ids="1235"), "not of the same videos: 2"),
        (_predictions(tmp_path / "labels.csv", ["a"] * 4, labels="aaab"), "is 'b' in"),
        (_predictions(tmp_path / "twice.csv", ["a"] * 4, ids="1134"), "holds a video twice"),
        (tmp_path / "text.csv", "does not begin with the columns"),
        (tmp_path / "broken.csv", "line 2: 'x' is not a score"),
        (tmp_path / "none.csv", "cannot be read"),
    ):
        assert exit_cleanly(compare)([a, str(other)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    with pytest.raises(UserError):
        compare([a])
