"""`report.html`: one file that shows a person what is in their dataset, and the pictures of `report/`.

The page holds no script, loads nothing and states so in its Content-Security-Policy. Names, labels and reasons are
untrusted: Jinja escapes them, the filter `name` makes what is invisible visible and isolates the writing direction, and
no attribute, style or file name is made of them.

However many videos there are, the page stays small: strips, rows and bytes of pictures are bounded by the constants
below, and frames are read only of the videos that are shown.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from data_prep.report.advice import advice
from data_prep.report.charts import Chart, draw_charts, encode_strip, make_strip, save_contact_sheet
from data_prep.report.facts import (
    PageFacts,
    Related,
    VideoFact,
    kind_of_reason,
    plural,
    show_bytes,
    show_seconds,
    visible,
)
from data_prep.report.pairs import of_many_groups, outcome, urgent_first

__all__ = ["PageFacts", "Related", "VideoFact", "advice", "write_page"]

ReadFrames = Callable[[str, list[float]], "np.ndarray | None"]

MAX_STRIPS = 400  # in the contact sheets
MAX_STRIPS_PER_CLASS = 5
MAX_PAIRS = 20  # related videos shown as pictures
MAX_ROWS = 200  # of a table of files, pairs or groups
MAX_CLASS_ROWS = 1000
MAX_KINDS = 40  # of reasons why a file was refused
_OPEN_CLASSES = 12  # the other contact sheets and longer tables are folded
_STRIP_BYTES = 8_000_000  # of all strips together; base64 makes it a third more

POSITIONS = [(index + 0.5) / 8 for index in range(8)]  # the middle of each eighth of a video


@dataclass(frozen=True)
class Strip:
    """A video in pictures: two JPEGs of four frames each as data URIs, which a phone stacks; none if unreadable."""

    video_id: str
    images: list[str]
    facts: VideoFact | None  # None: the video was refused
    reason: str = ""


@dataclass(frozen=True)
class Sheet:
    """The strips of one class. `number` counts classes from 1."""

    number: int
    label: str
    total: int
    strips: list[Strip]


@dataclass(frozen=True)
class Shown:
    """The first rows of something longer."""

    title: str
    rows: list[Any]
    total: int

    @property
    def more(self) -> int:
        return self.total - len(self.rows)


class _Strips:
    """Reads the frames of a video and makes its pictures, within the page's budget of bytes."""

    def __init__(self, read_frames: ReadFrames, num_strips: int):
        self.read_frames = read_frames
        self.box = 132 if num_strips <= 120 else 100  # px; eight of the larger fill the page's width
        self.bytes_per_half = _STRIP_BYTES // max(1, 2 * num_strips)

    def pictures(self, video_id: str) -> list[Image.Image]:
        frames = self.read_frames(video_id, POSITIONS)
        return [] if frames is None or not len(frames) else make_strip(frames, self.box)

    def encoded(self, pictures: Sequence[Image.Image]) -> list[str]:
        halves = [half for half in (pictures[:4], pictures[4:]) if half]
        return [_data_uri("jpeg", encode_strip(half, self.bytes_per_half)) for half in halves]


def write_page(directory: Path, facts: PageFacts, read_frames: ReadFrames) -> None:
    """Writes `directory/report.html` and the PNG files of `directory/report`.

    `read_frames(video_id, positions)` gives uint8 RGB `(n, h, w, 3)` at relative positions 0..1, or None when it
    cannot. It is called for the videos that are shown, some of them refused ones.
    """
    folder = directory / "report"
    folder.mkdir(parents=True, exist_ok=True)
    charts = draw_charts(facts, folder)
    strips = _Strips(read_frames, _num_strips(facts))
    page = _environment().get_template("report.html.jinja")
    text = page.render(
        facts=facts,
        tiles=_tiles(facts),
        advice=advice(facts),
        charts=[(chart, _embedded(folder, chart)) for chart in charts],
        classes=_class_rows(facts),
        sheets=_sheets(facts, strips, folder),
        pairs=_pairs(facts, strips),
        related=Shown("", urgent_first(facts.related)[:MAX_ROWS], len(facts.related)),
        kinds=Counter(outcome(pair) for pair in facts.related).most_common(),
        rejected=_rejected(facts.rejected),
        groups=_groups(facts),
        open_classes=_OPEN_CLASSES,
    )
    (directory / "report.html").write_text(text, encoding="utf-8")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        name=_name,
        flags=_flags,
        outcome=outcome,
        seconds=show_seconds,
        bytes=show_bytes,
        plural=plural,
        visible=visible,
    )
    return environment


