"""Rows of lists -> labelled videos: the one door through which a path that a list names goes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from data_prep.labeled import Found, LabeledVideo, Span
from data_prep.layouts.labels import same_class
from data_prep.layouts.source import Source, extension, numbered_images, shown
from data_prep.video import EXTENSIONS

MAX_SHOWN = 300  # characters of a cell in `rejected`


class Refused(Exception):
    """A row that cannot be used. The message is the reason, in words for `rejected.csv`."""


class Places:
    """Finds the files that a list names. A path is a file (or a folder of frames) under the root, or it is refused.

    Paths start at the root, its `videos/`, the list's own folder, or that one's `videos/`: the first that has the
    file. Each folder is listed once, so that 100,000 rows cost as many look-ups in a dictionary.
    """

    def __init__(self, source: Source, list_path: Path):
        self.root = str(source.root)
        starts = [self.root, os.path.join(self.root, "videos")]
        if list_path.parent.is_relative_to(source.root):
            starts += [str(list_path.parent), str(list_path.parent / "videos")]
        self.starts = list(dict.fromkeys(starts))
        self.prefix = source.path_prefix.replace("\\", "/") if source.path_prefix else None
        self._listed: dict[str, dict[str, str]] = {}
        self._stems: dict[str, dict[str, list[str]]] = {}

    def find(self, text: str) -> tuple[str, str]:
        """(absolute path, path relative to the root). Raises `Refused`."""
        if not text:
            raise Refused("path is empty. Give a path, or delete the line.")
        if "\0" in text:
            raise Refused("path holds a NUL character")
        path = self._without_prefix(text.replace("\\", "/"))
        reasons = []
        leads_up = path.startswith("../") or "/../" in path
        for start in self.starts:
            if leads_up and start.endswith("/videos"):  # "../x" is meant from the list or the root, not from videos/
                continue
            whole = os.path.normpath(os.path.join(start, path))
            if whole == self.root or whole.startswith(self.root.rstrip("/") + "/"):
                try:
                    whole = self._check(whole)
                    return whole, whole[len(self.root) :].lstrip("/")
                except Refused as refused:
                    reasons.append(str(refused))
        if re.match(r"[A-Za-z][A-Za-z0-9+.,-]+:", path):
            raise Refused("is a URL or names a protocol, not a path of a file. Download the video first.")
        if not reasons:
            raise Refused(self._outside(path))
        raise Refused(next((reason for reason in reasons if reason), f"no such file under {self.root}"))

    def _without_prefix(self, path: str) -> str:
        if self.prefix and path.startswith(self.prefix):
            return path[len(self.prefix) :].lstrip("/")
        return path

    def _check(self, whole: str) -> str:
        """The path, completed by its extension where it has none. Raises `Refused`, without a reason when absent."""
        folder, name = os.path.split(whole)
        kind = self._list(folder).get(name)
        if kind == "file" and extension(name) in EXTENSIONS:
            return whole
        if kind == "folder":
            if len(_images(whole)) >= 2:
                return whole
            raise Refused("is a folder, and not one of numbered images (frames)")
        if kind == "file":
            raise Refused(f"extension {extension(name)!r} is not one of {' '.join(sorted(EXTENSIONS))}")
        if kind == "other":
            raise Refused("is neither a file nor a folder")
        if extension(name) in EXTENSIONS:
            raise Refused("")
        names = self._by_stem(folder).get(name, [])
        if len(names) > 1:
            raise Refused(f"could be {shown(names)}: give the extension")
        if not names:
            raise Refused("")
        return os.path.join(folder, names[0])

    def _list(self, folder: str) -> dict[str, str]:
        if folder not in self._listed:
            try:
                with os.scandir(folder) as entries:
                    self._listed[folder] = {entry.name: _kind(entry) for entry in entries}
            except OSError as error:
                if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
                    raise Refused(f"cannot be read: {error.strerror}") from error
                self._listed[folder] = {}
        return self._listed[folder]

    def _by_stem(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._stems:
            stems: dict[str, list[str]] = {}
            for name, kind in sorted(self._list(folder).items()):
                if kind == "file" and extension(name) in EXTENSIONS:
                    stems.setdefault(os.path.splitext(name)[0], []).append(name)
            self._stems[folder] = stems
        return self._stems[folder]

    def _outside(self, path: str) -> str:
        if not path.startswith("/"):
            return f"is not under {self.root}. Move the video there, or say --root."
        return (
            f"is not under {self.root}. If the list is from another machine, give the part of its paths to leave away, "
            f"--path_prefix {os.path.dirname(path)}, and say --root for where the rest starts."
        )


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        return "file" if entry.is_file() else "folder" if entry.is_dir() else "other"
    except OSError:  # a link that leads to itself
        return "other"


def _images(folder: str) -> list[tuple[str, int]]:
    try:
        return numbered_images(folder)
    except OSError as error:
        raise Refused(f"cannot be read: {error.strerror}") from error


class Rows:
    """Collects the rows of one layout's lists. Every row given to it ends in `Found.videos` or `Found.rejected`."""

    def __init__(self, root: Path):
        self.root = str(root)
        self.found = Found()
        self._first: dict[str, tuple[str, LabeledVideo]] = {}
        self._again: dict[str, list[tuple[str, LabeledVideo]]] = {}

    def refuse(self, where: str, path: str, reason: str) -> None:
        self.found.rejected.append((path[:MAX_SHOWN], f"{where}: {reason}"))

    def add(
        self,
        where: str,
        file: tuple[str, str],
        labels: Sequence[str],
        split: str | None = None,
        group: str | None = None,
        span: Span | None = None,
    ) -> None:
        """`where` as "labels.csv line 3"; `file` as `Places.find` gives it."""
        whole, video_id = file
        if span is not None:
            group = group or video_id  # clips of one file must not be split apart
            video_id = f"{video_id}#{_number(span.start)}-{_number(span.end)}"
        video = LabeledVideo(Path(whole), video_id, tuple(labels), split, group, span)
        if video_id in self._first:
            self._again.setdefault(video_id, []).append((where, video))
        else:
            self._first[video_id] = where, video

    def finish(self, layout: str) -> Found:
        """Rows that say the same twice are one video; rows that contradict each other are none."""
        for video_id, again in self._again.items():
            first = self._first[video_id]
            other = next((row for row in again if _meaning(row[1]) != _meaning(first[1])), None)
            if other is None:
                for where, _ in again:
                    self.refuse(where, video_id, f"repeats {_of_same_list(first[0], where)}")
                continue
            del self._first[video_id]
            for row in [first, *again]:
                against = other if _meaning(row[1]) == _meaning(first[1]) else first
                self.refuse(
                    row[0],
                    video_id,
                    f"{_says(row[1])}, but {_says(against[1])} on {_of_same_list(against[0], row[0])}. Keep the right one.",
                )
        self.found.layout = layout
        self.found.videos = [video for _, video in self._first.values()]
        return self.found


def _meaning(video: LabeledVideo) -> tuple[object, ...]:
    return sorted({same_class(label) for label in video.labels}), video.split, video.group


def _says(video: LabeledVideo) -> str:
    text = f"labelled {', '.join(map(repr, video.labels)) or 'with nothing'}"
    return text + "".join(f" ({word})" for word in (video.split, video.group and f"group {video.group}") if word)


def _of_same_list(where: str, here: str) -> str:
    """ "line 3" when both lines are of one list, "train.csv line 3" else."""
    name, _, rest = where.rpartition(" line ")
    return f"line {rest}" if name and here.startswith(f"{name} line ") else where


def _number(value: float) -> str:
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)
