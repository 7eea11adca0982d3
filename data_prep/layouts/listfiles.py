"""List files as text: their lines, their JSON, what kind of list each is, and which lists belong together."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.layouts.source import SPLIT_NAMES, Source, extension
from data_prep.video import EXTENSIONS

MAX_LINE = 1_000_000  # characters
_MAX_BYTES = 1 << 30
_HEAD = 65_536  # bytes that tell what a list is

# Names of columns, the usual one first.
COLUMNS = {
    "path": ("path", "video", "video_path", "file", "file_name", "filename", "filepath", "file_path", "clip",
             "clip_name", "video_name", "video_file", "video_id", "name"),
    "label": ("label", "labels", "class", "class_name", "classname", "category", "action", "activity", "target",
              "classes", "tags"),
    "split": ("split", "subset", "set", "partition"),
    "group": ("group", "subject", "person", "group_id", "subject_id", "person_id", "participant", "actor", "patient"),
    "start": ("start", "start_time", "t_start", "start_seconds", "time_start", "begin"),
    "end": ("end", "end_time", "t_end", "end_seconds", "time_end", "stop"),
}  # fmt: skip

_MAX_LISTS = 10  # in one folder of videos
_OFFICIAL_NAME = re.compile(r"metadata\.|list\d|_split\d")
_SPLIT_WORD = re.compile(r"(?<![a-z])(training|train|validation|validate|valid|val|dev|testing|test)(?=list|[^a-z]|$)")
_VIDEO = r"\.(?:" + "|".join(sorted(name[1:] for name in EXTENSIONS)) + r")"
_ENDS_AS_VIDEO = re.compile(_VIDEO + "$", re.IGNORECASE)
_SPACED = re.compile(rf"\S.*{_VIDEO} \S+(?: \S+)*$", re.IGNORECASE)
_RAWFRAMES = re.compile(r"\S*[A-Za-z/_].* \d+ \d+$")


def read_text(path: Path) -> str:
    """The whole file, its ends of line as newlines. Raises `UserError` for what is no UTF-8 text."""
    if not path.is_file():
        raise UserError(f"{path} is not a regular file, which a list must be.")
    if path.stat().st_size > _MAX_BYTES:
        raise UserError(f"{path} has more than {_MAX_BYTES >> 20} MB: a list has one line per video. Is it a list?")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8.") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of the lines that are not blank."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, line


def parse_json(text: str) -> Any:
    """Raises `ValueError` for everything that is wrong with it, brackets nested too deep among it."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("brackets are nested too deep") from error


def read_json(path: Path) -> Any:
    try:
        return parse_json(read_text(path))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}. Expected a list of entries, one per video.") from error


def looks_like_video(text: str) -> bool:
    return _ENDS_AS_VIDEO.search(text.strip().strip("\"'")) is not None


def split_of_name(path: Path) -> str | None:
    """split_of_name(Path("kinetics_val_list.txt")) == "validation"; None where the name says nothing."""
    match = _SPLIT_WORD.search(path.stem.lower())
    return SPLIT_NAMES[match.group(1)] if match else None


def family(path: Path) -> str:
    """Equal for the lists of one set's splits: family("a/train_01.csv") == family("a/val_01.csv") == "a/*_01.csv"."""
    return (path.parent / _SPLIT_WORD.sub("*", path.name.lower(), count=1)).as_posix()


def with_partners(path: Path) -> list[Path]:
    """The list and those of the same set's other splits beside it: trainlist02.txt brings testlist02.txt."""
    names = os.listdir(path.parent)
    if fold := re.search(r"_test_split\d+\.txt$", path.name.lower()):  # HMDB51 has a list for each class
        return sorted(path.parent / name for name in names if name.lower().endswith(fold.group()))
    if split_of_name(path) is None:
        return [path]
    beside = [path.parent / name for name in names if extension(name) == extension(path.name)]
    same = [other for other in beside if family(other) == family(path) and other.is_file()]
    return in_order([other for other in same if not other.name.startswith(".")])


def in_order(paths: list[Path]) -> list[Path]:
    """Train, validation, test; then by name."""
    order = {"train": 0, "validation": 1, "test": 2, None: 3}
    return sorted(paths, key=lambda path: (order[split_of_name(path)], path.as_posix()))


def column_roles(names: list[str]) -> dict[str, int]:
    """Which column is the path, the label, ...: {"path": 0, "label": 2} for ["File", "fps", " label"]."""
    cleaned = [name.strip().strip('"').lower().replace(" ", "_") for name in names]
    roles = {role: [name for name in usual if name in cleaned] for role, usual in COLUMNS.items()}
    return {role: cleaned.index(found[0]) for role, found in roles.items() if found}


