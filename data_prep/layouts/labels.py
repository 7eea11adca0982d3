"""Labels as people wrote them -> class names; every change is told in a note."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from dataclasses import replace

from data_prep.labeled import Found
from data_prep.layouts.source import shown

MAX_LABEL = 1000  # characters; a class's name is read by people


def clean(label: str) -> str:
    """Without outer spaces, in Unicode NFC."""
    return label if label.isascii() and label == label.strip() else unicodedata.normalize("NFC", label.strip())


def same_class(label: str) -> str:
    """Equal for two spellings of one class: same_class(" Ollie") == same_class("ollie")."""
    return clean(clean(label).casefold())


def clean_labels(found: Found) -> None:
    """Spaces, Unicode form and twins that differ only in case: changed in place, with a note for each kind.

    Case-only twins become the more frequent spelling; of equally frequent ones the first in sorted order.
    """
    _refuse_unusable(found)
    counts = Counter(label for video in found.videos for label in video.labels)
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for label, count in counts.items():
        spellings[same_class(label)][clean(label)] += count
    chosen = {key: min(names, key=lambda name: (-names[name], name)) for key, names in spellings.items()}
    new = {label: chosen[same_class(label)] for label in counts}
    _note(found, new)
    for index, video in enumerate(found.videos):
        labels = tuple(new[label] for label in video.labels)
        labels = tuple(sorted(set(labels))) if found.multi_label else labels
        if labels != video.labels:
            found.videos[index] = replace(video, labels=labels)


def _refuse_unusable(found: Found) -> None:
    kept = []
    for video in found.videos:
        if any(not label.strip() for label in video.labels):
            found.rejected.append((video.video_id, "its label is empty, or only spaces"))
        elif any(len(label) > MAX_LABEL for label in video.labels):
            found.rejected.append((video.video_id, f"its label has more than {MAX_LABEL} characters"))
        else:
            kept.append(video)
    found.videos = kept


def _note(found: Found, new: dict[str, str]) -> None:
    spaces = sorted(repr(label) for label in new if label != label.strip() and label.strip())
    if spaces:
        found.notes.append(f"outer spaces of labels were removed: {shown(spaces)}")
    form = sorted(new[label] for label in new if unicodedata.normalize("NFC", label) != label)
    if form:
        found.notes.append(f"labels were brought to Unicode form NFC: {shown(form)}")
    twins = sorted(f"{clean(label)!r} became {name!r}" for label, name in new.items() if clean(label) != name)
    if twins:
        found.notes.append(f"labels that differ only in case are one class: {shown(list(dict.fromkeys(twins)))}")
    if new and all(label.isdigit() for label in new.values()) and not found.layout.endswith(("folders", "names")):
        found.notes.append(f"the labels are numbers ({shown(sorted(set(new.values()), key=int))}): they are the names of the classes")  # fmt: skip