def _name(text: str) -> Markup:
    # <bdi> keeps a right-to-left name from turning round what stands beside it.
    return Markup("<bdi>{}</bdi>").format(escape(visible(text)))


def _flags(sentence: str) -> Markup:
    """The sentence with options such as --group_by as code, which does not break after its dashes."""
    return Markup(re.sub(r"(--[a-z_]+)", r"<code>\1</code>", str(escape(sentence))))


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _embedded(folder: Path, chart: Chart) -> str:
    return _data_uri("png", (folder / chart.file).read_bytes())


def _tiles(facts: PageFacts) -> list[tuple[str, str, str]]:
    """(what, number, detail) of the headline."""
    per_split = Counter(video.split for video in facts.videos)
    hours = sum(video.duration or 0.0 for video in facts.videos) / 3600
    grouped = sum(len(videos) for videos in facts.groups.values())
    source = sum(video.num_bytes for video in facts.videos)
    problems = Counter(pair.problem for pair in facts.related)
    totals = [facts.total(label) for label in facts.labels]
    return [
        ("videos", f"{len(facts.videos):,}", ", ".join(f"{split} {per_split[split]:,}" for split in facts.splits)),
        ("classes", f"{len(facts.labels):,}", f"{min(totals):,} to {max(totals):,} videos each" if totals else ""),
        ("hours", f"{hours:,.2f}" if hours < 10 else f"{hours:,.0f}", f"{show_bytes(source)} of files"),
        ("refused", f"{len(facts.rejected):,}", "files and lines, with their reasons"),
        ("groups", f"{len(facts.groups):,}", f"hold {plural(grouped, 'video')}"),
        (
            "related",
            plural(len(facts.related), "pair"),
            f"conflicts {problems['conflict']:,}, leaks {problems['leak']:,}",
        ),
        ("stored", show_bytes(facts.stored_bytes), _stored(facts)),
        ("took", show_seconds(facts.wall_seconds), f"on {plural(facts.num_proc, 'process')}"),
    ]


def _stored(facts: PageFacts) -> str:
    return f"as {visible(facts.store, 20)}" if facts.stored_bytes else "the files stay where they are"


def _class_rows(facts: PageFacts) -> Shown:
    rows = [
        (number, label, [facts.counts[label, split] for split in facts.splits], facts.total(label))
        for number, label in enumerate(facts.labels[:MAX_CLASS_ROWS], 1)
    ]
    return Shown("", rows, len(facts.labels))


