"""What people have -> labelled videos: class folders, split folders, flat names, a CSV."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from data_prep.errors import UserError
from data_prep.video import EXTENSIONS

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "val": "validation", "valid": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
_JUNK_FOLDERS = {"__macosx"}
_CSV_COLUMNS = ("path", "label", "split", "group")


@dataclass(frozen=True)
class LabeledVideo:
    path: Path
    video_id: str  # the path relative to the root, with forward slashes; unique
    label: str
    split: str | None = None
    group: str | None = None


@dataclass
class Found:
    """What a layout read: usable rows, refused ones as (path, reason), and how many files were no videos."""

    videos: list[LabeledVideo] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    other_files: Counter[str] = field(default_factory=Counter)  # by extension
    notes: list[str] = field(default_factory=list)

    def other_files_by_count(self) -> str:
        """The files that were no videos, as "3 .txt, 1 without extension"; empty when there were none."""
        return ", ".join(f"{count} {name or 'without extension'}" for name, count in self.other_files.most_common())


def find_videos(source: Path, root: Path | None = None, group_by: str | None = None) -> Found:
    """Reads a folder of videos or a CSV. `root` is where a CSV's paths start (default: the CSV's own folder).

    `group_by` is a regular expression on the relative path: its first group (or the whole match) is the video's group.
    Raises `UserError` when nothing usable is found.
    """
    if not source.exists():
        raise UserError(f"{source} does not exist. Give a folder of videos, or a CSV with columns path,label.")
    if source.is_dir():
        if root is not None:
            raise UserError("--root says where the paths of a CSV start, but VIDEOS is a folder: leave --root out.")
        found = _read_folder(source)
    elif source.is_file() and source.suffix.lower() in (".csv", ".tsv"):
        # Absolute: against a relative root, "../x" would pass for a path below it.
        found = _read_csv(source, Path(os.path.abspath(root or source.parent)))
    else:
        raise UserError(f"{source} is a file: expected a folder of videos, or a .csv with columns path,label.")
    _reject_same_files(found)
    _reject_unwritable_names(found)
    if group_by is not None:
        found.videos = _grouped(found.videos, group_by)
    if not found.videos:
        raise UserError(_nothing_found(source, found))
    return found


def _nothing_found(source: Path, found: Found) -> str:
    refused = f" {len(found.rejected)} refused, the first: {': '.join(found.rejected[0])}" if found.rejected else ""
    if source.is_file():
        return f"no usable videos in {source}.{refused or ' It has no rows.'}"
    return (
        f"no usable videos in {source}. Other files seen: {found.other_files_by_count() or 'none'}.{refused} "
        "Expected <class>/<video>, train|validation|test/<class>/<video>, or <class>_<id>.mp4 in one folder; "
        f"extensions {' '.join(sorted(EXTENSIONS))}."
    )


def _grouped(videos: list[LabeledVideo], group_by: str) -> list[LabeledVideo]:
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise UserError(f"--group_by {group_by!r} is not a regular expression: {error}.") from error

    def group(video: LabeledVideo) -> str:
        match = pattern.search(video.video_id)
        if match is None:
            raise UserError(f"--group_by {group_by!r} does not match {video.video_id!r}: every video needs a group.")
        return match.group(1) if pattern.groups and match.group(1) is not None else match.group(0)

    return [replace(video, group=group(video)) for video in videos]


# Folders


def _read_folder(root: Path) -> Found:
    found = Found()
    paths = _video_files(root, found)
    top_folders = {path.parts[0] for path in paths if len(path.parts) > 1}
    split_folders = {name for name in top_folders if name.lower() in SPLIT_NAMES}
    by_split = bool(top_folders) and split_folders == top_folders
    if len(split_folders) > 1 and not by_split:
        others = ", ".join(sorted(top_folders - split_folders))
        raise UserError(f"{root} has split folders {', '.join(sorted(split_folders))} and also {others}: rename or move the latter; splits are {', '.join(SPLIT_NAMES)}.")  # fmt: skip
    if by_split:
        found.notes.append(f"split folders {', '.join(sorted(top_folders))}: kept as given")
    for path in paths:
        read = _split_folder_video if by_split else _class_folder_video if top_folders else _flat_video
        video = read(root, path)
        if isinstance(video, LabeledVideo):
            found.videos.append(video)
        else:
            found.rejected.append((path.as_posix(), video))
    _note_empty_folders(root, found)
    return found


def _class_folder_video(root: Path, path: PurePath) -> LabeledVideo | str:
    if len(path.parts) == 1:
        return "lies beside the class folders, so it has no class"
    return LabeledVideo(root / path, path.as_posix(), path.parts[0])


def _split_folder_video(root: Path, path: PurePath) -> LabeledVideo | str:
    if len(path.parts) < 3:
        return "expected <split>/<class>/<video>, but there is no class folder"
    split = SPLIT_NAMES[path.parts[0].lower()]
    return LabeledVideo(root / path, path.as_posix(), path.parts[1], split)


def _flat_video(root: Path, path: PurePath) -> LabeledVideo | str:
    label, _, number = path.stem.rpartition("_")
    if not label or not number:
        return "expected <class>_<id> as its name, or class folders"
    return LabeledVideo(root / path, path.as_posix(), label)


def _video_files(root: Path, found: Found) -> list[PurePath]:
    """Relative paths of files with a video's extension, sorted. Links to folders are followed, but not back up."""

    def unreadable(error: OSError) -> None:
        found.rejected.append((os.path.relpath(error.filename, root), f"folder cannot be read: {error.strerror}"))

    paths: list[PurePath] = []
    above: dict[str, frozenset[str]] = {}  # folder -> the real folders on the way to it
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=unreadable):
        way = above.get(os.path.dirname(folder), frozenset())
        real = os.path.realpath(folder)
        if real in way:  # a link back up would never end
            subfolders.clear()
            continue
        above[folder] = way | {real}
        subfolders[:] = sorted(name for name in subfolders if not _is_junk(name))
        for name in sorted(names):
            path = PurePath(os.path.relpath(os.path.join(folder, name), root))
            if _is_junk(name):
                continue
            if path.suffix.lower() in EXTENSIONS:
                paths.append(path)
            else:
                found.other_files[path.suffix.lower()] += 1
    return paths


