"""The story of `python -m data_prep`: find, scan, relate, split, store, report."""

from __future__ import annotations

import argparse
import hashlib
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from data_prep.checksums import checksums
from data_prep.collection import Collection, Known, collect, name_classes, relate
from data_prep.engine import scan_all, write_files
from data_prep.errors import UserError
from data_prep.format_version import stamp
from data_prep.labeled import Found
from data_prep.layouts import find_videos
from data_prep.layouts.source import shown
from data_prep.lock import only_writer
from data_prep.login import check_login
from data_prep.options import parse_arguments, storing
from data_prep.output import check_no_videos_inside, check_output, place_for, restore
from data_prep.parquet import Place, Rows
from data_prep.publish import publish
from data_prep.report.facts import plural
from data_prep.report.summary import format_summary, summarize, up_to_date, write_rejected, write_report
from data_prep.scan import video_key
from data_prep.schema import SPLITS, dataset_features
from data_prep.shards import Job, mapped_fingerprints, write_scanned
from data_prep.split import DEFAULT_SPLITS, fold_videos, given_splits, groups_across, small_classes, split_videos
from data_prep.store import (
    DATA_PARTS,
    PAGE,
    REJECTED,
    SCANNED,
    SUMMARY,
    Row,
    earlier_splits,
    is_url,
    make_row,
    write_dataset,
    write_json,
    write_parquet,
)
from data_prep.work import Work, clear_leftovers, scan_settings, work_folder, work_folder_of


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Find, scan, relate, split, store, report. Returns what `summary.json` holds. Raises `UserError`."""
    argv = sys.argv[1:] if argv is None else argv
    options = parse_arguments(argv)
    with only_writer(("DATASET", options.dataset)):
        return prepare(options, argv)


def prepare(options: argparse.Namespace, argv: list[str]) -> dict[str, Any]:
    """The story, while no other command writes the dataset."""
    if options.push_to_hub:
        check_login()
    started = time.monotonic()
    found = find_videos(
        options.videos, options.root, options.group_by, options.layout, options.label_regex, options.path_prefix
    )
    jobs = [Job(video, *video_key(video)) for video in found.videos]
    inputs = _inputs(jobs, found, options)
    folder = work_folder_of(options.dataset, options.work)
    restore(options.dataset)
    if (summary := up_to_date(options.dataset, inputs, thorough=options.overwrite)) is not None:
        clear_leftovers(options.dataset, folder)
        print(f"{options.dataset} is up to date: {summary['accepted']} videos, {summary['rejected']} rejected")
        return finish(summary, options, argv)
    check_output(options.dataset, options.videos, options.overwrite)
    check_no_videos_inside(options.dataset, found)
    with work_folder(folder, storing(options)) as work:
        scanned = scan_all(jobs, work, options)
        collection = judge(found, [Known(job.video, *scanned[job.key]) for job in jobs], work, options)
        split_of = choose_splits(collection, options)
        with place_for(options.dataset) as directory:
            where = write_rows(directory, collection, split_of, found, options)
            write_scanned(f"{directory}/{SCANNED}", _scanned_rows(jobs, scanned, collection, where))
            summary = summarize(collection, split_of, found.layout) | facts_of_run(
                collection, split_of, inputs, options
            )
            summary["seconds"] = round(time.monotonic() - started, 1)
            write_report(directory, collection, split_of, summary, options.num_proc)
            write_rejected(f"{directory}/{REJECTED}", collection.rejected)
            summary["checksums"] = checksums(directory, DATA_PARTS)
            write_json(f"{directory}/{SUMMARY}", summary)  # last: at a URL it says that all is there
    print(format_summary(summary, collection.rejected))
    print(f"wrote {options.dataset} in {time.monotonic() - started:.0f} s; look at {options.dataset}/{PAGE}")
    return finish(summary, options, argv)


def facts_of_run(
    collection: Collection, split_of: list[str], inputs: str, options: argparse.Namespace
) -> dict[str, Any]:
    """What `summary.json` says beside what was found: settings, and what the next run compares with its own."""
    return {
        **stamp(),
        "dataset": Path(options.dataset).name,
        "store": options.store,
        "files": [split for split in SPLITS if split in split_of] or ["train"],
        "seed": options.seed,
        "stored_bytes": sum(known.scanned.stored_bytes for known in collection.videos),
        "inputs": inputs,
        "scan_settings": scan_settings(storing(options)),
    }


def finish(summary: dict[str, Any], options: argparse.Namespace, argv: list[str]) -> dict[str, Any]:
    if options.push_to_hub:
        again = shlex.join(["python", "-m", "data_prep", *argv])
        publish(
            Path(options.dataset), options.push_to_hub, not options.public, summary, options.push_limit_minutes, again
        )
    return summary


def _inputs(jobs: list[Job], found: Found, options: argparse.Namespace) -> str:
    """Names all that the dataset is made from: the videos as they are now, and the options that matter to it."""
    apart = {
        "overwrite",
        "num_proc",
        "time_limit",
        "engine",
        "ray_address",
        "work",
        "push_to_hub",
        "push_limit_minutes",
        "public",
        "dataset",
    }
    digest = hashlib.blake2b(repr(scan_settings(storing(options))).encode(), digest_size=16)
    digest.update(
        repr(sorted((k, str(v)) for k, v in vars(options).items() if k not in apart)).encode("utf-8", "surrogatepass")
    )
    for job in jobs:
        facts = (job.key, job.video.video_id, job.video.labels, job.video.split, job.video.group)
        digest.update(repr(facts).encode("utf-8", "surrogatepass"))
    digest.update(repr((found.rejected, found.notes)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def judge(found: Found, known: list[Known], work: Work, options: argparse.Namespace) -> Collection:
    """What is usable of what was scanned, with groups and classes."""
    collection = collect(found, known)
    given = collection.videos[0].video.split is not None
    if options.no_duplicates:
        relate(collection, None, options.keep_conflicts, given)
    else:
        places = [known.facts for known in collection.videos]
        with (
            tempfile.TemporaryDirectory(dir=None if is_url(work.folder) else work.folder) as folder,
            mapped_fingerprints(places, folder) as fingerprint,
        ):
            relate(collection, fingerprint, options.keep_conflicts, given)
    name_classes(collection, found)
    return collection


def choose_splits(collection: Collection, options: argparse.Namespace) -> list[str]:
    """The split of each video; with `--folds` the fold, as `fold_0`. Adds notes on what the splits lack."""
    members = collection.members()
    if members[0].split is not None:
        for name in ("splits", "folds", "keep_splits"):
            if getattr(options, name) is not None:
                raise UserError(
                    f"--{name}: these videos come with splits, which are kept as given. Leave --{name} out."
                )
        split_of = given_splits(members, options.validation_from_train, options.seed)
        across = groups_across(members, split_of)
        if across:
            group, splits = next(iter(across.items()))
            collection.notes.append(
                f"in several of the given splits, so that the test flatters the model: {plural(len(across), 'group')}, as {group!r} in {', '.join(splits)}"
            )
    elif options.validation_from_train is not None:
        raise UserError("--validation_from_train is for videos with given splits; these have none: use --splits.")
    else:
        split_of = _deal(collection, options)
    collection.notes += split_notes(collection, split_of)
    return split_of


def _deal(collection: Collection, options: argparse.Namespace) -> list[str]:
    """The split or fold of each video, where none came with them."""
    members = collection.members()
    earlier = earlier_splits(options.keep_splits) if options.keep_splits else {}
    try:
        if options.folds is not None:
            return [f"fold_{fold}" for fold in fold_videos(members, options.folds, options.seed)]
        return split_videos(members, options.splits or DEFAULT_SPLITS, options.seed, earlier)
    except UserError as error:
        shared = sum(related.kind != "identical" for related in collection.related)
        if not shared:
            raise
        raise UserError(
            f"{error} Groups hold {plural(shared, 'pair')} of videos that share content; where they do not: --no_duplicates."
        ) from error


def split_notes(collection: Collection, split_of: list[str]) -> list[str]:
    """What a reader of the splits should know: what is missing from them."""
    notes = []
    splits = sorted(set(split_of))
    if splits[0].startswith("fold_"):
        return []
    if "train" not in splits:
        notes.append("there is no train split: this dataset can be evaluated on, not trained on")
    elif "validation" not in splits:
        notes.append("there is no validation split; to take one from given train videos: --validation_from_train 0.1")
    if collection.videos[0].video.split is None:
        small = small_classes(collection.members(), len(splits))
        if small:
            notes.append(
                "in train as a whole, with fewer videos (or groups) than there are splits: "
                f"{plural(len(small), 'class')}, {shown(list(map(repr, small)))}"
            )
    for split in splits:
        present = {
            label for known, name in zip(collection.videos, split_of) if name == split for label in known.video.labels
        }
        absent = [repr(label) for label in collection.labels if label not in present]
        if absent:
            notes.append(f"without a video in {split}: {plural(len(absent), 'class')}, {shown(absent)}")
    return notes


def write_rows(
    directory: str, collection: Collection, split_of: list[str], found: Found, options: argparse.Namespace
) -> dict[str, tuple[str, int]]:
    """Writes the data files. Returns (file, row) of each video, by its key."""
    folds = options.folds is not None
    spans = any(known.video.span is not None for known in collection.videos)
    features = dataset_features(collection.labels, options.store, found.multi_label, spans, folds)
    rows_of: dict[str, list[Row]] = {}
    keys_of: dict[str, list[str]] = {}
    for split in SPLITS:
        chosen = [(known, name) for known, name in zip(collection.videos, split_of) if folds or name == split]
        if is_url(directory) and split == "train":  # who streams it mixes only neighbours, which come by class
            chosen.sort(
                key=lambda one: hashlib.blake2b(one[0].video.video_id.encode("utf-8", "surrogatepass")).digest()
            )
        if chosen and (split == "train" or not folds):
            rows_of[split] = [
                make_row(
                    known.scanned,
                    known.video.path,
                    _cells(known, name, spans, folds, found.multi_label),
                    known.pictures,
                )
                for known, name in chosen
            ]
            keys_of[split] = [known.scanned.key for known, _ in chosen]
    if is_url(directory):
        where = write_parquet(directory, features, options.store, rows_of, lambda calls: write_files(calls, options))
    else:
        where = write_dataset(Path(directory), features, options.store, rows_of)
    return {key: place for split in where for key, place in zip(keys_of[split], where[split])}


def _cells(known: Known, split: str, spans: bool, folds: bool, multi_label: bool) -> dict[str, Any]:
    video, stored = known.video, known.scanned.stored
    cells: dict[str, Any] = {"labels": list(video.labels)} if multi_label else {"label": video.labels[0]}
    cells["group"] = video.group if video.group is not None else video.video_id
    if spans and stored is not None:
        seconds = video.span is not None and video.span.unit == "seconds"
        cells["first_frame"] = stored.first_frame
        cells["start"], cells["end"] = (video.span.start, video.span.end) if video.span and seconds else (None, None)
    if folds:
        cells["fold"] = int(split.removeprefix("fold_"))
    return cells


def _scanned_rows(jobs: list[Job], scanned: Any, collection: Collection, where: dict[str, tuple[str, int]]) -> Any:
    """Facts, fingerprint and place of every scanned video, for the next run."""
    fingerprints = Rows(["fingerprint"])
    for job in jobs:
        one, facts, _ = scanned[job.key]
        place = where.get(job.key)
        fingerprint = fingerprints.read(facts)["fingerprint"] if facts is not None else b""
        yield one, fingerprint, Place(*place) if place else None
    fingerprints.close()
