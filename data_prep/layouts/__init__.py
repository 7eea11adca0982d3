"""What people have -> labelled videos: which layout it is, and what every layout has in common."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from data_prep.errors import UserError
from data_prep.labeled import Found, LabeledVideo
from data_prep.layouts.folders import (
    Shape,
    arrangement,
    read_class_folders,
    read_class_split_folders,
    read_flat_names,
    read_frame_folders,
    read_person_folders,
    read_split_folders,
    shape_of,
)
from data_prep.layouts.labels import clean_labels
from data_prep.layouts.listfiles import family, in_order, kind_of, lists_by_kind, split_of_name, with_partners
from data_prep.layouts.lists import read_mmaction2, read_pyslowfast
from data_prep.layouts.official import read_hmdb51, read_kinetics, read_ucf101
from data_prep.layouts.official_json import read_diving48, read_ssv2
from data_prep.layouts.same_files import reject_same_files
from data_prep.layouts.source import LIST_EXTENSIONS, Source, extension, series_notes, shown
from data_prep.layouts.tables import read_tables
from data_prep.video import EXTENSIONS


def read_path_lists(source: Source, paths: list[Path]) -> Found:
    """Paths alone, "Class/video.mp4": read as UCF101's lists without numbers are."""
    return read_ucf101(source, paths, "path_lists")


def read_videofolder(source: Source, paths: list[Path]) -> Found:
    """Hugging Face's VideoFolder: train/metadata.csv or .jsonl with file_name,label."""
    return read_tables(source, paths, "videofolder")


FOLDER_LAYOUTS = {
    "class_folders": read_class_folders,
    "split_folders": read_split_folders,
    "class_split_folders": read_class_split_folders,
    "person_folders": read_person_folders,
    "flat_names": read_flat_names,
    "frame_folders": read_frame_folders,
}
# Lists that belong to the videos beside them without doubt; the others give way to class folders.
OFFICIAL_LAYOUTS = {
    "ucf101": read_ucf101,
    "hmdb51": read_hmdb51,
    "kinetics": read_kinetics,
    "ssv2": read_ssv2,
    "diving48": read_diving48,
    "videofolder": read_videofolder,
}
LIST_LAYOUTS = {
    "table": read_tables,
    "pyslowfast": read_pyslowfast,
    "mmaction2": read_mmaction2,
    "path_lists": read_path_lists,
}
LAYOUTS = (*FOLDER_LAYOUTS, *OFFICIAL_LAYOUTS, *LIST_LAYOUTS)


def find_videos(
    source: Path,
    root: Path | None = None,
    group_by: str | None = None,
    layout: str | None = None,
    label_regex: str | None = None,
    path_prefix: str | None = None,
) -> Found:
    """Reads a folder of videos or a list (.csv .tsv .txt .json .jsonl); nothing of a video is opened.

    `root` is where a list's paths start (default: the list's own folder); `path_prefix` a part of them to leave away.
    `group_by` is a regular expression on the relative path: its first group (or the whole match) is the video's group;
    `label_regex` likewise its label. `layout` is one of `LAYOUTS`, and found out when it is None.
    Raises `UserError` when nothing usable is found, or when several readings fit.

    find_videos(Path("videos")).videos[0].labels == ("jump",)
    """
    where = _source(source, root, layout, label_regex, path_prefix)
    found = _read(where, layout)
    clean_labels(found)
    reject_same_files(found)
    found.notes += series_notes(str(video.path) for video in found.videos)
    if group_by is not None:
        found.videos = _grouped(found.videos, group_by)
    if not found.videos:
        raise UserError(_nothing_found(where, found))
    return found


def _source(
    path: Path, root: Path | None, layout: str | None, label_regex: str | None, path_prefix: str | None
) -> Source:
    if layout is not None and layout not in LAYOUTS:
        raise UserError(f"--layout is {layout!r}, expected one of {', '.join(LAYOUTS)}.")
    if not path.exists():
        raise UserError(f"{path} does not exist. Give a folder of videos, or a list, as a CSV with columns path,label.")
    if path.is_dir() and root is not None:
        raise UserError("--root says where the paths of a list start, but VIDEOS is a folder: leave --root out.")
    if not path.is_dir() and (not path.is_file() or extension(path.name) not in LIST_EXTENSIONS):
        raise UserError(f"{path} is a file: expected a folder of videos, or a .csv (.tsv .txt .json .jsonl) with columns path,label.")  # fmt: skip
    if root is not None and not root.is_dir():
        raise UserError(f"--root {root} is not a folder. Give the one where the paths of {path.name} start.")
    if label_regex is not None and (not path.is_dir() or layout in (*OFFICIAL_LAYOUTS, *LIST_LAYOUTS)):
        raise UserError("--label_regex takes labels from file names, but a list has its own: leave one of them out.")
    # Absolute: against a relative root, "../x" would pass for a path below it.
    absolute = Path(os.path.abspath(path))
    start = absolute if path.is_dir() else Path(os.path.abspath(root or absolute.parent))
    pattern = None if label_regex is None else _compiled("--label_regex", label_regex)
    return Source(absolute, start, root is not None, path_prefix, pattern)


