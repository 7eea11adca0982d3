"""What was found, kept and refused: `summary.json`, `rejected.csv`, and the table printed at the end."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import printable
from data_prep.scan import Scanned
from data_prep.schema import SPLITS


@dataclass(frozen=True)
class Report:
    labels: list[str]
    accepted: list[Scanned]  # without their frames
    split_of: list[str]
    rejected: list[tuple[str, str]]  # (path, reason)
    notes: list[str]


def summarize(report: Report) -> dict[str, Any]:
    """The facts of `summary.json`: videos and hours per split and class, rejected count, notes."""
    videos: dict[str, Counter[str]] = defaultdict(Counter)
    seconds: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for result, split in zip(report.accepted, report.split_of):
        videos[split][result.video.label] += 1
        seconds[split][result.video.label] += (result.info.duration or 0.0) if result.info else 0.0
    splits = [split for split in SPLITS if split in videos]
    damaged = [result.video.video_id for result in report.accepted if result.info and result.info.num_bad_packets]
    return {
        "videos": {split: {label: videos[split][label] for label in report.labels} for split in splits},
        "hours": {
            split: {label: round(seconds[split][label] / 3600, 4) for label in report.labels} for split in splits
        },
        "groups": len({result.video.group for result in report.accepted if result.video.group is not None}),
        "accepted": len(report.accepted),
        "rejected": len(report.rejected),
        "kept_though_damaged": damaged,
        "notes": report.notes,
    }


def write_rejected(path: Path, rejected: list[tuple[str, str]]) -> None:
    """CSV with columns path, reason. Names that are not UTF-8 are written with backslashes."""
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "reason"])
        writer.writerows(rejected)


def format_summary(summary: dict[str, Any], rejected: list[tuple[str, str]]) -> str:
    """The table for people: videos (hours) per class and split, then what was refused and why."""
    splits = list(summary["videos"])
    labels = list(next(iter(summary["videos"].values())))
    rows = [["class", *splits]]
    for label in labels:
        rows.append([printable(label), *(_cell(summary, split, [label]) for split in splits)])
    rows.append(["all", *(_cell(summary, split, labels) for split in splits)])
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


def _cell(summary: dict[str, Any], split: str, labels: list[str]) -> str:
    count = sum(summary["videos"][split][label] for label in labels)
    hours = sum(summary["hours"][split][label] for label in labels)
    return f"{count} ({hours:.2f} h)"