def brief(value: Any, most: int = 99) -> str:
    """Any JSON value as a few characters for a message."""
    try:
        return str(value)[:most]
    except (RecursionError, ValueError):  # nested too deep to print; a number of more than 4300 digits
        return type(value).__name__


def kind_of(path: Path) -> str | None:
    """The layout that reads this list, judged by its name and its first 64 kB; None for what is no list of videos."""
    name = path.name.lower()
    if re.fullmatch(r"(train|test|val)list\d+[^/]*\.txt", name):
        return "ucf101"
    if re.fullmatch(r".+_test_split\d+\.txt", name):
        return "hmdb51"
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD).decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    except OSError:
        return None
    if extension(name) == ".json":
        return _kind_of_json(path, head)
    lines = [line for line in head.split("\n") if line.strip()]
    if len(head) >= _HEAD and len(lines) > 1:
        lines.pop()  # it is cut
    if not lines:
        return None
    if extension(name) == ".jsonl":
        return _kind_of_jsonl(path, lines[0])
    return _kind_of_lines(path, [line[:4096] for line in lines[:200]])


def _kind_of_json(path: Path, head: str) -> str | None:
    if '"vid_name"' in head:
        return "diving48"
    if re.match(r'\s*\[\s*\{\s*"id"\s*:', head) or '"template"' in head:
        return "ssv2" if split_of_name(path) else None
    return "table" if re.search(_VIDEO + '"', head, re.IGNORECASE) else None


def _kind_of_jsonl(path: Path, line: str) -> str | None:
    try:
        entry = parse_json(line)
    except ValueError:
        return None
    roles = column_roles(list(entry)) if isinstance(entry, dict) else {}
    if path.name.lower() == "metadata.jsonl" and "file_name" in entry and "label" in roles:
        return "videofolder"
    return "table" if "path" in roles else None


def _kind_of_lines(path: Path, lines: list[str]) -> str | None:
    for separator in ",;\t":
        names = [name.strip().strip('"').lower() for name in lines[0].split(separator)]
        if "youtube_id" in names and "time_start" in names:
            return "kinetics"
        roles = column_roles(names)
        if path.name.lower() == "metadata.csv" and "file_name" in names and "label" in roles:
            return "videofolder"
        # A column "name" alone may be of anything; classes may be columns of 0 and 1.
        if "path" in roles and ("label" in roles or _has_one_hot_cells(lines[1:2], separator)):
            return "table"
    if _share(lines, lambda line: any(looks_like_video(cell) for s in ",;\t" for cell in line.split(s)[:9])) > 0.5:
        separated = _share(lines, lambda line: any(s in line for s in ",;\t"))
        return "table" if separated > 0.5 else "path_lists"
    spaced = [line.strip() for line in lines if _SPACED.match(line.strip())]
    if len(spaced) > len(lines) / 2:
        several = any(re.search(_VIDEO + r"(?: \d+){2,}$", line, re.IGNORECASE) for line in spaced)
        return "mmaction2" if several else "pyslowfast"
    return "mmaction2" if _share(lines, lambda line: _RAWFRAMES.match(line.strip()) is not None) > 0.5 else None


def _has_one_hot_cells(lines: list[str], separator: str) -> bool:
    return any(sum(cell.strip() in ("0", "1") for cell in line.split(separator)) > 1 for line in lines)


def _share(lines: list[str], test: Any) -> float:
    return sum(1 for line in lines if test(line)) / len(lines)


def lists_by_kind(source: Source) -> dict[str, list[Path]]:
    """Layout -> its lists: the one that the user gave with its partners, or those of a folder."""
    if not source.is_folder:
        kind = kind_of(source.path)
        return {kind: [path for path in with_partners(source.path) if kind_of(path) == kind]} if kind else {}
    kinds: dict[str, list[Path]] = {}
    with_videos = {os.path.dirname(video) for video in source.tree.videos}
    beside = Counter(os.path.dirname(relative) for relative in source.tree.lists)
    for relative in source.tree.lists:
        folder = os.path.dirname(relative)
        # A text beside each video is no list of them: looking into 100,000 would take its time.
        if folder in with_videos and beside[folder] > _MAX_LISTS and not _OFFICIAL_NAME.search(relative.lower()):
            continue
        if relative.count("/") > 3:
            continue
        path = source.root / relative
        kind = kind_of(path)
        if kind:
            kinds.setdefault(kind, []).append(path)
    return {kind: in_order(paths) for kind, paths in kinds.items()}
