"""Groups that the names of videos suggest: cuts of one recording, and copies and augmentations of one video."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

_CUT = re.compile(r"(.*_g\d+)_c\d+", re.IGNORECASE)  # UCF101: v_Punch_g12_c03
_EXTENSION = re.compile(r"\.[a-z0-9]{1,5}$", re.IGNORECASE)
_SPAN = re.compile(r"#[\d.,-]+$")
_COPY = re.compile(
    r"copy (?:\(\d+\) )?of (?P<after>.+)"
    r"|(?P<before>.+?)(?: - copy(?: ?\(\d+\))?| copy(?: \d+)?|[ _-](?:flip|flipped|hflip|h_flip|mirror|mirrored|copy\d*|aug(?:mented)?_?\d*))",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"(?P<before>.+?) ?\(\d+\)")
# Browsers number a second download of one name; more of them are rather a camera's or a renaming tool's numbers.
_MAX_NUMBERED = 4


def name_groups(video_ids: Sequence[str]) -> dict[int, str]:
    """{index: group} of the videos whose names belong together, within a folder; the group begins with the folder.

    name_groups(["a/v_x_g01_c01.avi", "a/v_x_g01_c02.avi", "a/y.mp4", "a/y_flipped.mp4", "a/z (1).mp4"])
        == {0: "a/v_x_g01", 1: "a/v_x_g01", 2: "a/y", 3: "a/y"}

    `z (1)` is a copy only of a `z` that is there: renaming many files at once numbers distinct videos so. Other words
    for copies need no original: two variants of one name suffice.
    """
    stems = [_stem(video_id) for video_id in video_ids]
    present = set(stems)
    numbered = _count_numbered(present)
    bases = [_base(stem, present, numbered) for stem in stems]
    members: dict[str, set[str]] = defaultdict(set)
    for stem, base in zip(stems, bases):
        members[base].add(stem)
    groups = {}
    for index, base in enumerate(bases):
        cut = _CUT.fullmatch(base)
        if cut:
            groups[index] = cut[1]
        elif len(members[base]) > 1:
            groups[index] = base
    return groups


def is_copy_name(video_id: str) -> bool:
    """Whether the name says that it is a copy or an augmentation, as `Copy of x.mp4`, `x_flip.mp4`, `x (1).mp4`."""
    name = _stem(video_id).rpartition("/")[2]
    return bool(_COPY.fullmatch(name) or _NUMBERED.fullmatch(name))


def _stem(video_id: str) -> str:
    return _EXTENSION.sub("", _SPAN.sub("", video_id))


def _without(words: re.Pattern[str], stem: str) -> str | None:
    """The stem without one sign of a copy, or None where it shows none."""
    folder, slash, name = stem.rpartition("/")
    match = words.fullmatch(name)
    if not match:
        return None
    return folder + slash + next(part for part in match.groups() if part)


def _count_numbered(stems: set[str]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for stem in stems:
        base = _without(_NUMBERED, stem)
        if base is not None:
            counts[base] += 1
    return counts


def _base(stem: str, present: set[str], numbered: dict[str, int]) -> str:
    """The original that a name speaks of: "a/x" of "a/Copy of x_flip (1)" when it is there, or without its words."""
    base = stem
    while True:
        shorter = _without(_COPY, base)
        if shorter is None:
            shorter = _without(_NUMBERED, base)
            if shorter is None or shorter not in present or numbered[shorter] > _MAX_NUMBERED:
                return base
        base = shorter
