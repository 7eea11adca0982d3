"""data_prep.split: by class, repeatable, stable when videos are added, and no group in two splits."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from data_prep.errors import UserError
from data_prep.split import Member, fold_videos, given_splits, groups_across, small_classes, split_videos

FRACTIONS = [0.8, 0.1, 0.1]
SPLITS = ("train", "validation", "test")


def videos(counts: dict[str, int], group: str | None = None, split: str | None = None) -> list[Member]:
    return [
        Member(f"{label}/{i}.mp4", (label,), group and group.format(label=label, i=i), split)
        for label, count in counts.items()
        for i in range(count)
    ]


def by_id(given: list[Member], splits: list[str]) -> dict[str, str]:
    return dict(zip([video.video_id for video in given], splits))


@pytest.mark.parametrize("name", ["{label}/{i}.mp4", "{label}/IMG_{i:04}.MOV", "{i:03} of {label}"])
def test_numbered_videos_are_split_in_their_shares_to_within_two(name: str) -> None:
    given = [Member(name.format(label=label, i=i), (label,)) for label in "abc" for i in range(100)]
    counts = Counter((video.labels[0], split) for video, split in zip(given, split_videos(given, FRACTIONS, 0)))
    assert all(abs(counts[label, s] - share * 100) <= 2 for label in "abc" for s, share in zip(SPLITS, FRACTIONS))


def test_other_names_are_split_by_chance() -> None:
    given = [Member(f"{hashlib.sha256(str(i).encode()).hexdigest()}x.mp4", ("a",)) for i in range(2000)]
    counts = Counter(split_videos(given, FRACTIONS, 0))
    assert all(
        abs(counts[split] - share * 2000) < 60 for split, share in zip(SPLITS, FRACTIONS)
    )  # 13 or 18 is one sigma


@pytest.mark.parametrize("seed", range(20))
def test_no_class_with_enough_videos_misses_a_split(seed: int) -> None:
    given = videos({f"class{n}": n for n in range(3, 15)})
    present = defaultdict(set)
    for video, split in zip(given, split_videos(given, FRACTIONS, seed)):
        present[video.labels[0]].add(split)
    assert all(splits == set(SPLITS) for splits in present.values())


def test_the_seed_decides_and_the_order_of_the_videos_does_not() -> None:
    given = videos({"a": 30, "b": 30})
    first = by_id(given, split_videos(given, FRACTIONS, 0))
    assert by_id(given[::-1], split_videos(given[::-1], FRACTIONS, 0)) == first
    assert split_videos(given, FRACTIONS, 1) != list(first.values())


def test_a_video_stays_where_it_is_when_others_are_added_or_go() -> None:
    given = videos({"a": 400, "b": 300})
    before = by_id(given[::2], split_videos(given[::2], FRACTIONS, 0))
    after = by_id(given, split_videos(given, FRACTIONS, 0))
    assert {video_id: after[video_id] for video_id in before} == before


def test_with_an_earlier_dataset_even_the_smallest_class_stays() -> None:
    """Ten videos of a class may leave a split empty, which is filled from another: an eleventh could undo that."""
    for seed in range(10):
        given = videos({"a": 30, "b": 30})
        some = [*given[:5], *given[30:35]]
        before = by_id(some, split_videos(some, FRACTIONS, seed))
        after = by_id(given, split_videos(given, FRACTIONS, seed, earlier=before))
        assert {video_id: after[video_id] for video_id in before} == before
        # Companions of a group follow the one that was there.
        grouped = [replace(video, group="g") for video in given[4:8]] + given[:4] + given[8:]
        assert {by_id(grouped, split_videos(grouped, FRACTIONS, seed, before))[v.video_id] for v in grouped[:4]} == {before[given[4].video_id]}  # fmt: skip


@pytest.mark.parametrize("group", ["{label}_{i:.1}", "person{i:.1}"])
def test_a_group_never_falls_into_two_splits(group: str) -> None:
    given = [
        replace(v, group=group.format(label=v.labels[0], i=v.video_id.split("/")[1]))
        for v in videos({"a": 60, "b": 60, "c": 7})
    ]
    splits_of = defaultdict(set)
    splits = split_videos(given, FRACTIONS, 0)
    for video, split in zip(given, splits):
        splits_of[video.group].add(split)
    assert all(len(found) == 1 for found in splits_of.values())
    assert {video.labels[0] for video, split in zip(given, splits) if split == "test"} == {"a", "b", "c"}


def test_a_class_too_small_to_split_stays_in_train() -> None:
    given = videos({"a": 10, "b": 2})
    splits = split_videos(given, FRACTIONS, 0)
    assert {split for video, split in zip(given, splits) if video.labels == ("b",)} == {"train"}
    assert small_classes(given, 3) == ["b"]
    assert split_videos(given, [0.5, 0.5, 0], 0).count("test") == 0
    with pytest.raises(UserError, match="nothing is left for validation, test: the largest class has 2 videos"):
        split_videos(videos({"a": 2, "b": 2}), FRACTIONS, 0)


@pytest.mark.parametrize("seed", range(3))
def test_a_class_too_small_to_split_stays_in_train_beside_others_that_lack_a_split(seed: int) -> None:
    """Its video, or the session it shares with other classes, must not be what fills validation or test."""
    several = [Member("0", ("b", "rare")), Member("1", ("b",)), Member("4", ("b",))]
    several += [Member(str(i), ("a",)) for i in (2, 3, 5, 6)]
    sessions = [
        Member(f"{label}{i}", (label,), f"session{session}")
        for label, held in (("a", (1, 2, 3, 4)), ("b", (1, 2, 3, 4)), ("rare", (1, 2)))
        for i, session in enumerate(held)
    ]
    for given in (several, sessions):
        splits = split_videos(given, FRACTIONS, seed)
        assert {split for video, split in zip(given, splits) if "rare" in video.labels} == {"train"}


def test_groups_named_by_dates_with_dots_are_split_in_their_shares() -> None:
    for name in ("2026.{month:02}.{day:02}", "2026-{month:02}-{day:02}"):
        days = [(month, day) for month in range(1, 11) for day in range(1, 21)]
        given = [Member(f"{m}/{d}.mp4", ("a",), name.format(month=m, day=d)) for m, d in days]
        counts = Counter(split_videos(given, FRACTIONS, 0))
        assert all(abs(counts[s] - share * 200) <= 15 for s, share in zip(SPLITS, FRACTIONS)), (name, counts)


@pytest.mark.parametrize("fractions", [[0.8, 0.1, 0.2], [0, 0.5, 0.5], [1.2, -0.1, -0.1], [float("nan"), 0.5, 0.5]])
def test_shares_that_make_no_sense_are_refused(fractions: list[float]) -> None:
    with pytest.raises(UserError, match="sum to 1"):
        split_videos(videos({"a": 10}), fractions, 0)


def test_given_splits_are_kept_and_validation_can_come_out_of_train() -> None:
    given = videos({"a": 200, "b": 200}, split="train") + [Member(f"test{i}", ("a",), None, "test") for i in range(3)]
    assert given_splits(given, None, 0) == ["train"] * 400 + ["test"] * 3
    splits = given_splits(given, 0.1, 0)
    assert splits[400:] == ["test"] * 3
    for half in (splits[:200], splits[200:400]):
        assert 5 <= half.count("validation") <= 40 and half.count("validation") + half.count("train") == 200


def test_groups_in_several_given_splits_are_named() -> None:
    given = [Member("1", ("a",), "g", "train"), Member("2", ("a",), "g", "test"), Member("3", ("a",), "h", "test")]
    assert groups_across(given, given_splits(given, None, 0)) == {"g": ["test", "train"]}


def test_classes_that_share_groups_are_all_in_every_split() -> None:
    given = [
        Member(f"{label}{group}", (label,), f"g{group}")
        for label, groups in (("a", (1, 2, 3)), ("b", (1, 2, 3, 4)))
        for group in groups
    ]
    splits = split_videos(given, FRACTIONS, 0)
    for label in "ab":
        assert {split for video, split in zip(given, splits) if video.labels == (label,)} == set(SPLITS)


def test_folds_hold_every_class_and_whole_groups() -> None:
    given = videos({"a": 50, "b": 6}, group="{label}{i}")
    given += [replace(video, video_id=f"copy of {video.video_id}") for video in given]
    folds = fold_videos(given, 5, seed=0)
    assert {(fold, video.labels[0]) for fold, video in zip(folds, given)} == {(f, c) for f in range(5) for c in "ab"}
    assert folds[:56] == folds[56:]
