"""Groups -> splits: by class, deterministic in the seed, stable when videos are added, no group in two splits."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from data_prep.errors import UserError
from data_prep.schema import SPLITS
from data_prep.video import EXTENSIONS

DEFAULT_SPLITS = (0.8, 0.1, 0.1)
_GOLDEN_SECTION = 0x9E3779B97F4A7C15  # (sqrt(5) - 1) / 2 of 2**64
_LAST_NUMBER = re.compile(r"(.*?)(\d{1,18})(\D*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Member:
    """A video as the split sees it."""

    video_id: str
    labels: tuple[str, ...]
    group: str | None = None
    split: str | None = None  # where it came with one

    @property
    def group_name(self) -> str:
        """The video's group; a video without one is a group of its own."""
        return self.group if self.group is not None else self.video_id


def check_fractions(fractions: Sequence[float]) -> None:
    """`fractions` are the shares of train, validation and test: at least 0, train above 0, sum 1."""
    if not (len(fractions) == 3 and min(fractions) >= 0 and fractions[0] > 0 and abs(sum(fractions) - 1) < 1e-6):
        given = " ".join(f"{fraction:g}" for fraction in fractions)
        raise UserError(
            f"--splits {given}: expected shares of train, validation and test that sum to 1, as 0.8 0.1 0.1."
        )


def split_videos(
    videos: Sequence[Member], fractions: Sequence[float], seed: int, earlier: Mapping[str, str] | None = None
) -> list[str]:
    """The split of each video, when none came with them.

    `earlier` are splits that videos have in another dataset, by `video_id`: they and their groups keep them.
    A class with fewer groups than splits stays in train. Raises `UserError` where that leaves a split empty.
    """
    check_fractions(fractions)
    shares = {split: fraction for split, fraction in zip(SPLITS, fractions) if fraction > 0}
    dealt = _deal(videos, shares, seed, earlier or {})
    _check_filled(videos, dealt, list(shares))
    return dealt


def fold_videos(videos: Sequence[Member], num_folds: int, seed: int) -> list[int]:
    """The fold of each video, 0 to `num_folds` - 1, for cross-validation: folds of a class differ by one group.

    A group of several classes counts for the rarest. Raises `UserError` for an empty fold.
    """
    labels_of = _labels_of_groups(videos)
    groups_of = _groups_of_labels(labels_of)
    fold_of: dict[str, int] = {}
    sizes: Counter[int] = Counter()
    for label in sorted(groups_of, key=lambda label: (len(groups_of[label]), label)):
        held = Counter(fold_of[group] for group in groups_of[label] if group in fold_of)
        for group in sorted(groups_of[label], key=lambda group: _position(seed, group)):
            if group not in fold_of:
                fold = min(range(num_folds), key=lambda fold: (held[fold], sizes[fold], fold))
                fold_of[group] = fold
                held[fold] += 1
                sizes[fold] += 1
    folds = [fold_of[video.group_name] for video in videos]
    if len(fold_of) < num_folds:
        raise UserError(f"--folds {num_folds}: there are only {len(fold_of)} videos (or groups). Make fewer folds.")
    return folds


def given_splits(videos: Sequence[Member], validation_from_train: float | None, seed: int) -> list[str]:
    """The splits that came with the videos, as they are; on request a share of train becomes validation."""
    splits = [str(video.split) for video in videos]
    if validation_from_train is None:
        return splits
    if "validation" in splits:
        raise UserError("--validation_from_train: there is a validation split already.")
    if "train" not in splits or not 0 < validation_from_train < 1:
        raise UserError("--validation_from_train: expected a train split, and a share between 0 and 1.")
    train = [i for i, split in enumerate(splits) if split == "train"]
    shares = {"train": 1 - validation_from_train, "validation": validation_from_train}
    dealt = _deal([videos[i] for i in train], shares, seed, {})
    _check_filled([videos[i] for i in train], dealt, list(shares))
    for i, split in zip(train, dealt):
        splits[i] = split
    return splits


def small_classes(videos: Sequence[Member], num_splits: int) -> list[str]:
    """Classes with fewer groups than splits, in order: they stay in train."""
    groups = _groups_of_labels(_labels_of_groups(videos))
    return sorted(label for label, names in groups.items() if len(names) < num_splits)


def groups_across(videos: Sequence[Member], splits: Sequence[str]) -> dict[str, list[str]]:
    """Groups whose videos lie in several splits, with these splits: given splits that leak."""
    found: dict[str, set[str]] = defaultdict(set)
    for video, split in zip(videos, splits):
        if video.group is not None:
            found[video.group].add(split)
    return {group: sorted(names) for group, names in sorted(found.items()) if len(names) > 1}


