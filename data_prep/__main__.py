"""python -m data_prep VIDEOS DATASET: a folder of videos becomes a checked dataset."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
from tqdm import tqdm

from data_prep.errors import CommandLine, UserError, exit_cleanly
from data_prep.layouts import Found, LabeledVideo, find_videos
from data_prep.report import Report, format_summary, summarize, write_rejected
from data_prep.scan import Scanned, available_cores, scan_videos
from data_prep.schema import STORES
from data_prep.split import DEFAULT_SPLITS, check_fractions, given_splits, split_videos
from data_prep.store import (
    REJECTED,
    SUMMARY,
    NothingUsable,
    check_no_videos_inside,
    check_output,
    stage_rows,
    whole_directory,
    write_json,
    write_splits,
)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Scan, probe, split, store, report. Returns what `summary.json` holds. Raises `UserError`."""
    options = parse_arguments(argv)
    check_output(options.dataset, options.videos, options.overwrite)
    datasets.disable_progress_bars()  # ours counts videos; theirs would count rows of copies
    found = find_videos(options.videos, options.root, options.group_by)
    check_no_videos_inside(options.dataset, found)
    labels = class_names(found.videos, found.rejected)
    with whole_directory(options.dataset) as directory:
        scanned: list[Scanned] = []
        try:
            rows = stage_rows(lambda: scan(found, scanned, options), labels, options.store, directory.parent / "rows")
        except NothingUsable:
            raise UserError(_none_usable(scanned, options.videos)) from None
        report = make_report(found, scanned, options)
        write_splits(rows, report.split_of, report.labels, options.store, directory)
        summary = summarize(report) | {"store": options.store, "seed": options.seed}
        write_json(directory / SUMMARY, summary)
        write_rejected(directory / REJECTED, report.rejected)
    print(format_summary(summary, report.rejected))
    print(f"wrote {options.dataset}")
    return summary


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = CommandLine(prog="python -m data_prep", description=__doc__)
    parser.add_argument(
        "videos",
        type=Path,
        metavar="VIDEOS",
        help="folder of videos, or a CSV with columns path,label and optionally split,group",
    )
    parser.add_argument(
        "dataset", type=Path, metavar="DATASET", help="directory to write; `datasets.load_from_disk` opens it"
    )
    parser.add_argument(
        "--splits",
        type=float,
        nargs=3,
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="shares of videos (or groups) per split, where the splits are not given (default: 0.8 0.1 0.1)",
    )
    parser.add_argument(
        "--validation_from_train",
        type=float,
        metavar="SHARE",
        help="where splits are given without a validation split: take this share of train for it, whole groups, by class",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split (default: 0)")
    parser.add_argument(
        "--group_by",
        metavar="REGEX",
        help="on the relative path; videos with the same first group of the match never fall into two splits",
    )
    parser.add_argument(
        "--keep_small_classes",
        action="store_true",
        help="leave a class with fewer videos than splits whole in train, instead of refusing it",
    )
    parser.add_argument(
        "--store",
        choices=STORES,
        default="files",
        help="files: keep the videos where they are; frames: store every frame as a JPEG (default: files)",
    )
    parser.add_argument(
        "--short_side",
        type=int,
        default=256,
        help="px of the stored frames' short side at most, with --store frames (default: 256)",
    )
    parser.add_argument("--root", type=Path, help="where the paths of a CSV start (default: the CSV's folder)")
    parser.add_argument(
        "--num_proc",
        type=int,
        default=available_cores(),
        help="processes that decode (default: the number of cores)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace DATASET, if data_prep wrote it")
    options = parser.parse_args(argv)
    if options.splits is not None:
        check_fractions(options.splits)
    for name, least in (("num_proc", 1), ("short_side", 16)):
        if getattr(options, name) < least:
            raise UserError(f"--{name} is {getattr(options, name)}, expected at least {least}.")
    return options


def class_names(videos: list[LabeledVideo], rejected: list[tuple[str, str]]) -> list[str]:
    """Sorted; as numbers when all are numbers, so that 10 follows 9."""
    labels = {video.label for video in videos}
    if len(labels) == 1:
        others = f" ({len(rejected)} were rejected, the first: {': '.join(rejected[0])})" if rejected else ""
        raise UserError(
            f"all {len(videos)} videos have the one class {labels.pop()!r}{others}: a classifier needs two."
        )
    if all(re.fullmatch(r"\d{1,18}", label) for label in labels):
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)


def _none_usable(scanned: list[Scanned], videos: Path) -> str:
    last = scanned[-1]
    return f"none of the {len(scanned)} videos in {videos} is usable; the last, {last.video.video_id}: {last.reason}."


def scan(found: Found, scanned: list[Scanned], options: argparse.Namespace) -> Iterator[Scanned]:
    """Passes each result on and keeps it, without its frames, in `scanned`."""
    short_side = options.short_side if options.store == "frames" else None
    results = scan_videos(found.videos, min(options.num_proc, len(found.videos)), short_side)
    for result in tqdm(results, total=len(found.videos), desc="decoding", unit="video"):
        scanned.append(dataclasses.replace(result, jpegs=()))
        yield result


def make_report(found: Found, scanned: list[Scanned], options: argparse.Namespace) -> Report:
    accepted = [result for result in scanned if result.info is not None]
    rejected = found.rejected + [(result.video.video_id, result.reason) for result in scanned if result.info is None]
    videos = [result.video for result in accepted]
    labels = class_names(videos, rejected)
    notes = list(found.notes)
    if found.other_files:
        notes.append(f"other files, not read: {found.other_files_by_count()}")
    for label in sorted({video.label for video in found.videos}):
        if label not in labels:
            notes.append(f"class {label!r} is gone: all its videos were rejected")
    split_of = choose_splits(videos, options)
    return Report(labels, accepted, split_of, rejected, notes + split_notes(videos, split_of))


def choose_splits(videos: list[LabeledVideo], options: argparse.Namespace) -> list[str]:
    seed, keep_small = options.seed, options.keep_small_classes
    if videos[0].split is not None:
        if options.splits is not None:
            raise UserError("--splits: these videos come with splits, which are kept as given. Leave --splits out.")
        return given_splits(videos, options.validation_from_train, seed, keep_small)
    if options.validation_from_train is not None:
        raise UserError("--validation_from_train is for videos with given splits; these have none: use --splits.")
    return split_videos(videos, options.splits or DEFAULT_SPLITS, seed, keep_small)


def split_notes(videos: list[LabeledVideo], split_of: list[str]) -> list[str]:
    """What a reader of the splits should know: what is missing from them."""
    notes = []
    if "train" not in split_of:
        notes.append("there is no train split: this dataset can be evaluated on, not trained on")
    elif "validation" not in split_of:
        notes.append("there is no validation split; to take one from given train videos: --validation_from_train 0.1")
    for split in sorted(set(split_of)):
        absent = {video.label for video in videos} - {
            video.label for video, name in zip(videos, split_of) if name == split
        }
        notes += [f"class {label!r} has no video in {split}" for label in sorted(absent)]
    return notes


if __name__ == "__main__":
    sys.exit(exit_cleanly(main)())
