"""data_prep.split: stratified, repeatable, and no group in two splits."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pytest

from data_prep.errors import UserError
from data_prep.layouts import LabeledVideo
from data_prep.split import given_splits, split_videos

FRACTIONS = [0.8, 0.1, 0.1]


def videos(counts: dict[str, int], group: str | None = None, split: str | None = None) -> list[LabeledVideo]:
    return [
        LabeledVideo(
            Path(f"{label}/{i}.mp4"), f"{label}/{i}.mp4", label, split, group and group.format(label=label, i=i)
        )
        for label, count in counts.items()
        for i in range(count)
    ]


def test_every_class_is_in_every_split_in_its_share() -> None:
    given = videos({"a": 100, "b": 10, "c": 3})
    counts = Counter((video.label, split) for video, split in zip(given, split_videos(given, FRACTIONS, 0, False)))
    assert [counts["a", split] for split in ("train", "validation", "test")] == [80, 10, 10]
    assert [counts["b", split] for split in ("train", "validation", "test")] == [8, 1, 1]
    assert [counts["c", split] for split in ("train", "validation", "test")] == [1, 1, 1]


def test_the_seed_decides_and_the_order_of_the_videos_does_not() -> None:
    given = videos({"a": 30, "b": 30})
    first = dict(zip([v.video_id for v in given], split_videos(given, FRACTIONS, 0, False)))
    again = dict(zip([v.video_id for v in given[::-1]], split_videos(given[::-1], FRACTIONS, 0, False)))
    assert first == again
    assert split_videos(given, FRACTIONS, 1, False) != list(first.values())


@pytest.mark.parametrize("group", ["{label}_{i:.1}", "person{i:.1}"])
def test_a_group_never_falls_into_two_splits(group: str) -> None:
    given = [
        LabeledVideo(Path(v.path), v.video_id, v.label, None, group.format(label=v.label, i=v.path.stem))
        for v in videos({"a": 60, "b": 60, "c": 7})
    ]
    splits_of = defaultdict(set)
    splits = split_videos(given, FRACTIONS, 0, False)
    for video, split in zip(given, splits):
        splits_of[video.group].add(split)
    assert all(len(found) == 1 for found in splits_of.values())
    assert {label for label, split in zip([v.label for v in given], splits) if split == "test"} == {"a", "b", "c"}


def test_a_class_too_small_to_split_is_refused_or_stays_in_train() -> None:
    given = videos({"a": 10, "b": 2})
    with pytest.raises(UserError, match="class 'b' has 2 videos, fewer than the 3 splits"):
        split_videos(given, FRACTIONS, 0, keep_small=False)
    splits = split_videos(given, FRACTIONS, 0, keep_small=True)
    assert {split for video, split in zip(given, splits) if video.label == "b"} == {"train"}
    assert split_videos(given, [0.5, 0.5, 0], 0, keep_small=False).count("test") == 0


@pytest.mark.parametrize("fractions", [[0.8, 0.1, 0.2], [0, 0.5, 0.5], [1.2, -0.1, -0.1], [float("nan"), 0.5, 0.5]])
def test_shares_that_make_no_sense_are_refused(fractions: list[float]) -> None:
    with pytest.raises(UserError, match="sum to 1"):
        split_videos(videos({"a": 10}), fractions, 0, False)


def test_given_splits_are_kept_and_validation_can_come_out_of_train() -> None:
    given = videos({"a": 20, "b": 20}, split="train") + [
        LabeledVideo(Path("t"), f"test{i}", "a", "test") for i in range(3)
    ]
    assert given_splits(given, None, 0, False) == ["train"] * 40 + ["test"] * 3
    splits = given_splits(given, 0.1, 0, False)
    assert Counter(splits) == {"train": 36, "validation": 4, "test": 3}
    assert splits[40:] == ["test"] * 3


def test_a_group_in_two_given_splits_is_an_error() -> None:
    given = [LabeledVideo(Path("1"), "1", "a", "train", "g"), LabeledVideo(Path("2"), "2", "a", "test", "g")]
    with pytest.raises(UserError, match="group 'g' lies in the given splits test, train"):
        given_splits(given, None, 0, False)


def test_classes_that_share_groups_are_counted_by_all_their_groups() -> None:
    given = [
        LabeledVideo(Path(f"{label}{group}"), f"{label}{group}", label, None, f"g{group}")
        for label, groups in (("a", (1, 2, 3)), ("b", (1, 2, 3, 4)))
        for group in groups
    ]
    splits = split_videos(given, FRACTIONS, 0, keep_small=False)
    assert {split for video, split in zip(given, splits) if video.label == "b"} == {"train", "validation", "test"}
