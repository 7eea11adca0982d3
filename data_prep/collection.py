"""The scanned videos together: who shares content with whom, which groups follow, and what each split holds."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from data_prep.duplicates import Duplicate, find_duplicates, join_groups
from data_prep.errors import UserError
from data_prep.labeled import Found, LabeledVideo
from data_prep.layouts.source import shown
from data_prep.name_groups import name_groups
from data_prep.parquet import Place
from data_prep.report.facts import Related, plural
from data_prep.scan import Scanned
from data_prep.split import Member


@dataclass(frozen=True, slots=True)
class Known:
    """A scanned video; `facts` is where its fingerprint lies, `pictures` where its stored pictures do."""

    video: LabeledVideo
    scanned: Scanned
    facts: Place | None
    pictures: Place | None


@dataclass
class Collection:
    """What of the videos is usable, in the order in which they were found."""

    videos: list[Known] = field(default_factory=list)
    conflicting: list[Known] = field(default_factory=list)  # usable, but refused for another label on the same content
    rejected: list[tuple[str, str]] = field(default_factory=list)
    related: list[Related] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)

    def members(self) -> list[Member]:
        """The videos as the split sees them."""
        return [
            Member(known.video.video_id, known.video.labels, known.video.group, known.video.split)
            for known in self.videos
        ]


def collect(found: Found, known: Sequence[Known]) -> Collection:
    """Separates usable videos from refused ones. Raises `UserError` when too little is left."""
    collection = Collection(rejected=list(found.rejected), notes=list(found.notes))
    for one in known:
        if one.scanned.stored is None:
            collection.rejected.append((one.video.video_id, one.scanned.reason))
        else:
            collection.videos.append(one)
    if not collection.videos:
        last_id, reason = collection.rejected[-1]
        raise UserError(f"none of the {len(known)} videos is usable; the last, {last_id}: {reason}.")
    if found.other_files:
        collection.notes.append(f"other files, not read: {found.other_files_by_count()}")
    _note_flaws(collection)
    return collection


def _note_flaws(collection: Collection) -> None:
    """Names what is kept though it is not as it should be."""
    damaged = [known.video.video_id for known in collection.videos if known.scanned.is_damaged]
    hdr = [known.video.video_id for known in collection.videos if known.scanned.hdr]
    for ids, words in (
        (damaged, "kept without what does not decode, or without its end"),
        (hdr, "HDR (PQ or HLG), which is not tone-mapped, so that frames look pale"),
    ):
        if ids:
            collection.notes.append(f"{words}: {plural(len(ids), 'video')}, the first {ids[0]}")


def relate(
    collection: Collection,
    fingerprint: Callable[[int], bytes] | None,
    keep_conflicts: bool,
    given: bool,
) -> None:
    """Finds videos that share content: joins them to groups, refuses conflicting labels, names leaks.

    `fingerprint` gives that of a video by its position; without it nobody looks for shared content. `given`: the videos came with splits, which stay; so do the
    groups.
    """
    videos = collection.videos
    pairs: list[Duplicate] = []
    if fingerprint is not None:
        pairs = find_duplicates([known.scanned.digest for known in videos], fingerprint)
    conflicting = _conflicts(videos, pairs)
    for pair in pairs:
        first, second = (videos[index].video for index in (pair.first, pair.second))
        problem = ""
        if pair.kind != "mirrored" and first.labels != second.labels:
            problem = "conflict"
        elif given and first.split != second.split:
            problem = "leak"
        collection.related.append(Related(first.video_id, second.video_id, pair.kind, problem))
    if not given:
        _join(collection, pairs)
    if conflicting and not keep_conflicts:
        _refuse(collection, conflicting)
    _note_relations(collection)


def _conflicts(videos: Sequence[Known], pairs: Sequence[Duplicate]) -> dict[int, tuple[str, int]]:
    """{video: (kind, a video of the same content and another label)}.

    Identical files are compared as one: a copy of one of them is a copy of all. A mirrored "left" may rightly be a
    "right"; the same pictures are not two things.
    """
    first_of = {pair.second: pair.first for pair in pairs if pair.kind == "identical"}
    same: dict[int, list[int]] = defaultdict(list)
    for index in range(len(videos)):
        same[first_of.get(index, index)].append(index)
    found: dict[int, tuple[str, int]] = {}
    for pair in pairs:
        if pair.kind != "mirrored":
            alike = {*same[first_of.get(pair.first, pair.first)], *same[first_of.get(pair.second, pair.second)]}
            for index in alike:
                other = next((i for i in sorted(alike) if videos[i].video.labels != videos[index].video.labels), None)
                if other is not None:
                    found.setdefault(index, (pair.kind, other))
    return found


_OTHERWISE = " (or --no_duplicates, where they are not the same)"


def _in_group(known: Known, group: str | None) -> Known:
    if group == known.video.group:
        return known
    return replace(known, video=replace(known.video, group=group))


def _refuse(collection: Collection, conflicting: dict[int, tuple[str, int]]) -> None:
    videos = collection.videos
    for index, (kind, other_index) in sorted(conflicting.items()):
        other = videos[other_index].video
        what = "the same file" if kind == "identical" else "the same content"
        collection.rejected.append(
            (
                videos[index].video.video_id,
                f"is {what} as {other.video_id}, which is labelled {', '.join(map(repr, other.labels))}: correct one label, "
                f"or pass --keep_conflicts{_OTHERWISE if kind != 'identical' else ''}",
            )
        )
    collection.conflicting = [known for index, known in enumerate(videos) if index in conflicting]
    collection.videos = [known for index, known in enumerate(videos) if index not in conflicting]
    if not collection.videos:
        raise UserError(
            f"every video is there under another label too: correct the labels, or pass --keep_conflicts{_OTHERWISE}."
        )


def _note_relations(collection: Collection) -> None:
    kinds = Counter(related.kind for related in collection.related)
    if kinds:
        found = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        otherwise = "; where they do not: --no_duplicates" if set(kinds) - {"identical"} else ""
        collection.notes.append(f"pairs of videos that share content: {found}{otherwise}")
    for problem, words in (
        ("conflict", "the same content under two labels"),
        ("leak", "the same content in two of the given splits, so that the test flatters the model"),
    ):
        pairs = [related for related in collection.related if related.problem == problem]
        if pairs:
            first = pairs[0]
            collection.notes.append(
                f"{words}: {plural(len(pairs), 'pair')}, the first {first.first} and {first.second}"
            )


def _join(collection: Collection, pairs: Sequence[Duplicate]) -> None:
    """Groups from shared content, and from what names say ("_g12_c03", "Copy of x") where nobody said better."""
    videos = collection.videos
    ids, groups = [known.video.video_id for known in videos], [known.video.group for known in videos]
    hints = name_groups(ids) if not any(group is not None for group in groups) else {}
    if hints:
        collection.notes.append(
            f"{len(hints)} videos are in {len(set(hints.values()))} groups by their names, as {min(hints.values())!r}; "
            "--group_by says it otherwise"
        )
    joined = join_groups(ids, groups, pairs, hints)
    collection.videos = [_in_group(known, group) for known, group in zip(videos, joined)]


def name_classes(collection: Collection, found: Found) -> None:
    """Sets `labels`: sorted; as numbers when all are numbers, so that 10 follows 9. Raises `UserError` for one."""
    labels = {label for known in collection.videos for label in known.video.labels}
    if len(labels) < 2 and not found.multi_label:
        others = f" ({len(collection.rejected)} were rejected, the first: {': '.join(collection.rejected[0])})" if collection.rejected else ""  # fmt: skip
        raise UserError(
            f"all {len(collection.videos)} videos have the one class {labels.pop()!r}{others}: a classifier needs two."
        )
    numbers = all(re.fullmatch(r"\d{1,18}", label) for label in labels)
    collection.labels = sorted(labels, key=lambda label: (int(label) if numbers else 0, label))
    gone = sorted({label for video in found.videos for label in video.labels} - labels)
    if gone:
        names = shown(list(map(repr, gone)))
        collection.notes.append(f"gone, since all its videos were rejected: {plural(len(gone), 'class')}, {names}")