def _reject_same_files(found: Found) -> None:
    """One file under two names (links) is one video; under two labels, splits or groups it is none."""
    same: dict[str, list[LabeledVideo]] = defaultdict(list)
    for video in found.videos:
        same[os.path.realpath(video.path)].append(video)
    found.videos = []
    for videos in same.values():
        first, *others = videos
        if all((video.label, video.split, video.group) == (first.label, first.split, first.group) for video in others):
            found.videos.append(first)
            found.rejected += [(video.video_id, f"is the same file as {first.video_id}") for video in others]
        else:
            names = ", ".join(video.video_id for video in videos)
            found.rejected += [
                (video.video_id, f"is one file with different labels or splits: {names}") for video in videos
            ]


def _reject_unwritable_names(found: Found) -> None:
    """A dataset's texts are UTF-8; a file's name need not be."""
    keep = []
    for video in found.videos:
        try:
            f"{video.path.resolve()}{video.video_id}{video.label}{video.group}".encode()
        except UnicodeEncodeError:
            found.rejected.append((video.video_id, "its name is not UTF-8: rename it"))
        else:
            keep.append(video)
    found.videos = keep


def _is_junk(name: str) -> bool:
    # Hidden files include AppleDouble twins ("._clip.mp4"), which look like videos and are not.
    return name.startswith(".") or name.lower() in _JUNK_FOLDERS


def _note_empty_folders(root: Path, found: Found) -> None:
    with_videos = {PurePath(video.video_id).parts[0] for video in found.videos}
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and not _is_junk(folder.name) and folder.name not in with_videos:
            found.notes.append(f"folder {folder.name!r} holds no videos: it is not a class")
    if not with_videos or any(len(PurePath(video.video_id).parts) > 1 for video in found.videos):
        return
    lists = sorted(path.name for path in root.glob("*.csv"))
    if lists:
        found.notes.append(f"labels were taken from file names; to use a list instead, pass {root / lists[0]}")


# Lists


