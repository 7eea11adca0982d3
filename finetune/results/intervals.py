"""95 % intervals by the bootstrap: how much a number would move had other videos of the same kind been filmed.

Percentiles of the statistic over resampled videos (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter
13). Videos of one group are alike, so whole groups are resampled where there are groups (ibid. and Field and Welsh 2007,
J. R. Statist. Soc. B 69, 369-390). Where every answer is right the interval has no width: it knows of no other answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from finetune.results.counts import average_precision, class_averages, label_averages, top_k_right

NUM_RESAMPLES, SEED = 2000, 0
_CHUNK = 100  # resamples at a time: bounds the memory

Interval = tuple[float, float]
Statistics = Callable[[np.ndarray], dict[str, np.ndarray]]  # weights `(resamples, videos)` -> values `(resamples,)`


def resampling_units(groups: Sequence[str | None] | None, num_videos: int) -> tuple[np.ndarray, str]:
    """The unit of each video, int `(videos,)`, and what it is: `groups` where there are fewer of them, else `videos`.

    A video without a group is a unit of its own.
    """
    if groups is not None:
        named = [(name or "", -1 if name else number) for number, name in enumerate(groups)]
        number_of = {unit: number for number, unit in enumerate(dict.fromkeys(named))}
        if len(number_of) < num_videos:
            return np.array([number_of[unit] for unit in named]), "groups"
    return np.arange(num_videos), "videos"


def bootstrap(units: np.ndarray, statistics: Statistics) -> dict[str, Interval]:
    """The 2.5 and 97.5 percentiles of each of `statistics`; none where there are fewer than two units.

    How often each unit is drawn is a function of `SEED` alone.
    """
    num_units = int(units.max()) + 1
    if num_units < 2:
        return {}
    chunks = [statistics(weights[:, units]) for weights in _draws(num_units)]
    values = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    bounds = {name: np.nanpercentile(value, (2.5, 97.5)) for name, value in values.items()}
    return {name: (float(low), float(high)) for name, (low, high) in bounds.items()}


def _draws(num_units: int) -> Iterator[np.ndarray]:
    random = np.random.default_rng(SEED)
    for _ in range(0, NUM_RESAMPLES, _CHUNK):
        yield random.multinomial(num_units, np.full(num_units, 1 / num_units), size=_CHUNK).astype(np.float64)


def class_statistics(logits: np.ndarray, labels: np.ndarray, readable: np.ndarray) -> Statistics:
    """top1, top5, mean_class_accuracy and macro_f1; a video that is not `readable` is wrong in the first two alone."""
    right = [top_k_right(logits, labels, k) & readable for k in (1, 5)]
    guesses, num_labels = logits.argmax(1), logits.shape[1]
    hit = (guesses == labels) & readable

    def statistics(weights: np.ndarray) -> dict[str, np.ndarray]:
        total = weights.sum(1)
        counts = [
            _by_class(weights * counted, classes, num_labels)
            for counted, classes in ((hit, labels), (readable, labels), (readable, guesses))
        ]
        with np.errstate(invalid="ignore"):  # of a resample without a readable video: NaN, passed over
            averages = class_averages(*counts)
        return {
            "top1": weights @ right[0] / total,
            "top5": weights @ right[1] / total,
            "mean_class_accuracy": averages["mean_class_accuracy"],
            "macro_f1": averages["macro_f1"],
        }

    return statistics


def _by_class(weights: np.ndarray, classes: np.ndarray, num_labels: int) -> np.ndarray:
    """`(resamples, num_labels)`: the sum of `weights` `(resamples, videos)` over the videos of each class."""
    order = np.argsort(classes, kind="stable")
    present, starts = np.unique(classes[order], return_index=True)
    sums = np.zeros((len(weights), num_labels))
    sums[:, present] = np.add.reduceat(weights[:, order], starts, axis=1)
    return sums


def label_statistics(
    scores: np.ndarray, labels: np.ndarray, readable: np.ndarray, thresholds: np.ndarray
) -> Statistics:
    """mean_average_precision, macro_f1, micro_f1 and subset_accuracy of several labels per video."""
    is_label = (labels > 0) * readable[:, None]
    is_guess = (scores >= thresholds) * readable[:, None]
    right = (is_label == is_guess).all(1) & readable

    def statistics(weights: np.ndarray) -> dict[str, np.ndarray]:
        hits, support, guesses = weights @ (is_label & is_guess), weights @ is_label, weights @ is_guess
        counted = weights * readable
        areas = np.stack([average_precision(scores[:, c], is_label[:, c], counted) for c in range(scores.shape[1])])
        there = (support > 0).T
        with np.errstate(invalid="ignore"):
            mean_area = np.where(there, areas, 0).sum(0) / there.sum(0)
        return {
            "mean_average_precision": mean_area,
            **label_averages(hits, support, guesses),
            "subset_accuracy": weights @ right / weights.sum(1),
        }

    return statistics
