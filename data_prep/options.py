"""The command line of `python -m data_prep`."""

from __future__ import annotations

import argparse
from pathlib import Path

from data_prep.apart import check_repo_id
from data_prep.errors import CommandLine, UserError
from data_prep.layouts import LAYOUTS
from data_prep.limits import TIME_LIMIT_SECONDS
from data_prep.scan import Storing
from data_prep.schema import STORES
from data_prep.split import DEFAULT_SPLITS, check_fractions
from data_prep.store import is_url
from data_prep.workers import available_cores

_DESCRIPTION = "A folder or list of videos becomes a checked dataset with a report."


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The checked options. Raises `UserError`."""
    parser = CommandLine(prog="python -m data_prep", description=_DESCRIPTION)
    parser.add_argument(
        "videos", type=Path, metavar="VIDEOS", help="folder of videos, or a list of them (csv, tsv, jsonl, json, txt)"
    )
    parser.add_argument(
        "dataset",
        metavar="DATASET",
        help="directory to write, which `datasets.load_from_disk` opens; or a URL as s3://bucket/name, for Parquet files",
    )
    _add_layout(parser)
    _add_splits(parser)
    _add_store(parser)
    _add_work(parser)
    options = parser.parse_args(argv)
    _check(options)
    return options


def _add_layout(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what VIDEOS is")
    group.add_argument(
        "--layout",
        choices=sorted(LAYOUTS),
        metavar="NAME",
        help=f"how to read it, where that is not clear: {', '.join(sorted(LAYOUTS))}",
    )
    group.add_argument("--root", type=Path, help="where the paths of a list start (default: the list's folder)")
    group.add_argument(
        "--path_prefix",
        metavar="PREFIX",
        help="leave this beginning of a list's paths away, as of another machine's folder",
    )
    group.add_argument(
        "--label_regex", metavar="REGEX", help="on the relative path; the first group of the match is the label"
    )


def _add_splits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("splits")
    group.add_argument(
        "--splits", type=float, nargs=3, metavar=("TRAIN", "VALIDATION", "TEST"),
        help="shares of videos (or groups) per split, where the splits are not given (default: "
        + " ".join(map(str, DEFAULT_SPLITS)) + ")",
    )  # fmt: skip
    group.add_argument(
        "--validation_from_train",
        type=float,
        metavar="SHARE",
        help="where splits are given without a validation split: take this share of train for it, whole groups, by class",
    )
    group.add_argument(
        "--folds",
        type=int,
        metavar="N",
        help="instead of splits: a column `fold` from 0 to N-1 (N at least 3: one tests, one validates), for cross-validation with `--test_fold` of the training command",
    )
    group.add_argument(
        "--keep_splits",
        type=Path,
        metavar="DATASET",
        help="videos (and their groups) that this earlier dataset holds stay in the split they have there",
    )
    group.add_argument("--seed", type=int, default=0, help="of the split (default: 0)")
    group.add_argument(
        "--group_by",
        metavar="REGEX",
        help="on the relative path; videos with the same first group of the match never fall into two splits",
    )
    group.add_argument("--no_duplicates", action="store_true", help="do not look for copies of the same content")
    group.add_argument(
        "--keep_conflicts",
        action="store_true",
        help="keep videos whose content is there under another label too, instead of refusing both",
    )


def _add_store(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is stored")
    group.add_argument(
        "--store",
        choices=STORES,
        default="files",
        help="files: the videos as they are; clips: copies that are quick to read (H.264, short groups of pictures); frames: every frame as a JPEG (default: files)",
    )
    group.add_argument(
        "--embed",
        action="store_true",
        help="with --store files: put the videos' bytes into the dataset, instead of their paths",
    )
    group.add_argument(
        "--short_side",
        type=int,
        default=256,
        help="px of the stored pictures' short side at most, with --store clips or frames (default: 256)",
    )
    group.add_argument(
        "--frame_rate",
        type=float,
        metavar="FPS",
        help="frames per second at most, with --store clips or frames (default: all)",
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="replace DATASET, if data_prep wrote it; what it holds of unchanged videos is used again",
    )
    group.add_argument("--push_to_hub", metavar="ME/NAME", help="publish the dataset there, with the videos in it")
    group.add_argument(
        "--push_limit_minutes",
        type=float,
        metavar="MINUTES",
        help="give the upload up after this time (default: 60, and another for each 60 MB)",
    )
    group.add_argument(
        "--public", action="store_true", help="with --push_to_hub: for everybody to see (default: private)"
    )


def _add_work(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how the work is done")
    group.add_argument(
        "--num_proc", type=int, default=available_cores(), help="processes that decode (default: the number of cores)"
    )
    group.add_argument(
        "--time_limit",
        type=float,
        default=TIME_LIMIT_SECONDS,
        metavar="SECONDS",
        help=f"to scan one video; what takes longer is refused (default: {TIME_LIMIT_SECONDS:g})",
    )
    group.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray: on all machines of a Ray cluster that see VIDEOS under the same path (default: local)",
    )
    group.add_argument(
        "--ray_address", metavar="ADDRESS", help="of the cluster (default: RAY_ADDRESS, else one on this machine)"
    )
    group.add_argument(
        "--work",
        metavar="DIRECTORY",
        help="in which a folder holds scanned videos until the dataset is written, and an interrupted run goes on from it (default: beside DATASET)",
    )


def _check(options: argparse.Namespace) -> None:
    if options.splits is not None:
        check_fractions(options.splits)
    if options.push_to_hub is not None:
        check_repo_id(options.push_to_hub)
        if is_url(options.dataset):
            raise UserError(f"--push_to_hub: {options.dataset} is not on this disk. Prepare it to a directory.")
    for name, least in (("num_proc", 1), ("short_side", 16), ("folds", 3), ("time_limit", 1), ("frame_rate", 0.1)):
        value = getattr(options, name)
        if value is not None and not value >= least:
            raise UserError(f"--{name} is {value:g}, expected at least {least}.")
    if options.folds is not None and (options.splits or options.validation_from_train or options.keep_splits):
        raise UserError(
            "--folds stands in place of splits: leave --splits, --validation_from_train and --keep_splits out."
        )
    if options.embed and options.store != "files":
        raise UserError(f"--embed is for --store files; --store {options.store} holds its pictures anyway.")
    if options.frame_rate is not None and options.store == "files":
        raise UserError("--frame_rate is for --store clips or frames: the files stay as they are.")
    if is_url(options.dataset) and options.store == "files":
        options.embed = True  # who opens the dataset elsewhere has not these paths


def storing(options: argparse.Namespace) -> Storing:
    """What of the options changes the result of a scan."""
    if options.store == "files":
        return Storing("files", embed=options.embed, time_limit=options.time_limit)
    return Storing(options.store, options.short_side, options.frame_rate, time_limit=options.time_limit)
