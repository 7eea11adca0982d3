"""What the user pointed at: a folder or a list, and every file below it, walked once."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from data_prep.frame_series import choose_series, is_numbered_image, pictures_first
from data_prep.limits import VideoError
from data_prep.video import EXTENSIONS

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "validate": "validation", "val": "validation", "valid": "validation",
    "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip
LIST_EXTENSIONS = frozenset([".csv", ".tsv", ".txt", ".json", ".jsonl"])
_JUNK = frozenset(["__macosx", "thumbs.db", "desktop.ini"])
# A folder reached again and again through links that cross each other would be walked factorially often.
_MAX_VISITS = 16
_MOST_COMBINATIONS = 20  # of series in folders of frames, that are noted


@dataclass
class Tree:
    """The files below a folder; paths are relative to it, with forward slashes, in sorted order."""

    root: str  # absolute
    videos: list[str] = field(default_factory=list)
    frame_folders: list[str] = field(default_factory=list)  # hold numbered images and no videos
    beside_frames: list[str] = field(default_factory=list)  # folders of flow, masks and so on, beside one of pictures
    lists: list[str] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    other_files: Counter[str] = field(default_factory=Counter)  # by extension; without the images of frame folders
    frame_images: Counter[str] = field(default_factory=Counter)  # by extension; those


@dataclass
class Source:
    """A folder of videos or a list file, with what the command line says about it."""

    path: Path  # absolute
    root: Path  # absolute; where a list's paths start
    root_given: bool = False
    path_prefix: str | None = None
    label_regex: re.Pattern[str] | None = None

    @cached_property
    def is_folder(self) -> bool:
        return self.path.is_dir()

    @cached_property
    def tree(self) -> Tree:
        return walk(self.root)

    def name(self, path: Path) -> str:
        """A list's name in messages: train/metadata.csv and not only metadata.csv, where a folder holds both."""
        if self.is_folder and path.is_relative_to(self.path):
            return path.relative_to(self.path).as_posix()
        return path.name


def extension(name: str) -> str:
    """Lower case, with its dot: extension("a/b.MP4") == ".mp4"; empty for none, and for ".hidden"."""
    return os.path.splitext(name)[1].lower()


def walk(root: Path) -> Tree:
    """Links to folders are followed, but not back up. Hidden files and what systems leave behind are passed over."""
    tree = Tree(str(root))

    def unreadable(error: OSError) -> None:
        tree.rejected.append((os.path.relpath(error.filename, root), f"folder cannot be read: {error.strerror}"))

    above: dict[str, tuple[str, frozenset[str]]] = {}  # folder -> its real path, the real folders on the way to it
    visits: Counter[str] = Counter()
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=unreadable):
        parent, way = above.get(os.path.dirname(folder), ("", frozenset()))
        linked = not parent or os.path.islink(folder)
        real = os.path.realpath(folder) if linked else os.path.join(parent, os.path.basename(folder))
        relative = "" if folder == tree.root else os.path.relpath(folder, tree.root).replace(os.sep, "/") + "/"
        visits[real] += 1
        if real in way or visits[real] > _MAX_VISITS:
            subfolders.clear()
            if real not in way:
                tree.rejected.append((relative, f"the same folder was met {_MAX_VISITS} times through links"))
            continue
        above[folder] = real, way | {real}
        subfolders[:] = sorted(name for name in subfolders if not is_junk(name))
        if relative and not subfolders and not names and extension(relative[:-1]) in EXTENSIONS:
            tree.rejected.append((relative[:-1], "is an empty folder"))
        _sort_files(tree, relative, sorted(name for name in names if not is_junk(name)))
    tree.frame_folders, tree.beside_frames = pictures_first(tree.frame_folders)
    return tree


def _sort_files(tree: Tree, folder: str, names: list[str]) -> None:
    videos = [name for name in names if extension(name) in EXTENSIONS]
    tree.videos += [folder + name for name in videos]
    images = [] if videos else [name for name in names if is_numbered_image(name)]
    if len(images) >= 2 and folder:
        tree.frame_folders.append(folder[:-1])
        tree.frame_images.update(extension(name) for name in images)
    else:
        images = []
    for name in sorted({*names} - {*videos} - {*images}):
        tree.other_files[extension(name)] += 1
        # A pipe would block whoever reads it, and a device has no end.
        if extension(name) in LIST_EXTENSIONS and os.path.isfile(f"{tree.root}/{folder}{name}"):
            tree.lists.append(folder + name)


def numbered_images(folder: str) -> list[tuple[str, int]]:
    """(name, bytes) of the images of a folder of frames."""
    with os.scandir(folder) as entries:
        return [
            (entry.name, entry.stat().st_size)
            for entry in entries
            if not is_junk(entry.name) and is_numbered_image(entry.name) and entry.is_file()
        ]


def is_junk(name: str) -> bool:
    # Hidden files include AppleDouble twins ("._clip.mp4"), which look like videos and are not.
    return name.startswith(".") or name.lower() in _JUNK


def shown(names: list[str], most: int = 6) -> str:
    """A few names for a message: "a, b and 3 more"."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def series_notes(videos: Iterable[str]) -> list[str]:
    """What is read of the videos that are folders with several series of images, in a line for each combination."""
    several: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for folder in videos:
        if extension(folder) in EXTENSIONS or not os.path.isdir(folder):
            continue
        with suppress(OSError, VideoError):  # whoever reads it says so
            series = choose_series(name for name, _ in numbered_images(folder))
            if series.left_out:
                several[series.pattern, series.left_out] += 1
    return [
        f"{count} folder{'s' if count > 1 else ''} of frames: {pattern} is read as the video, {shown(list(left_out))} left out"
        for (pattern, left_out), count in several.most_common(_MOST_COMBINATIONS)
    ]
