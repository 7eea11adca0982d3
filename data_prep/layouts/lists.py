"""Lists without a header, "path label": PySlowFast's and TimeSformer's, MMAction2's with several labels or of frames."""

from __future__ import annotations

import re
from pathlib import Path

from data_prep.labeled import Found
from data_prep.layouts.listfiles import MAX_LINE, looks_like_video, read_lines, split_of_name
from data_prep.layouts.rows import Places, Refused, Rows
from data_prep.layouts.source import Source

_MAX_LABELS = 1000  # of one video


def read_pyslowfast(source: Source, paths: list[Path]) -> Found:
    """Lines "path label"; the label is what follows the last space (or comma), so that a path may hold spaces."""
    return _read(source, paths, "pyslowfast")


def read_mmaction2(source: Source, paths: list[Path]) -> Found:
    """Lines "path label", "path label label ..." (several labels), and "folder num_frames label" (of frames)."""
    return _read(source, paths, "mmaction2")


def _read(source: Source, paths: list[Path], layout: str) -> Found:
    rows = Rows(source.root)
    lines = {path: [(number, line.strip()) for number, line in read_lines(path)] for path in paths}
    several = layout == "mmaction2" and any(_has_several_labels(line) for rest in lines.values() for _, line in rest)
    for path, of_path in lines.items():
        places, split = Places(source, path), split_of_name(path)
        for number, line in of_path:
            where = f"{source.name(path)} line {number}"
            try:
                name, labels = parse_line(line, several, layout == "mmaction2")
                rows.add(where, places.find(name), labels, split)
            except Refused as refused:
                rows.refuse(where, line if len(line) <= MAX_LINE else line[:99], str(refused))
    found = rows.finish(layout)
    found.multi_label = several
    return found


def _has_several_labels(line: str) -> bool:
    if len(line) > MAX_LINE:
        return False
    path, numbers = trailing_numbers(line)
    return len(numbers) > 1 and looks_like_video(path)


def parse_line(line: str, several: bool = False, frames: bool = False) -> tuple[str, tuple[str, ...]]:
    """(path, labels). parse_line("a b.mp4 3") == ("a b.mp4", ("3",)). Raises `Refused`.

    `frames` allows "folder num_frames label": the number of frames is counted anew, not believed.
    """
    if len(line) > MAX_LINE:
        raise Refused(f"has {len(line)} characters: it is no row of a list")
    path, numbers = trailing_numbers(line)
    if numbers and looks_like_video(path):
        if len(numbers) > 1 and not several:
            raise Refused(f"has {len(numbers)} labels, expected one: for several pass --layout mmaction2")
        return path, tuple(sorted(set(numbers), key=int))
    if frames and len(numbers) >= 2:
        return line.rsplit(" ", 2)[0], (numbers[-1],)
    if looks_like_video(line):
        raise Refused("label is empty, expected 'path label'")
    cells = line.rsplit(None, 1) if " " in line or "\t" in line else line.rsplit(",", 1)
    if len(cells) != 2 or not cells[0] or not cells[1]:
        raise Refused("expected 'path label'")
    return cells[0].rstrip(", \t"), (cells[1],)


def trailing_numbers(line: str) -> tuple[str, list[str]]:
    """trailing_numbers("a b.mp4 3 14") == ("a b.mp4", ["3", "14"])"""
    numbers: list[str] = []
    while len(numbers) < _MAX_LABELS and (match := re.search(r"[\s,]+(\d{1,18})$", line[-64:])):
        numbers.append(match.group(1))
        line = line[: len(line) - len(match.group(0))]
    return line, numbers[::-1]
