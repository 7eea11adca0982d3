"""What was found, kept and refused: `summary.json`, `rejected.csv`, and the table printed at the end."""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from typing import Any

import fsspec

from data_prep.collection import Collection
from data_prep.errors import printable
from data_prep.schema import SPLITS
from data_prep.store import SUMMARY


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
    damaged = [k.video.video_id for k in collection.videos if k.scanned.stored and k.scanned.stored.num_bad_packets]
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
        "kept_though_damaged": damaged,
        "related": [[one.first, one.second, one.kind, one.problem] for one in collection.related],
        "notes": collection.notes,
    }


def up_to_date(dataset: str, inputs: str) -> dict[str, Any] | None:
    """The summary of a dataset that was made from exactly these inputs; None for any other."""
    try:
        with fsspec.open(f"{dataset}/{SUMMARY}", "r", encoding="utf-8") as file:
            summary = json.load(file)
    except (OSError, ValueError, ImportError):
        return None
    return summary if isinstance(summary, dict) and summary.get("inputs") == inputs else None


def write_rejected(path: str, rejected: list[tuple[str, str]]) -> None:
    """CSV with columns path, reason. Names that are not UTF-8 are written with backslashes."""
    with fsspec.open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "reason"])
        writer.writerows(rejected)


def write_report(*arguments: Any) -> None:
    pass


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
    if summary["kept_though_damaged"]:
        lines.append(
            f"note: {len(summary['kept_though_damaged'])} videos have packets that do not decode; kept without them"
        )
    lines.append(f"accepted {summary['accepted']} videos, rejected {summary['rejected']}")
    shown = 10
    lines += [f"  {printable(path)}: {printable(reason)}" for path, reason in rejected[:shown]]
    if len(rejected) > shown:
        lines.append(f"  ... and {len(rejected) - shown} more, in rejected.csv")
    return "\n".join(lines)


_MAX_CLASSES = 50  # of the printed table; the report has them all


def _cell(summary: dict[str, Any], split: str, label: str) -> str:
    return f"{summary['videos'][split][label]} ({summary['hours'][split][label]:.2f} h)"
