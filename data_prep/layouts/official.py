"""The text lists that benchmarks ship: UCF101, HMDB51, Kinetics."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from data_prep.errors import UserError
from data_prep.labeled import Found
from data_prep.layouts.dialects import split_cells
from data_prep.layouts.labels import same_class
from data_prep.layouts.listfiles import MAX_LINE, family, in_order, looks_like_video, read_lines, split_of_name
from data_prep.layouts.lists import trailing_numbers
from data_prep.layouts.rows import Refused, Rows
from data_prep.layouts.source import SPLIT_NAMES, Source, extension, shown

_LIST_FOLDER = re.compile(r"annot|split|list|label|meta|json|csv|txt", re.IGNORECASE)


class Videos:
    """The videos below the root by their names: benchmarks give ids, and people keep the files where they like."""

    def __init__(self, source: Source, lists: list[Path]):
        parent = source.root.parent
        if not (source.is_folder or source.root_given or source.tree.videos) and _LIST_FOLDER.search(source.root.name):
            source = replace(source, root=parent)  # annotations/ beside the videos
        self.tree = source.tree
        self.by_stem: dict[str, list[str]] = defaultdict(list)
        for video in self.tree.videos:
            self.by_stem[os.path.splitext(video.rpartition("/")[2])[0]].append(video)
        self.classes: set[str] = set()  # as `same_class` gives them: of the lists
        self.renamed: list[str] = []  # found under another extension than the list says

    @cached_property
    def folders(self) -> set[str]:
        """As `same_class` gives their names."""
        return {
            same_class(name)
            for folder in {os.path.dirname(video) for video in self.tree.videos}
            for name in folder.split("/")
        }

    def find(self, name: str, label: str = "", split: str | None = None) -> tuple[str, str]:
        """(absolute path, path relative to the root) of the video with this name, its extension being as it may.

        With `label`: of the one in the class's folder, where classes have folders. Raises `Refused`.
        """
        stem = os.path.splitext(name)[0] if looks_like_video(name) else name
        found = self.by_stem.get(stem, [])
        if label:
            found = [video for video in found if self._may_be(video, same_class(label))]
        if not found:
            raise Refused(f"no file {name[:99]} under {self.tree.root}" + (f" in a folder {label[:99]!r}" if label and stem in self.by_stem else ""))  # fmt: skip
        if len(found) > 1:
            of_split = [v for v in found if split in {SPLIT_NAMES.get(part.lower()) for part in v.split("/")[:-1]}]
            found = of_split if split and of_split else found
            found = [video for video in found if video.endswith("/" + name) or video == name] or found
        if len(found) > 1:
            raise Refused(f"there are several: {shown(found)}. Keep the right one.")
        if looks_like_video(name) and extension(name) != extension(found[0]):
            self.renamed.append(found[0])
        return os.path.join(self.tree.root, found[0]), found[0]

    def _may_be(self, video: str, label: str) -> bool:
        """Names recur from class to class: the video of another class's folder is another video."""
        folders = {same_class(name) for name in video.split("/")[:-1]}
        return label in folders if label in self.folders else not folders & self.classes

    def finish(self, rows: Rows, layout: str) -> Found:
        found = rows.finish(layout)
        if self.renamed:
            found.notes.append(f"{len(self.renamed)} videos have another extension than the list says: {shown(self.renamed, 2)}")  # fmt: skip
        return found


def one_fold(source: Source, paths: list[Path]) -> tuple[list[Path], list[str]]:
    """The lists of the first fold, and notes that name what was left. Raises `UserError` where the choice is not ours."""
    folds: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in paths:
        number = re.search(r"list(\d+)", path.name.lower())
        folds[number.group(1) if number else Path(family(path)).name][family(path)].append(path)
    if len(folds) > 1 and not all(map(str.isdigit, folds)):
        raise UserError(f"{source.path} has several sets of lists: {shown([source.name(path) for path in paths])}. Pass the one you mean, with --root {source.root}.")  # fmt: skip
    first = min(folds, key=lambda fold: (int(fold) if fold.isdigit() else 0, fold))
    copies = [in_order(folds[first][name]) for name in sorted(folds[first])]
    notes = []
    if len(folds) > 1:
        notes.append(f"fold {first} is used; there are also {shown(sorted(set(folds) - {first}))}: pass one of their lists to use it")  # fmt: skip
    texts = [[[line.strip() for _, line in read_lines(path)] for path in copy] for copy in copies]
    if any(text != texts[0] for text in texts[1:]):
        raise UserError(f"{source.path} has different lists of one fold: {shown([source.name(path) for copy in copies for path in copy])}. Pass the one you mean, with --root {source.root}.")  # fmt: skip
    if len(copies) > 1:
        notes.append(f"{source.name(copies[0][0])} is used; {shown([source.name(copy[0]) for copy in copies[1:]])} says the same")  # fmt: skip
    return copies[0], notes