def _per_class(facts: PageFacts) -> int:
    return max(1, min(MAX_STRIPS_PER_CLASS, MAX_STRIPS // max(1, len(facts.labels))))


def _num_strips(facts: PageFacts) -> int:
    return min(MAX_STRIPS, len(facts.labels) * _per_class(facts)) + 2 * min(MAX_PAIRS, len(facts.related))


def _sheets(facts: PageFacts, strips: _Strips, folder: Path) -> list[Sheet]:
    """A contact sheet for each class (for the first `MAX_STRIPS` of them), on the page and as PNG."""
    by_label: dict[str, list[VideoFact]] = {label: [] for label in facts.labels[:MAX_STRIPS]}
    for video in facts.videos:
        for label in dict.fromkeys(video.labels):
            if label in by_label:
                by_label[label].append(video)
    sheets = []
    for number, (label, videos) in enumerate(by_label.items(), 1):
        chosen = _spread_over_splits(videos, facts.splits, _per_class(facts))
        pictures = [strips.pictures(video.video_id) for video in chosen]
        shown = [Strip(video.video_id, strips.encoded(row), video) for video, row in zip(chosen, pictures)]
        sheets.append(Sheet(number, label, len(videos), shown))
        rows = [(row, _caption(video)) for video, row in zip(chosen, pictures) if row]
        if rows:
            save_contact_sheet(folder / f"contact_{number}_{_slug(label)}.png", f"{number}  {label}", rows)
    return sheets


def _spread_over_splits(videos: list[VideoFact], splits: list[str], count: int) -> list[VideoFact]:
    """At most `count` videos: by turns from each split, evenly spaced within it, the same every time."""
    queues = []
    for split in splits:
        found = sorted((video for video in videos if video.split == split), key=lambda video: video.video_id)
        num_taken = min(count, len(found))
        queues.append([found[index * len(found) // num_taken] for index in range(num_taken)])
    turns = [queue[turn] for turn in range(count) for queue in queues if turn < len(queue)]
    return sorted(turns[:count], key=lambda video: splits.index(video.split))


def _caption(video: VideoFact) -> str:
    duration = "unknown duration" if video.duration is None else show_seconds(video.duration)
    return f"{visible(video.video_id, 90)}   {video.split}, {duration}, {video.width} x {video.height}"


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", label.lower())[:40].strip("_") or "class"


def _pairs(facts: PageFacts, strips: _Strips) -> list[tuple[Related, list[Strip]]]:
    group_of = {video.video_id: video.group for video in facts.videos if video.group is not None}
    pairs = of_many_groups(facts.related, group_of)[:MAX_PAIRS]
    wanted = {video_id for pair in pairs for video_id in (pair.first, pair.second)}
    videos = {video.video_id: video for video in facts.videos if video.video_id in wanted}
    reasons = {path: reason for path, reason in facts.rejected if path in wanted}
    encoded = {video_id: strips.encoded(strips.pictures(video_id)) for video_id in sorted(wanted)}

    def strip(video_id: str) -> Strip:
        return Strip(video_id, encoded[video_id], videos.get(video_id), reasons.get(video_id, ""))

    return [(pair, [strip(pair.first), strip(pair.second)]) for pair in pairs]


def _rejected(rejected: list[tuple[str, str]]) -> list[Shown]:
    """Rows (path, reason) by kind of reason, the most frequent first. Reasons that differ by a number are one kind."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for path, reason in rejected:
        kinds.setdefault(kind_of_reason(reason), []).append((path, reason))
    ordered = sorted(kinds.items(), key=lambda item: -len(item[1]))
    shown = []
    for kind, rows in ordered[:MAX_KINDS]:
        title = rows[0][1] if len({reason for _, reason in rows}) == 1 else kind
        shown.append(Shown(title, rows[: MAX_ROWS // min(MAX_KINDS, len(ordered))], len(rows)))
    if len(ordered) > MAX_KINDS:
        shown.append(Shown("other reasons", [], sum(len(rows) for _, rows in ordered[MAX_KINDS:])))
    return shown


def _groups(facts: PageFacts) -> Shown:
    """Groups of several videos as (name, videos, splits): those that lie in two splits first, then the largest."""
    several = [(group, videos) for group, videos in facts.groups.items() if len(videos) > 1]
    rows = [(group, len(videos), sorted({video.split for video in videos})) for group, videos in several]
    rows.sort(key=lambda row: (-(len(row[2]) > 1), -row[1]))
    title = f"{plural(len(rows), 'group')} of several videos, {len(facts.groups) - len(rows):,} of one video"
    return Shown(title, rows[:MAX_ROWS], len(rows))