def _compiled(option: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(f"{option} {pattern!r} is not a regular expression: {error}.") from error


# Which layout it is


def _read(source: Source, layout: str | None) -> Found:
    if layout in FOLDER_LAYOUTS:
        if not source.is_folder:
            raise UserError(f"--layout {layout} reads a folder, but {source.path} is a file.")
        return FOLDER_LAYOUTS[layout](source)
    if source.label_regex is not None:
        return _read_folders(source, [])
    if layout is not None:
        return _read_lists(source, layout, _lists_for(source, layout), [])
    kinds = lists_by_kind(source)
    if not source.is_folder:
        return _read_lists(source, *(next(iter(kinds.items())) if kinds else ("table", [source.path])), [])
    official = {kind: paths for kind, paths in kinds.items() if kind in OFFICIAL_LAYOUTS}
    if len(official) > 1:
        names = "; ".join(f"{kind}: {shown([source.name(path) for path in paths], 3)}" for kind, paths in official.items())  # fmt: skip
        raise UserError(f"{source.path} has lists of several layouts ({names}). Say which with --layout.")
    others = in_order([path for kind, paths in kinds.items() if kind in LIST_LAYOUTS for path in paths])
    if official:
        kind, paths = next(iter(official.items()))
        return _read_lists(source, kind, paths, others)
    return _read_folders_or_list(source, others)


def _lists_for(source: Source, layout: str) -> list[Path]:
    """The lists to read as the layout that the user named."""
    if not source.is_folder:
        return with_partners(source.path)
    kinds = lists_by_kind(source)
    if layout in kinds:
        return kinds[layout] if layout in OFFICIAL_LAYOUTS else _one_family(source, kinds[layout])
    others = [path for paths in kinds.values() for path in paths]
    if layout in LIST_LAYOUTS and others:
        return _one_family(source, others)
    seen = shown([source.name(path) for path in others]) or "no lists"
    raise UserError(f"{source.path} has no list of the layout {layout}: seen are {seen}. Pass the list itself, with --root {source.path}.")  # fmt: skip


def _families(paths: list[Path]) -> list[list[Path]]:
    families: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        families[family(path) if split_of_name(path) else str(path)].append(path)
    return [in_order(members) for members in families.values()]


def _one_family(source: Source, paths: list[Path]) -> list[Path]:
    """The lists of one set. Raises `UserError` when the folder has several that fit."""
    families = _families(paths)
    split = [members for members in families if len(members) > 1]
    if len(families) == 1 or len(split) == 1:
        return (split or families)[0]
    names = shown([source.name(path) for path in paths], 20)
    raise UserError(f"{source.path} has several lists that fit: {names}. Pass the one you mean, with --root {source.path}.")  # fmt: skip


def _read_folders_or_list(source: Source, lists: list[Path]) -> Found:
    shape = shape_of(source)
    if not lists:
        return _read_folders(source, lists)
    folders = shape.tops()
    split = [members for members in _families(lists) if len(members) > 1]
    if shape.frames or len(folders) > 1 or (shape.items and shape.container and folders):
        name = _arrangement_or_none(source, shape)
        if shape.frames or name == "split_folders" or (name is not None and not split):
            return _read_folders(source, lists)
    chosen = _one_family(source, lists)
    return _read_lists(source, kind_of(chosen[0]) or "table", chosen, [path for path in lists if path not in chosen])


def _arrangement_or_none(source: Source, shape: Shape) -> str | None:
    try:
        return arrangement(source, shape)
    except UserError:
        return None


def _read_folders(source: Source, lists: list[Path]) -> Found:
    shape = shape_of(source)
    found = read_frame_folders(source) if shape.frames else FOLDER_LAYOUTS[arrangement(source, shape)](source)
    if lists:
        names = shown([source.name(path) for path in lists])
        found.notes.append(f"the classes are those of the folders, lists were not read: {names}; to read one, pass it with --root {source.path}")  # fmt: skip
    return found


def _read_lists(source: Source, layout: str, paths: list[Path], others: list[Path]) -> Found:
    found = {**OFFICIAL_LAYOUTS, **LIST_LAYOUTS}[layout](source, paths)
    found.notes.insert(0, f"read as {layout}: {shown([source.name(path) for path in paths])}")
    split = split_of_name(paths[0])
    if len(paths) == 1 and split and {video.split for video in found.videos} == {split}:
        found.notes.append(f"{paths[0].name} says {split} by its name, and there is no list of another split: all videos are {split}")  # fmt: skip
    if others:
        found.notes.append(f"lists that were not read: {shown([source.name(path) for path in others])}")
    if source.is_folder:
        _note_unlisted(source, paths, found)
    return found


def _note_unlisted(source: Source, paths: list[Path], found: Found) -> None:
    tree = source.tree
    found.rejected += tree.rejected
    found.other_files = tree.other_files.copy()
    found.other_files.subtract(extension(path.name) for path in paths)
    found.other_files = +found.other_files
    listed = {str(video.path) for video in found.videos}
    unlisted = [video for video in tree.videos if f"{tree.root}/{video}" not in listed]
    if unlisted:
        found.notes.append(f"{len(unlisted)} videos are in no usable row of a list: {shown(unlisted, 3)}")


# What all layouts have in common


def _nothing_found(source: Source, found: Found) -> str:
    refused = (
        f" {len(found.rejected)} refused, the first: {': '.join(found.rejected[0]).rstrip('.')}."
        if found.rejected
        else ""
    )
    if not source.is_folder:
        return f"no usable videos in {source.path}.{refused or ' It has no rows.'}"
    return (
        f"no usable videos in {source.path}. Other files seen: {found.other_files_by_count() or 'none'}.{refused} "
        "Expected <class>/<video>, train|validation|test/<class>/<video>, <class>_<id>.mp4 in one folder, or a list; "
        f"extensions {' '.join(sorted(EXTENSIONS))}."
    )


def _grouped(videos: list[LabeledVideo], group_by: str) -> list[LabeledVideo]:
    pattern = _compiled("--group_by", group_by)

    def group(video: LabeledVideo) -> str:
        match = pattern.search(video.video_id)
        if match is None:
            raise UserError(f"--group_by {group_by!r} does not match {video.video_id!r}: every video needs a group.")
        return match.group(1) if pattern.groups and match.group(1) is not None else match.group(0)

    return [replace(video, group=group(video)) for video in videos]