def read_ucf101(source: Source, paths: list[Path], layout: str = "ucf101") -> Found:
    """trainlist01.txt ("Class/v_Class_g08_c01.avi 1") and testlist01.txt (no number): the class is the path's folder.

    The groups of the names (g08) are groups of the class: "Class/g08".
    """
    paths, notes = one_fold(source, paths)
    rows, videos = Rows(source.root), Videos(source, paths)
    classes = _class_index(source, paths[0])
    lines = [(path, number, line) for path in paths for number, line in read_lines(path)]
    videos.classes = {same_class(line.split("/")[-2]) for _, _, line in lines if "/" in line}
    for path, number, line in lines:
        where = f"{source.name(path)} line {number}"
        try:
            label, name = _ucf101_line(line.strip(), classes)
            match = re.search(r"_(g\d+)_", name)
            split = split_of_name(path)
            rows.add(where, videos.find(name, label, split), (label,), split, match and f"{label}/{match.group(1)}")
        except Refused as refused:
            rows.refuse(where, line[:999].strip(), str(refused))
    found = videos.finish(rows, layout)
    found.notes += notes
    return found


def _ucf101_line(line: str, classes: dict[str, str]) -> tuple[str, str]:
    """(class, name of the file). Raises `Refused`."""
    if len(line) > MAX_LINE:
        raise Refused(f"has {len(line)} characters: it is no row of a list")
    path, numbers = trailing_numbers(line)
    parts = path.replace("\\", "/").split("/")
    if ".." in parts or not parts[0] or "\0" in path:
        raise Refused("expected <class>/<video>, a path below the folder of the videos")
    folder = parts[-2] if len(parts) > 1 else ""
    index = classes.get(numbers[0]) if numbers else None
    label = folder or index or ""
    if not label:
        raise Refused("has no label: expected <class>/<video>")
    if folder and index and same_class(folder) != same_class(index):
        raise Refused(f"lies in the folder {folder!r}, but its number {numbers[0]} is {index!r} in classInd.txt")
    return label, parts[-1]


def _class_index(source: Source, beside: Path) -> dict[str, str]:
    """ "4" -> "BabyCrawling", from classInd.txt where there is one."""
    path = beside.parent / "classInd.txt"
    if not path.is_file():
        return {}
    return {cells[0]: cells[1].strip() for _, line in read_lines(path) if len(cells := line.strip().split(" ", 1)) == 2}


def read_hmdb51(source: Source, paths: list[Path]) -> Found:
    """<class>_test_split1.txt, lines "name 1 " (train), "name 2 " (test) or "name 0 " (unused)."""
    folds: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        match = re.search(r"_test_split(\d+)\.txt$", path.name.lower())
        if match is None:
            raise UserError(f"{path} has another name than HMDB51's lists, expected <class>_test_split1.txt.")
        folds[match.group(1)].append(path)
    first = min(folds, key=int)
    rows, videos = Rows(source.root), Videos(source, paths)
    labels = {path: re.sub(r"_test_split\d+\.txt$", "", path.name, flags=re.IGNORECASE) for path in folds[first]}
    videos.classes = set(map(same_class, labels.values()))
    for path, label in labels.items():
        for number, line in read_lines(path):
            where, (name, _, use) = f"{source.name(path)} line {number}", line.strip()[:999].rpartition(" ")
            try:
                if use == "0":
                    raise Refused("unused in this split")
                if use not in ("1", "2") or "/" in name:
                    raise Refused("expected '<video> 1' (train), 2 (test) or 0 (unused)")
                split = "train" if use == "1" else "test"
                rows.add(where, videos.find(name.strip(), label), (label,), split)
            except Refused as refused:
                rows.refuse(where, name or use, str(refused))
    found = videos.finish(rows, "hmdb51")
    if len(folds) > 1:
        others = sorted(set(folds) - {first}, key=int)
        found.notes.append(f"split {first} is used; the others are {', '.join(others)}")
    return found


def read_kinetics(source: Source, paths: list[Path]) -> Found:
    """label,youtube_id,time_start,time_end,split; files <id>_000010_000020.mp4 or <id>.mp4, anywhere below the root."""
    rows, videos = Rows(source.root), Videos(source, paths)
    for path in paths:
        lines = list(read_lines(path))
        first = lines[0][1] if lines else ""
        header = [name.strip().lower() for name in split_cells(first, ",") or []]
        if not {"youtube_id", "time_start", "time_end"} <= set(header):
            raise UserError(f"{path} line 1: got {first[:100]!r}, expected label,youtube_id,time_start,time_end,split.")  # fmt: skip
        for number, line in lines[1:]:
            where = f"{source.name(path)} line {number}"
            cells = split_cells(line, ",") if len(line) <= MAX_LINE else None
            row = dict(zip(header, map(str.strip, cells or [])))
            try:
                _add_kinetics(rows, videos, where, row, split_of_name(path))
            except Refused as refused:
                rows.refuse(where, row.get("youtube_id") or line[:99], str(refused))
    return videos.finish(rows, "kinetics")


def _add_kinetics(rows: Rows, videos: Videos, where: str, row: dict[str, str], split: str | None) -> None:
    if "youtube_id" not in row:
        raise Refused("cannot be read: expected label,youtube_id,time_start,time_end,split")
    if not row.get("label"):
        raise Refused("has no label")
    split = SPLIT_NAMES.get(row.get("split", "").lower(), split)
    try:
        start, end = (int(float(row[name])) for name in ("time_start", "time_end"))
    except (ValueError, KeyError, OverflowError):
        raise Refused("time_start,time_end are not two numbers (seconds)") from None
    names = [f"{row['youtube_id']}_{start:06d}_{end:06d}", row["youtube_id"]]
    name = next((name for name in names if name in videos.by_stem), names[0])
    try:
        file = videos.find(name, row["label"], split)
    except Refused:
        file = videos.find(name, row["label"].replace(" ", "_"), split)
    rows.add(where, file, (row["label"],), split)
