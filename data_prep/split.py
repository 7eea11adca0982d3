"""Groups -> splits: stratified by class, deterministic in the seed, no group in two splits."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from data_prep.errors import UserError
from data_prep.layouts import LabeledVideo
from data_prep.schema import SPLITS

DEFAULT_SPLITS = (0.8, 0.1, 0.1)


def check_fractions(fractions: Sequence[float]) -> None:
    """`fractions` are the shares of train, validation and test: at least 0, train above 0, sum 1."""
    if not (len(fractions) == 3 and min(fractions) >= 0 and fractions[0] > 0 and abs(sum(fractions) - 1) < 1e-6):
        given = " ".join(f"{fraction:g}" for fraction in fractions)
        raise UserError(
            f"--splits {given}: expected shares of train, validation and test that sum to 1, as 0.8 0.1 0.1."
        )


def group_of(video: LabeledVideo) -> str:
    """The video's group; a video without one is a group of its own."""
    return video.group if video.group is not None else video.video_id


def split_videos(videos: list[LabeledVideo], fractions: Sequence[float], seed: int, keep_small: bool) -> list[str]:
    """The split of each video, when none came with them: whole groups dealt out, class by class.

    A class with fewer groups than splits is a `UserError`, or stays whole in train when `keep_small`.
    """
    check_fractions(fractions)
    shares = {split: fraction for split, fraction in zip(SPLITS, fractions) if fraction > 0}
    return _deal(videos, shares, seed, keep_small)


def given_splits(
    videos: list[LabeledVideo], validation_from_train: float | None, seed: int, keep_small: bool
) -> list[str]:
    """The splits that came with the videos, as they are; on request a share of train becomes validation."""
    _check_given(videos)
    splits = [str(video.split) for video in videos]
    if validation_from_train is None:
        return splits
    if "validation" in splits:
        raise UserError("--validation_from_train: there is a validation split already.")
    if "train" not in splits or not 0 < validation_from_train < 1:
        raise UserError("--validation_from_train: expected a train split, and a share between 0 and 1.")
    train = [i for i, split in enumerate(splits) if split == "train"]
    shares = {"train": 1 - validation_from_train, "validation": validation_from_train}
    for i, split in zip(train, _deal([videos[i] for i in train], shares, seed, keep_small)):
        splits[i] = split
    return splits


def _deal(videos: list[LabeledVideo], shares: dict[str, float], seed: int, keep_small: bool) -> list[str]:
    """Whole groups dealt to the splits by their shares, stratified: each split gets at least one group of each class.

    A group belongs to the rarest of its classes; the groups of a class are ordered by a hash of (seed, group).
    """
    labels_of = _labels_of_groups(videos)
    num_groups = Counter(label for labels in labels_of.values() for label in labels)
    strata = _strata(labels_of, num_groups)
    split_of_group: dict[str, str] = {}
    # Classes whose groups mostly belong to rarer classes come last, and fill what those left open.
    for label, groups in sorted(strata.items(), key=lambda item: (len(item[1]) < len(shares), item[0])):
        groups.sort(key=lambda group: hashlib.sha256(f"{seed}/{group}".encode("utf-8", "surrogatepass")).digest())
        if num_groups[label] < len(shares):
            if not keep_small:
                raise UserError(_too_small(label, num_groups[label], list(shares), videos))
            split_of_group.update(dict.fromkeys(groups, "train"))
        elif len(groups) >= len(shares):
            counts = _counts(len(groups), list(shares.values()))
            split_of_group.update(zip(groups, [split for split, count in zip(shares, counts) for _ in range(count)]))
        else:
            for group in groups:
                present = {split for other, split in split_of_group.items() if label in labels_of[other]}
                split_of_group[group] = next((split for split in shares if split not in present), "train")
    return [split_of_group[group_of(video)] for video in videos]


def _labels_of_groups(videos: list[LabeledVideo]) -> dict[str, set[str]]:
    labels_of: dict[str, set[str]] = defaultdict(set)
    for video in videos:
        labels_of[group_of(video)].add(video.label)
    return labels_of


def _strata(labels_of: dict[str, set[str]], num_groups: Counter[str]) -> dict[str, list[str]]:
    """{class: its groups}; a group that holds several classes counts for the rarest (in groups), ties by name."""
    strata: dict[str, list[str]] = defaultdict(list)
    for group, labels in labels_of.items():
        strata[min(labels, key=lambda label: (num_groups[label], label))].append(group)
    return strata


def _counts(total: int, fractions: list[float]) -> list[int]:
    """`total` things dealt by `fractions`, each at least 1, the rest by largest remainder.

    _counts(10, [0.8, 0.1, 0.1]) == [8, 1, 1]
    """
    spare = total - len(fractions)
    exact = [max(0.0, total * fraction - 1) for fraction in fractions]
    scale = spare / sum(exact) if sum(exact) else 0.0
    counts = [int(value * scale) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i] * scale)
    for i in by_remainder[: spare - sum(counts)]:
        counts[i] += 1
    return [count + 1 for count in counts]


def _too_small(label: str, num_groups: int, used: list[str], videos: list[LabeledVideo]) -> str:
    what = "video" if all(video.group is None for video in videos) else "group"
    return (
        f"class {label!r} has {num_groups} {what}{'s' if num_groups > 1 else ''}, fewer than the {len(used)} splits "
        f"{', '.join(used)}. Add videos, remove the class, make fewer splits (--splits 0.8 0.2 0), "
        "or pass --keep_small_classes to leave such classes whole in train."
    )


def _check_given(videos: list[LabeledVideo]) -> None:
    splits_of: dict[str, set[str]] = defaultdict(set)
    for video in videos:
        if video.group is not None:
            splits_of[video.group].add(str(video.split))
    leaks = sorted(group for group, splits in splits_of.items() if len(splits) > 1)
    if leaks:
        raise UserError(
            f"group {leaks[0]!r} lies in the given splits {', '.join(sorted(splits_of[leaks[0]]))} ({len(leaks)} such "
            "groups): videos of one group must be in one split. Correct the splits or the groups."
        )
