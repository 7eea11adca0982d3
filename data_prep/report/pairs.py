"""Pairs of videos that share content: which are shown first, and what is said of them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from data_prep.report.facts import Related, visible

_KINDS = {"identical": "identical files", "copy": "encoded anew or cut", "mirrored": "mirrored", "name": "names alike"}
_PROBLEMS = {"conflict": "two labels", "leak": "two splits", "": "kept in one group"}


def urgent_first(related: list[Related]) -> list[Related]:
    order = {"conflict": 0, "leak": 1}
    return sorted(related, key=lambda pair: order.get(pair.problem, 2))  # stable: else as they were found


def of_many_groups(related: list[Related], group_of: Mapping[str, str]) -> list[Related]:
    """Urgent ones first, then by turns of each group, so that a video with many copies does not take all the places."""
    turns: Counter[tuple[str, str]] = Counter()
    ranked = []
    for pair in related:
        key = pair.problem, group_of.get(pair.first, pair.first)
        turns[key] += 1
        ranked.append((turns[key], pair))
    ranked.sort(key=lambda item: item[0])
    return urgent_first([pair for _, pair in ranked])


def outcome(pair: Related) -> str:
    return f"{_KINDS.get(pair.kind, visible(pair.kind))}: {_PROBLEMS.get(pair.problem, visible(pair.problem))}"
