"""A labelled video, and what a layout found: the words that layouts, scan and split share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a file: from `start` up to, not including, `end`, in seconds of the video or in its frames."""

    start: float
    end: float
    unit: Literal["seconds", "frames"] = "seconds"


@dataclass(frozen=True, slots=True)
class LabeledVideo:
    """A video as a layout names it; nothing of it has been opened yet."""

    path: Path  # a file, or a folder of frames
    video_id: str  # the path relative to the root, with forward slashes (and "#start-end" of a span); unique
    labels: tuple[str, ...]  # one; none or several only where `Found.multi_label`
    split: str | None = None  # one of schema.SPLITS
    group: str | None = None
    span: Span | None = None


@dataclass
class Found:
    """What a layout read: usable rows, refused ones as (path, reason), and how many files were no videos."""

    layout: str = ""  # its name, as `--layout` takes it
    videos: list[LabeledVideo] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    other_files: Counter[str] = field(default_factory=Counter)  # by extension
    notes: list[str] = field(default_factory=list)
    multi_label: bool = False

    def other_files_by_count(self) -> str:
        """The files that were no videos, as "3 .txt, 1 without extension"; empty when there were none."""
        return ", ".join(f"{count} {name or 'without extension'}" for name, count in self.other_files.most_common())
