"""What was found, kept and refused: `summary.json`, `rejected.csv`, and the table printed at the end."""

from __future__ import annotations

import csv
import shlex
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

import fsspec
import numpy as np

from data_prep.checksums import damaged
from data_prep.collection import Collection, Known
from data_prep.errors import printable
from data_prep.images import decode_jpeg
from data_prep.limits import VideoError
from data_prep.parquet import Rows
from data_prep.report.facts import PageFacts, VideoFact
from data_prep.report.page import write_page
from data_prep.schema import SPLITS, STORE_COLUMN
from data_prep.store import is_url, read_summary
from data_prep.video import read_frames

_MAX_CLASSES, _MAX_REJECTED = 50, 10  # printed; the report and rejected.csv have them all
_LOOK_SECONDS = 60.0  # to read frames for the report, all in all
_LONG_DECODE_SECONDS = 20.0  # a video that takes longer is not shown


def summarize(collection: Collection, split_of: list[str], layout: str) -> dict[str, Any]:
    """The facts of `summary.json`: videos and hours per split and class, rejected count, notes."""
    videos: dict[str, Counter[str]] = defaultdict(Counter)
    seconds: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    totals: Counter[str] = Counter(split_of)
    for known, split in zip(collection.videos, split_of):
        for label in known.video.labels:
            videos[split][label] += 1
            stored = known.scanned.stored
            seconds[split][label] += (stored.duration or 0.0) if stored else 0.0
    names = [split for split in SPLITS if split in totals] + sorted(set(totals).difference(SPLITS))
    return {
        "layout": layout,
        "splits": {split: totals[split] for split in names},
        "videos": {split: {label: videos[split][label] for label in collection.labels} for split in names},
        "hours": {
            split: {label: round(seconds[split][label] / 3600, 4) for label in collection.labels} for split in names
        },
        "groups": len({known.video.group for known in collection.videos if known.video.group is not None}),
        "accepted": len(collection.videos),
        "rejected": len(collection.rejected),
        "kept_though_damaged": [known.video.video_id for known in collection.videos if known.scanned.is_damaged],
        "related": [[one.first, one.second, one.kind, one.problem] for one in collection.related],
        "notes": collection.notes,
    }


def up_to_date(dataset: str, inputs: str, thorough: bool) -> dict[str, Any] | None:
    """The summary of a whole dataset that was made from exactly these inputs; None for any other.

    `thorough` reads all its bytes to see that they are the ones written.
    """
    summary = read_summary(dataset)
    if summary.get("inputs") != inputs:
        return None
    if broken := damaged(dataset, summary["checksums"], thorough):
        print(f"{dataset} is not whole: {broken[0]} is missing or damaged", file=sys.stderr)
        return None
    return summary


def write_rejected(path: str, rejected: list[tuple[str, str]]) -> None:
    """CSV with columns path, reason, safe to show: no control characters, no cell that a spreadsheet would compute."""
    with fsspec.open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "reason"])
        for name, reason in rejected:
            # ./-clip.mp4 names the same file as -clip.mp4, and is no formula.
            writer.writerow([("./" if name[:1] in ("=", "+", "-", "@") else "") + printable(name), printable(reason)])


def write_report(
    directory: str | Path, collection: Collection, split_of: list[str], summary: dict[str, Any], num_proc: int
) -> None:
    """`report.html` and the pictures in `report/`, at a path or URL."""
    command = "python -m data_prep " + " ".join(shlex.quote(word) for word in sys.argv[1:])
    facts = PageFacts(
        title=PurePath(str(summary["dataset"])).name,
        command=command if Path(sys.argv[0]).parent.name == "data_prep" else "",
        labels=collection.labels,
        videos=[_fact(known, split) for known, split in zip(collection.videos, split_of)],
        rejected=collection.rejected,
        related=collection.related,
        notes=collection.notes,
        store=summary["store"],
        stored_bytes=summary["stored_bytes"],
        wall_seconds=summary["seconds"],
        num_proc=num_proc,
    )
    look = Look([*collection.videos, *collection.conflicting], summary["store"])
    if not is_url(str(directory)):
        write_page(Path(directory), facts, look)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_page(Path(folder), facts, look)
        files, inner = fsspec.url_to_fs(str(directory))
        files.put(f"{folder}/", f"{inner}/", recursive=True)