def _read_csv(source: Path, root: Path) -> Found:
    found = Found()
    rows: dict[str, list[tuple[int, LabeledVideo]]] = defaultdict(list)
    for line, row in _csv_rows(source):
        video = row if isinstance(row, str) else _csv_video(row, root)
        if isinstance(video, LabeledVideo):
            rows[video.video_id].append((line, video))
        else:
            path = "" if isinstance(row, str) else row["path"]
            found.rejected.append((path, f"{source.name} line {line}: {video}"))
    for video_id, same in rows.items():
        if len({(video.label, video.split, video.group) for _, video in same}) > 1:
            lines = ", ".join(
                f"{video.label!r} {video.split or ''}".strip() + f" on line {line}" for line, video in same
            )
            found.rejected.append((video_id, f"{source.name}: labelled {lines}. Keep the right line."))
            continue
        found.videos.append(same[0][1])
        for line, _ in same[1:]:
            found.rejected.append((video_id, f"{source.name} line {line}: repeats line {same[0][0]}"))
    _check_splits(found.videos, source)
    return found


def _csv_rows(source: Path) -> Iterator[tuple[int, dict[str, str] | str]]:
    """(line number, {path, label, split, group} or what is wrong); cells stripped of spaces, absent columns empty.

    Each line is read on its own, so that a quote that is never closed spoils one line and not the rest of the file.
    """
    try:
        lines = source.read_text(encoding="utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{source} is not UTF-8 text (byte {error.start}): save it as UTF-8.") from error
    header = next((number for number, line in enumerate(lines) if line.strip()), 0)
    for delimiter in ",;\t":
        try:
            names = [name.strip().lower() for name in next(csv.reader([lines[header]], delimiter=delimiter), [])]
        except csv.Error:
            continue
        if "path" in names and "label" in names:
            break
    else:
        raise UserError(f"{source} line {header + 1}: got {lines[header][:100]!r}, expected columns path,label and optionally split,group.")  # fmt: skip
    twice = [name for name in _CSV_COLUMNS if names.count(name) > 1]
    if twice:
        raise UserError(f"{source} line {header + 1}: there are two columns called {twice[0]!r}.")
    columns = {name: names.index(name) for name in _CSV_COLUMNS if name in names}
    for number, line in enumerate(lines[header + 1 :], start=header + 2):
        if not line.strip():
            continue
        try:
            cells = next(csv.reader([line], delimiter=delimiter, strict=True))
        except csv.Error as error:
            yield number, f"cannot be read ({error}): {line[:100]}"
            continue
        yield (
            number,
            {
                name: cells[columns[name]].strip() if name in columns and columns[name] < len(cells) else ""
                for name in _CSV_COLUMNS
            },
        )


def _csv_video(row: dict[str, str], root: Path) -> LabeledVideo | str:
    """The row's video, or why there is none. A path is a regular file under `root`, never a URL or a way out of it."""
    if not row["path"]:
        return "path is empty. Give a path, or delete the line."
    if not row["label"]:
        return "label is empty. Give a label, or delete the line."
    if row["split"] and row["split"].lower() not in SPLIT_NAMES:
        return f"split is {row['split']!r}, expected one of {', '.join(SPLIT_NAMES)}"
    path = Path(os.path.normpath(root / row["path"].replace("\\", "/")))
    try:
        relative = path.relative_to(os.path.normpath(root))
        is_file = path.is_file()
    except OSError as error:  # a name too long, a folder that may not be entered
        return f"cannot be read: {error.strerror}"
    except ValueError:  # also a NUL character
        return f"is not under {root}. Move the video there, or say --root."
    if not is_file:
        return f"no such file under {root}"
    if path.suffix.lower() not in EXTENSIONS:
        return f"extension {path.suffix!r} is not one of {' '.join(sorted(EXTENSIONS))}"
    split = SPLIT_NAMES.get(row["split"].lower())
    return LabeledVideo(path, relative.as_posix(), row["label"], split, row["group"] or None)


def _check_splits(videos: list[LabeledVideo], source: Path) -> None:
    without = [video for video in videos if video.split is None]
    if without and len(without) < len(videos):
        raise UserError(
            f"{source}: {len(without)} of {len(videos)} rows have no split, the first {without[0].video_id!r}. "
            "Give every row a split, or none."
        )
