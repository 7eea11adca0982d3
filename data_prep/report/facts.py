"""What the report is made from, and how a name that somebody else chose is shown.

Nothing here knows how videos are found, split or stored: whoever prepares a dataset fills `PageFacts`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from data_prep.errors import printable
from data_prep.schema import SPLITS

# Printable by Unicode's tables, yet drawn as nothing: two names that differ by one of them would look the same.
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
_MAX_MARKS = 4  # combining marks on one letter; real scripts need at most three


@dataclass(frozen=True)
class VideoFact:
    """One accepted video, as its source is."""

    video_id: str
    labels: tuple[str, ...]
    split: str
    group: str | None
    num_frames: int
    fps: float | None  # 1/s
    duration: float | None  # s
    height: int  # px, upright
    width: int
    codec: str
    num_bytes: int
    brightness: float | None  # mean luma, 0..255
    decode_seconds: float  # CPU time to decode it once


@dataclass(frozen=True)
class Related:
    """Two videos that share content."""

    first: str
    second: str
    kind: str  # "identical" | "copy" | "mirrored" | "name"
    problem: str  # "" (kept in one group) | "conflict" (two labels) | "leak" (two given splits)


@dataclass(frozen=True)
class PageFacts:
    """Everything that `report.html` says."""

    title: str
    command: str
    labels: list[str]
    videos: list[VideoFact]
    rejected: list[tuple[str, str]]  # (path, reason)
    related: list[Related]
    notes: list[str]
    store: str
    stored_bytes: int
    wall_seconds: float
    num_proc: int

    @cached_property
    def splits(self) -> list[str]:
        """The splits that hold videos: train, validation, test, then others (folds) by name."""
        found = {video.split for video in self.videos}
        return [split for split in SPLITS if split in found] + sorted(found.difference(SPLITS))

    @cached_property
    def counts(self) -> Counter[tuple[str, str]]:
        """Videos by (label, split); a video with two labels counts for both."""
        return Counter((label, video.split) for video in self.videos for label in dict.fromkeys(video.labels))

    @cached_property
    def groups(self) -> dict[str, list[VideoFact]]:
        """The videos of each group."""
        groups: dict[str, list[VideoFact]] = {}
        for video in self.videos:
            if video.group is not None:
                groups.setdefault(video.group, []).append(video)
        return groups

    def total(self, label: str) -> int:
        """Videos that carry `label`, in all splits."""
        return sum(self.counts[label, split] for split in self.splits)


def visible(text: str, limit: int = 160) -> str:
    """`text` as it may be shown: nothing invisible, nothing that turns the writing direction, at most `limit` long.

    visible("a\\u202eb") == "a\\\\u202eb"
    """
    if len(text) > limit:
        text = text[: limit * 2 // 3] + "…" + text[-limit // 3 :]
    escaped = (char.encode("unicode_escape").decode() if char in _BLANK else printable(char) for char in text)
    kept, marks = [], 0
    for char in chain.from_iterable(escaped):
        marks = marks + 1 if unicodedata.combining(char) else 0
        if marks <= _MAX_MARKS:
            kept.append(char)
    return "".join(kept) or "(empty)"


def quoted(text: str, limit: int = 60) -> str:
    """`visible` text in quotes for the middle of a sentence.

    Right-to-left names are isolated (U+2068 to U+2069), or they would pull the numbers beside them to their other side.
    """
    name = visible(text, limit)
    if any(unicodedata.bidirectional(char) in ("R", "AL", "AN") for char in name):
        name = f"\u2068{name}\u2069"
    return f"“{name}”"


def kind_of_reason(reason: str) -> str:
    """Numbers, paths and what is quoted left out, so that reasons of one kind are equal.

    kind_of_reason("line 3: a/b.mp4 is labelled 'x'") == "line N: FILE is labelled …"
    """
    reason = re.sub(r"'[^']*'|\"[^\"]*\"", "…", reason)
    return re.sub(r"\d+(?:[.,]\d+)*", "N", re.sub(r"\S*/\S+", "FILE", reason))


def plural(count: int, noun: str) -> str:
    """plural(1, "video") == "1 video"; plural(1200, "class") == "1,200 classes" """
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


def show_seconds(seconds: float) -> str:
    """show_seconds(4.25) == "4.2 s"; show_seconds(200) == "3.3 min"; show_seconds(9000) == "2.5 h" """
    if seconds < 120:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def show_bytes(count: float) -> str:
    """show_bytes(1500000) == "1.5 MB" """
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
