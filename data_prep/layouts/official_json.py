"""The JSON lists that benchmarks ship: Something-Something v2, Diving48."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.labeled import Found, Span
from data_prep.layouts.listfiles import brief, read_json, split_of_name
from data_prep.layouts.official import Videos, one_fold
from data_prep.layouts.rows import Refused, Rows
from data_prep.layouts.source import Source


def read_ssv2(source: Source, paths: list[Path]) -> Found:
    """train/validation/test.json with id and template; the class is the template without its brackets."""
    rows, videos = Rows(source.root), Videos(source, paths)
    known = _ssv2_classes(paths[0].parent)
    for path in paths:
        for number, entry in enumerate(_entries(path), start=1):
            where, name = f"{source.name(path)} entry {number}", ""
            try:
                name = _id(entry, "id")
                label = _ssv2_label(entry, known)
                rows.add(where, videos.find(name), (label,), split_of_name(path))
            except Refused as refused:
                rows.refuse(where, name or brief(entry), str(refused))
    return videos.finish(rows, "ssv2")


def _ssv2_classes(folder: Path) -> set[str]:
    for name in ("labels.json", "something-something-v2-labels.json"):
        if (folder / name).is_file():
            content = read_json(folder / name)
            return set(content) if isinstance(content, dict) else set()
    return set()


def _ssv2_label(entry: dict[str, Any], known: set[str]) -> str:
    template, label = entry.get("template"), entry.get("label")
    if isinstance(template, str) and template.strip():
        name = re.sub(r"[\[\]]", "", template)
        if known and name not in known:
            raise Refused(f"its template {name[:99]!r} is not in labels.json")
        return name
    if isinstance(label, str) and label in known:
        return label
    raise Refused("has no label")


def read_diving48(source: Source, paths: list[Path]) -> Found:
    """Entries vid_name,label,start_frame,end_frame; classes are the vocabulary's words, where it lies beside."""
    paths, notes = one_fold(source, paths)
    rows, videos = Rows(source.root), Videos(source, paths)
    names = _diving48_names(paths[0].parent)
    for path in paths:
        for number, entry in enumerate(_entries(path), start=1):
            where, name = f"{source.name(path)} entry {number}", ""
            try:
                name = _id(entry, "vid_name")
                label, span = _diving48_label(entry, names), _frames(entry)
                rows.add(where, videos.find(name), (label,), split_of_name(path), span=span)
            except Refused as refused:
                rows.refuse(where, name or brief(entry), str(refused))
    found = videos.finish(rows, "diving48")
    found.notes += notes
    return found


def _diving48_names(folder: Path) -> list[str]:
    for path in sorted(folder.glob("*[vV]ocab*.json")):
        content = read_json(path)
        if isinstance(content, list):
            return [" ".join(map(str, words)) if isinstance(words, list) else str(words) for words in content]
    return []


def _diving48_label(entry: dict[str, Any], names: list[str]) -> str:
    label = entry.get("label")
    if isinstance(label, bool) or not isinstance(label, (int, str)) or label == "":
        raise Refused("has no label")
    if not names or not str(label).isdecimal():
        return str(label)
    if int(label) >= len(names):
        raise Refused(f"label is {label}, but the vocabulary has {len(names)} classes")
    return names[int(label)]


def _frames(entry: dict[str, Any]) -> Span | None:
    start, end = entry.get("start_frame"), entry.get("end_frame")
    if start is None and end is None:
        return None
    if type(start) is not int or type(end) is not int or not 0 <= start < end < 1 << 53:
        raise Refused(f"start_frame,end_frame are {brief(start, 40)},{brief(end, 40)}, expected 0 <= start < end")
    return Span(start, end, "frames")


def _entries(path: Path) -> list[Any]:
    content = read_json(path)
    if not isinstance(content, list):
        raise UserError(f"{path} holds {type(content).__name__}, expected a list of entries, one per video.")
    return content


def _id(entry: Any, key: str) -> str:
    value = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise Refused(f"has no {key}")
    return str(value)