def _deal(videos: Sequence[Member], shares: Mapping[str, float], seed: int, earlier: Mapping[str, str]) -> list[str]:
    """Whole groups dealt to the splits by (seed, group) alone, so that no other video changes the split of one.

    Then each class that has a group for each split gets one in each: the group that lies nearest to the part of the
    split that lacks it moves there. That is the only way in which one more video can move another, and only while
    its class is so small that a split would be empty without it.
    """
    labels_of = _labels_of_groups(videos)
    groups_of = _groups_of_labels(labels_of)
    where = {group: _position(seed, group) for group in labels_of}
    kept = {video.group_name: earlier[video.video_id] for video in reversed(videos) if video.video_id in earlier}
    kept = {group: split for group, split in kept.items() if split in shares}
    split_of = {group: kept.get(group) or _by_share(where[group], shares) for group in labels_of}
    for groups in groups_of.values():
        if len(groups) < len(shares):
            split_of.update({group: next(iter(shares)) for group in groups if group not in kept})
    for label in sorted(groups_of, key=lambda label: (len(groups_of[label]), label)):
        if len(groups_of[label]) >= len(shares):
            for split in shares:
                _fill(label, split, split_of, labels_of, groups_of, where, kept, shares)
    return [split_of[video.group_name] for video in videos]


def _fill(
    label: str,
    split: str,
    split_of: dict[str, str],
    labels_of: Mapping[str, set[str]],
    groups_of: Mapping[str, list[str]],
    where: Mapping[str, float],
    kept: Mapping[str, str],
    shares: Mapping[str, float],
) -> None:
    """Moves the nearest group of `label` into `split` if it has none there, nobody else misses it, and none of its classes
    is so small that it stays in train.
    """
    if any(split_of[group] == split for group in groups_of[label]):
        return

    def is_spare(group: str) -> bool:
        return group not in kept and all(
            len(groups_of[name]) >= len(shares)
            and any(split_of[other] == split_of[group] for other in groups_of[name] if other != group)
            for name in labels_of[group]
        )

    spare = [group for group in groups_of[label] if is_spare(group)]
    if spare:
        start = _starts(shares)[split]
        end = start + shares[split]
        nearest = min(spare, key=lambda group: (max(start - where[group], where[group] - end), group))
        split_of[nearest] = split


def _position(seed: int, group: str) -> float:
    """A number in [0, 1) that only the seed and the group's name decide.

    Most collections number their videos (or groups). The last number n of the name counts as n golden sections from a
    place that the rest of the name decides: consecutive numbers then fill [0, 1) as evenly as any sequence does (Knuth,
    The Art of Computer Programming 3, section 6.4), so that each split gets its share to within a video or two.
    """
    stem, ending = os.path.splitext(group)  # or none: groups are named "2026.01.17" too
    match = _LAST_NUMBER.fullmatch(stem if ending.lower() in EXTENSIONS else group)
    before, number, after = match.groups() if match else (group, "0", "")
    digest = hashlib.sha256(f"{seed}/{before}/{after}".encode("utf-8", "surrogatepass")).digest()
    start = int.from_bytes(digest[:8], "big")
    return ((start + int(number) * _GOLDEN_SECTION) % (1 << 64)) / (1 << 64)


def _starts(shares: Mapping[str, float]) -> dict[str, float]:
    return dict(zip(shares, accumulate([0.0, *shares.values()])))


def _by_share(position: float, shares: Mapping[str, float]) -> str:
    return [split for split, start in _starts(shares).items() if position >= start][-1]


def _labels_of_groups(videos: Sequence[Member]) -> dict[str, set[str]]:
    labels_of: dict[str, set[str]] = defaultdict(set)
    for video in videos:
        labels_of[video.group_name].update(video.labels)
    return labels_of


def _groups_of_labels(labels_of: Mapping[str, set[str]]) -> dict[str, list[str]]:
    groups_of: dict[str, list[str]] = defaultdict(list)
    for group, labels in labels_of.items():
        for label in labels:
            groups_of[label].append(group)
    return groups_of


def _check_filled(videos: Sequence[Member], dealt: Sequence[str], splits: Sequence[str]) -> None:
    empty = [split for split in splits if split not in dealt]
    if empty:
        most = Counter(label for labels in _labels_of_groups(videos).values() for label in labels).most_common(1)
        what = "videos" if all(video.group is None for video in videos) else "groups"
        raise UserError(
            f"nothing is left for {', '.join(empty)}: the largest class has {most[0][1] if most else 0} {what}, and a class with fewer "
            f"than {len(splits)} stays whole. Add videos, or make fewer splits (--splits 0.8 0.2 0, or 1 0 0)."
        )
