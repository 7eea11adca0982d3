"""Folders that say the class: per class, per split, per person, of frames; and names that do."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.errors import UserError
from data_prep.frame_series import choose_series
from data_prep.labeled import Found, LabeledVideo
from data_prep.layouts.source import SPLIT_NAMES, Source, is_junk, numbered_images, shown
from data_prep.limits import VideoError

_MAX_NOTES = 50  # on single videos
# A folder that holds the class folders, and is no class itself.
_CONTAINERS = frozenset(["videos", "video", "clips", "data", "dataset", "frames", "rawframes", "media"])
_LONG = "person|subject|subj|participant|user|actor|performer|patient|student|volunteer|speaker|signer|player"
_PERSON = re.compile(rf"(?:(?:{_LONG}|sub|people|p|s|u|id)[ _-]*\d+|(?:{_LONG})[ _-]+[a-z])$", re.IGNORECASE)
_SESSION = re.compile(r"(?:session|sess|day|take|trial|rec|recording|cam|camera|visit|date|d|c)[ _-]*\d+$|[\d_-]{6,}$", re.I)  # fmt: skip


@dataclass
class Shape:
    """The videos of a tree (files, or else folders of frames), as parts of their paths below `container`."""

    items: list[str]
    container: str  # "" or "videos/"
    frames: bool

    def parts(self, item: str) -> list[str]:
        return item[len(self.container) :].split("/")

    def tops(self) -> set[str]:
        return {parts[0] for parts in map(self.parts, self.items) if len(parts) > 1}


def shape_of(source: Source, frames: bool | None = None) -> Shape:
    tree = source.tree
    frames = not tree.videos and bool(tree.frame_folders) if frames is None else frames
    items = tree.frame_folders if frames else tree.videos
    shape = Shape(items, "", frames)
    tops = shape.tops()
    if len(tops) == 1 and next(iter(tops)).lower() in _CONTAINERS and all("/" in item for item in items):
        return Shape(items, next(iter(tops)) + "/", frames)
    return shape


def arrangement(source: Source, shape: Shape) -> str:
    """The layout of folders. Raises `UserError` where two readings are as likely as each other."""
    tops = shape.tops()
    if not tops:
        return "flat_names"
    splits = sorted(top for top in tops if top.lower() in SPLIT_NAMES)
    if len(splits) == len(tops):
        return "split_folders"
    if len(splits) > 1:
        others = shown(sorted(tops.difference(splits)))
        raise UserError(f"{source.root} has split folders {', '.join(splits)} and also {others}: rename or move the latter; splits are {', '.join(SPLIT_NAMES)}.")  # fmt: skip
    if source.label_regex is not None:
        return "class_folders"
    seconds = _second_folders(shape)
    if seconds and all(name.lower() in SPLIT_NAMES for name in seconds) and _all_deeper_than(shape, 2):
        return "class_split_folders"
    return _class_or_person(source, shape, tops, seconds)


def _class_or_person(source: Source, shape: Shape, tops: set[str], seconds: dict[str, set[str]]) -> str:
    recurring = sorted(name for name, where in seconds.items() if len(where) > 1)
    depths = {len(shape.parts(item)) for item in shape.items} - {1}
    if not recurring or depths != {3} or len(seconds) < 2 or len(recurring) * 2 < len(seconds):
        return "class_folders"
    persons = all(_PERSON.match(top) for top in tops)
    inner = all(_PERSON.match(name) or _SESSION.match(name) for name in recurring)
    if persons != inner:
        return "person_folders" if persons else "class_folders"
    raise UserError(
        f"{source.root} has folders {shown(sorted(tops))}, and in several of them {shown(recurring)}: which are the "
        "classes? Pass --layout class_folders if the outer ones are, --layout person_folders if the inner ones are and "
        "the outer ones are persons (whose videos then never fall into two splits)."
    )


def _second_folders(shape: Shape) -> dict[str, set[str]]:
    """Folders of the second level -> the folders of the first in which they are."""
    seconds: dict[str, set[str]] = defaultdict(set)
    for item in shape.items:
        parts = shape.parts(item)
        if len(parts) > 2:
            seconds[parts[1]].add(parts[0])
    return seconds


def _all_deeper_than(shape: Shape, folders: int) -> bool:
    return all(len(shape.parts(item)) > folders for item in shape.items)


# Readers


def read_class_folders(source: Source) -> Found:
    return _read(source, shape_of(source), "class_folders")


def read_split_folders(source: Source) -> Found:
    return _read(source, shape_of(source), "split_folders")


def read_class_split_folders(source: Source) -> Found:
    return _read(source, shape_of(source), "class_split_folders")


def read_person_folders(source: Source) -> Found:
    return _read(source, shape_of(source), "person_folders")


def read_flat_names(source: Source) -> Found:
    return _read(source, shape_of(source), "flat_names")


def read_frame_folders(source: Source) -> Found:
    """<class>/<video>/frame0001.png, also below split folders: a video is a folder of numbered images."""
    shape = shape_of(source, frames=True)
    if not shape.items:
        raise UserError(f"{source.root} has no folder of frames: expected <class>/<video>/frame0001.png and so on.")
    found = _read(source, shape, arrangement(source, shape))
    found.layout = "frame_folders"
    flaws = [flaw for video in found.videos for flaw in _flaws_of_frames(video)]
    if source.tree.beside_frames:
        found.notes.append(f"left out, as they lie beside folders of pictures: {shown(source.tree.beside_frames, 3)}")
    found.notes += flaws[:_MAX_NOTES]
    if len(flaws) > _MAX_NOTES:
        found.notes.append(f"{len(flaws) - _MAX_NOTES} more such flaws of folders of frames")
    return found


def _read(source: Source, shape: Shape, layout: str) -> Found:
    tree = source.tree
    found = Found(layout, rejected=list(tree.rejected), other_files=Counter(tree.other_files))
    if not shape.frames and tree.frame_folders:
        found.other_files.update(tree.frame_images)
        found.notes.append(f"{len(tree.frame_folders)} folders of numbered images were passed over, since there are videos; to read them: --layout frame_folders")  # fmt: skip
    if shape.container:
        found.notes.append(f"the classes are read below {shape.container}")
    persons = _persons(shape, found) if layout == "class_folders" and source.label_regex is None else False
    for item in shape.items:
        try:
            label, split, group = _meaning(source, layout, shape.parts(item), persons)
        except ValueError as error:
            found.rejected.append((item, str(error)))
            continue
        found.videos.append(LabeledVideo(source.root / item, item, (label,), split, group))
    _note(source, shape, found)
    return found


def _meaning(source: Source, layout: str, parts: list[str], persons: bool) -> tuple[str, str | None, str | None]:
    """(label, split, group) of a video. Raises `ValueError` with the reason why it has none."""
    split, group = None, None
    if layout == "split_folders":
        split, parts = SPLIT_NAMES.get(parts[0].lower()), parts[1:]
        if split is None or not parts:
            raise ValueError(f"lies beside the split folders ({', '.join(SPLIT_NAMES)})")
    if source.label_regex is not None:
        return _label_by_regex(source.label_regex, "/".join(parts)), split, group
    if layout == "flat_names":
        label, _, number = os.path.splitext(parts[-1])[0].rpartition("_")
        if not label or not number:
            raise ValueError("expected <class>_<id> as its name, or class folders")
        return label, split, group
    if len(parts) < 2:
        raise ValueError("expected <split>/<class>/<video>, but there is no class folder" if split else "lies beside the class folders, so it has no class")  # fmt: skip
    if layout == "person_folders":
        if len(parts) < 3:
            raise ValueError("expected <person>/<class>/<video>, but there is no class folder")
        return parts[1], split, parts[0]
    if layout == "class_split_folders":
        split = SPLIT_NAMES.get(parts[1].lower())
        if split is None or len(parts) < 3:
            raise ValueError("expected <class>/<train|validation|test>/<video>")
    return parts[0], split, parts[1] if persons and len(parts) > 2 else None


def _label_by_regex(pattern: re.Pattern[str], path: str) -> str:
    match = pattern.search(path)
    if match is None:
        raise ValueError(f"--label_regex {pattern.pattern!r} does not match it")
    return (match.group(1) if pattern.groups else match.group(0)) or ""


def _persons(shape: Shape, found: Found) -> bool:
    """Whether the folders in the class folders recur from class to class, as persons and sessions do."""
    seconds = _second_folders(shape)
    recurring = sorted(name for name, classes in seconds.items() if len(classes) > 1)
    if not recurring or len(seconds) < 2 or len(recurring) * 2 < len(seconds):
        return False
    found.notes.append(f"the folders in the class folders recur ({shown(recurring)}): each is taken for a person, whose videos never fall into two splits")  # fmt: skip
    return True


def _note(source: Source, shape: Shape, found: Found) -> None:
    if found.layout == "split_folders":
        found.notes.append(f"split folders {', '.join(sorted(shape.tops()))}: kept as given")
    if found.layout == "class_split_folders":
        found.notes.append("the folders in the class folders are splits: kept as given")
    if found.layout == "person_folders":
        found.notes.append(f"the outer folders are persons ({shown(sorted(shape.tops()))}), whose videos never fall into two splits; the inner ones are the classes")  # fmt: skip
    if found.layout == "flat_names" and source.label_regex is None:
        counts = Counter(video.labels[0] for video in found.videos)
        single = [label for label, count in counts.items() if count == 1]
        if len(single) * 2 > len(counts) > 1:
            found.notes.append(f"{len(single)} of {len(counts)} classes have one video: if the class is another part of the name, say which: --label_regex '^([A-Za-z]+)[-_]'")  # fmt: skip
    _note_empty_folders(source.root / shape.container, shape, found)


def _note_empty_folders(root: Path, shape: Shape, found: Found) -> None:
    if not shape.tops():
        return
    levels = [root]
    if found.layout == "split_folders":
        levels += [root / top for top in sorted(shape.tops())]
    with_videos: set[Path] = set()
    for folder in {video.path.parent for video in found.videos}:
        with_videos.update([folder, *folder.parents])
    for level in levels:
        for folder in sorted(level.iterdir()):
            if not is_junk(folder.name) and folder not in with_videos and folder.is_dir() and folder not in levels:
                name = folder.relative_to(root).as_posix()
                found.notes.append(f"folder {name!r} holds no videos: it is not a class")


def _flaws_of_frames(video: LabeledVideo) -> Iterator[str]:
    """What is missing from a folder of frames: numbers, bytes."""
    images = numbered_images(str(video.path))
    try:
        frames = set(choose_series(name for name, _ in images).names)
    except VideoError:  # the scan will say so
        return
    images = [image for image in images if image[0] in frames]
    numbers = sorted({int(re.findall(r"\d+", name)[-1]) for name, _ in images})
    missing = numbers[-1] - numbers[0] + 1 - len(numbers) if numbers else 0
    if missing:
        gap = next(first + 1 for first, second in zip(numbers, numbers[1:]) if second != first + 1)
        yield f"{video.video_id}: frame {gap} is missing" + (f", and {missing - 1} more" if missing > 1 else "")
    empty = sorted(name for name, size in images if size == 0)
    if empty:
        yield f"{video.video_id}: {shown(empty)} has zero bytes"