def _fact(known: Known, split: str) -> VideoFact:
    video, scanned, source = known.video, known.scanned, known.scanned.source
    if source is None:
        raise ValueError(f"{video.video_id} was refused")
    return VideoFact(
        video.video_id, video.labels, split, video.group, source.num_frames, source.fps, source.duration, source.height,
        source.width, source.codec, scanned.num_bytes, scanned.brightness, scanned.decode_seconds,
    )  # fmt: skip


class Look:
    """Frames of videos for the report, from what is stored of them, or else from their files."""

    def __init__(self, videos: Iterable[Known], store: str):
        self.videos = {known.video.video_id: known for known in videos}
        self.store = store
        self.pictures = Rows([STORE_COLUMN[store]])  # type: ignore[index]
        self.seconds_left = _LOOK_SECONDS

    def __call__(self, video_id: str, positions: list[float]) -> np.ndarray | None:
        """uint8 RGB `(len(positions), height, width, 3)` at relative positions 0 to 1; None when that takes too long."""
        known = self.videos.get(video_id)
        if known is None or self.seconds_left < 0 or known.scanned.decode_seconds > _LONG_DECODE_SECONDS:
            return None
        started = time.monotonic()
        try:
            return self._read(known, positions)
        except (VideoError, OSError):
            return None
        finally:
            self.seconds_left -= time.monotonic() - started

    def _read(self, known: Known, positions: list[float]) -> np.ndarray:
        source, stored = known.scanned.source, known.scanned.stored
        if source is None or stored is None:
            raise VideoError("was refused")
        if self.store == "files" or known.pictures is None:
            return read_frames(
                known.video.path, [source.first_frame + i for i in _indices(positions, source.num_frames)]
            )
        indices = _indices(positions, stored.num_frames)
        kept = self.pictures.read(known.pictures)
        if self.store == "frames":
            return np.stack([decode_jpeg(kept["frames"][i]) for i in indices])
        clip = kept["video"]
        return read_frames(clip["bytes"] if isinstance(clip, dict) else clip, indices)


def _indices(positions: list[float], num_frames: int) -> list[int]:
    return [min(num_frames - 1, int(position * num_frames)) for position in positions]


def format_summary(summary: dict[str, Any], rejected: list[tuple[str, str]]) -> str:
    """The table for people: videos (hours) per class and split, then what was refused and why."""
    splits = list(summary["videos"])
    labels = list(next(iter(summary["videos"].values())))
    rows = [["class", *splits]]
    for label in labels[:_MAX_CLASSES]:
        rows.append([printable(label), *(_cell(summary, split, label) for split in splits)])
    if len(labels) > _MAX_CLASSES:
        rows.append([f"... {len(labels) - _MAX_CLASSES} more", *("" for _ in splits)])
    rows.append(["all videos", *(str(summary["splits"][split]) for split in splits)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    lines += [f"note: {printable(note)}" for note in summary["notes"]]
    lines.append(f"accepted {summary['accepted']} videos, rejected {summary['rejected']}")
    lines += [f"  {printable(path)}: {printable(reason)}" for path, reason in rejected[:_MAX_REJECTED]]
    if len(rejected) > _MAX_REJECTED:
        lines.append(f"  ... and {len(rejected) - _MAX_REJECTED} more, in rejected.csv")
    return "\n".join(lines)


def _cell(summary: dict[str, Any], split: str, label: str) -> str:
    return f"{summary['videos'][split][label]} ({summary['hours'][split][label]:.2f} h)"
