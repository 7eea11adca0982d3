"""python -m finetune.compare A.csv B.csv: whether one of two models is better on the same videos, by their predictions.csv."""

from __future__ import annotations

import sys

from data_prep.sigterm import interruptible

if __name__ == "__main__":
    interruptible()  # before what takes seconds to import

import argparse
import json
from dataclasses import asdict, dataclass
from math import comb
from pathlib import Path

from data_prep.errors import CommandLine, UserError, exit_cleanly, printable
from finetune.results.intervals import Interval, bootstrap, resampling_units
from finetune.results.predictions import Predictions, read_predictions


@dataclass(frozen=True)
class Comparison:
    """Videos by who answers them rightly; accuracies; `difference` is B's minus A's.

    `p_value`: how often two equally good models would differ by as much or more (exact McNemar test). `interval`: 95 %,
    of the difference, by a bootstrap over videos or groups; None for a single one.
    """

    both_right: int
    only_a_right: int
    only_b_right: int
    both_wrong: int
    accuracy_a: float
    accuracy_b: float
    difference: float
    interval: Interval | None
    resampled: str
    p_value: float


def main(argv: list[str] | None = None) -> Comparison:
    parser = CommandLine(prog="python -m finetune.compare", description=__doc__)
    parser.add_argument("a", metavar="A.csv", type=Path, help="predictions.csv of a run or of finetune.evaluate")
    parser.add_argument("b", metavar="B.csv", type=Path, help="another model's, of the same videos")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="of the output (default: text)")
    options: argparse.Namespace = parser.parse_args(argv)
    compared = compare(read_predictions(options.a), read_predictions(options.b), (str(options.a), str(options.b)))
    print(json.dumps(asdict(compared), indent=2, allow_nan=False) if options.format == "json" else in_words(compared))
    return compared


def compare(a: Predictions, b: Predictions, names: tuple[str, str]) -> Comparison:
    """Raises `UserError` where the two are not of the same videos with the same labels; `names` are for its message."""
    for one, path in zip((a, b), names):
        if not any(one.labels):
            raise UserError(printable(f"{path} has no labels, so nobody knows which answers are right: evaluate both on a split with labels."))  # fmt: skip
    place = {video_id: index for index, video_id in enumerate(b.video_ids)}
    alone = set(a.video_ids) ^ set(b.video_ids)
    if alone:
        raise UserError(printable(f"{names[0]} and {names[1]} are not of the same videos: {len(alone)} are in one alone, the first {min(alone)!r}. Evaluate both on one split."))  # fmt: skip
    order = [place[video_id] for video_id in a.video_ids]
    for index, other in enumerate(order):
        if a.labels[index] != b.labels[other]:
            raise UserError(printable(f"video {a.video_ids[index]!r} is {a.labels[index]!r} in {names[0]} and {b.labels[other]!r} in {names[1]}: evaluate both on one dataset."))  # fmt: skip
    right_a, right_b = a.right(), b.right()[order]
    units, resampled = resampling_units(a.groups, len(order))
    gain = right_b.astype(float) - right_a
    intervals = bootstrap(units, lambda weights: {"difference": weights @ gain / weights.sum(1)})
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return Comparison(
        int((right_a & right_b).sum()), only_a, only_b, int((~right_a & ~right_b).sum()),
        float(right_a.mean()), float(right_b.mean()), float(gain.mean()), intervals.get("difference"), resampled,
        mcnemar(only_a, only_b),
    )  # fmt: skip


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p-value: of the videos that one model alone answers rightly, each is as likely either's.

    The exact binomial form of McNemar 1947, Psychometrika 12, 153-157.

    mcnemar(1, 5) == 0.21875
    """
    total = only_a + only_b
    tail = sum(comb(total, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**total)


def in_words(compared: Comparison) -> str:
    bounds = compared.interval
    lines = [
        f"{'':<10} {'B right':>8} {'B wrong':>8}",
        f"{'A right':<10} {compared.both_right:>8} {compared.only_a_right:>8}",
        f"{'A wrong':<10} {compared.only_b_right:>8} {compared.both_wrong:>8}",
        f"accuracy   A {compared.accuracy_a:.4f}, B {compared.accuracy_b:.4f}",
        f"B minus A  {compared.difference:+.4f}"
        + (f", 95 % {bounds[0]:+.4f} to {bounds[1]:+.4f} over {compared.resampled}" if bounds else ""),
        f"McNemar    p = {compared.p_value:.3g} (exact; of videos alone: it does not know of groups)",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(exit_cleanly(main)())
