"""The report's pictures as PNG: charts of a collection, and contact sheets of its classes.

Labels and file names are untrusted. matplotlib would read `$...$` as a formula and warn about letters its font lacks:
`drawable` takes care of both.
"""

from __future__ import annotations

import io
import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from data_prep.letters import drawable
from data_prep.report.facts import PageFacts, plural, show_seconds, visible

_MAX_NAMED = 40  # classes that get a bar and a name each
_MAX_BARS = 12  # codecs or frame rates that get a bar each
_MAX_DOTS = 2000  # frame sizes in the scatter
_COLORS = ("#3a6fb0", "#e0912b", "#3f9b76", "#a05fa8", "#8a6d52", "#5c6b7a")  # told apart by colour-blind people too
_SIZE = (5.2, 3.2)  # in; small, so that the letters stay readable on a phone
_DPI = 150
_DIM = 0.4  # brightness outside the square the model sees
_GAP = 2  # px between the frames of a strip


@dataclass(frozen=True)
class Chart:
    """A picture in `report/` and its words. No user text: the page puts `alt` into an attribute."""

    file: str
    title: str
    caption: str
    alt: str


def draw_charts(facts: PageFacts, folder: Path) -> list[Chart]:
    """Writes the PNG files into `folder`; classes come first. Nothing to draw gives no picture."""
    draws = (_classes, _durations, _sizes, _frame_rates, _codecs, _brightness, _decoding)
    return [chart for draw in draws if facts.videos and (chart := draw(facts, folder))]


def _classes(facts: PageFacts, folder: Path) -> Chart:
    many = len(facts.labels) > _MAX_NAMED
    height = _SIZE[1] if many else 1.3 + 0.27 * max(3, len(facts.labels))
    figure, axes = _figure((_SIZE[0], height))
    counts = np.array([[facts.counts[label, split] for split in facts.splits] for label in facts.labels])
    counts = counts.reshape(len(facts.labels), len(facts.splits))
    if many:
        counts = counts[np.argsort(-counts.sum(axis=1), kind="stable")]
        axes.stackplot(
            range(1, len(counts) + 1),
            counts.T,
            labels=[drawable(split, 12) for split in facts.splits],
            colors=_COLORS,
            step="mid",
            linewidth=0,
        )
        axes.set(xlabel="classes, largest first", ylabel="videos", xlim=(1, len(counts)), ylim=(0, None))
    else:
        left = np.zeros(len(counts))
        for index, split in enumerate(facts.splits):
            color = _COLORS[index % len(_COLORS)]
            axes.barh(range(len(counts)), counts[:, index], left=left, label=drawable(split, 12), color=color)
            left += counts[:, index]
        names = [f"{drawable(label, 22)}  {number}" for number, label in enumerate(facts.labels, 1)]
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel="videos", ylim=(len(names) - 0.5, -0.5))
    figure.legend(loc="outside upper left", ncols=min(4, len(facts.splits)), frameon=False)
    sizes = counts.sum(axis=1) if counts.size else np.zeros(1, int)
    caption = f"Smallest class {sizes.min():,}, largest {sizes.max():,}, median {np.median(sizes):g} videos."
    return _save(figure, folder, "classes.png", "Classes and splits", caption)


def _durations(facts: PageFacts, folder: Path) -> Chart | None:
    values = [video.duration for video in facts.videos if video.duration and math.isfinite(video.duration)]
    if not values:
        return None
    figure, axes = _figure()
    wide = max(values) > 20 * min(values)
    spaced = np.geomspace if wide else np.linspace
    _histogram(axes, values, spaced(min(values), max(values), 31))
    if wide:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="seconds" + (" (logarithmic)" if wide else ""), ylabel="videos")
    caption = f"{_spread(values, show_seconds)}, {show_seconds(sum(values))} in all.{_unknown(facts, values)}"
    return _save(figure, folder, "durations.png", "Durations", caption)


def _sizes(facts: PageFacts, folder: Path) -> Chart:
    sizes = Counter((video.width, video.height) for video in facts.videos).most_common()
    figure, axes = _figure()
    widths, heights = (np.array([size[axis] for size, _ in sizes[:_MAX_DOTS]]) for axis in (0, 1))
    area = [16 + 320 * count / sizes[0][1] for _, count in sizes[:_MAX_DOTS]]
    axes.scatter(widths, heights, s=area, alpha=0.65, color=_COLORS[0], edgecolor="white", linewidth=0.6)
    end = 1.15 * max(widths.max(), heights.max())
    axes.plot([0, end], [0, end], color="#999999", linewidth=0.8, linestyle=":")  # squares lie on it
    axes.set(xlabel="width, px", ylabel="height, px", xlim=(0, end), ylim=(0, end))
    usual = ", ".join(f"{width} x {height} ({count:,})" for (width, height), count in sizes[:4])
    caption = f"{plural(len(sizes), 'size')}, width x height; the most common: {usual}. Squares lie on the dotted line."
    return _save(figure, folder, "sizes.png", "Frame sizes", caption)


def _frame_rates(facts: PageFacts, folder: Path) -> Chart | None:
    rates = [video.fps for video in facts.videos if video.fps and math.isfinite(video.fps)]
    if not rates:
        return None
    figure, axes = _figure()
    counts = Counter(f"{rate:.4g}" for rate in rates)
    if len(counts) <= _MAX_BARS:
        names = sorted(counts, key=float)
        axes.bar(
            range(len(names)), [counts[name] for name in names], width=min(0.8, 0.16 * len(names)), color=_COLORS[0]
        )
        axes.set_xticks(range(len(names)), names, rotation=45 if len(names) > 7 else 0)
        axes.set_xlim(-0.7, len(names) - 0.3)
    else:
        _histogram(axes, rates, np.linspace(min(rates), max(rates), 41))
    axes.set(xlabel="frames per second", ylabel="videos")
    caption = f"{_spread(rates, '{:.4g}'.format)} frames per second.{_unknown(facts, rates)}"
    return _save(figure, folder, "frame_rates.png", "Frame rates", caption)


def _codecs(facts: PageFacts, folder: Path) -> Chart:
    codecs = Counter(video.codec for video in facts.videos).most_common()
    bars = [(drawable(codec, 16), count) for codec, count in codecs[:_MAX_BARS]]
    if len(codecs) > _MAX_BARS:
        bars.append(("others", sum(count for _, count in codecs[_MAX_BARS:])))
    figure, axes = _figure()
    drawn = axes.barh(
        range(len(bars)), [count for _, count in bars], height=min(0.8, 0.2 * len(bars)), color=_COLORS[0]
    )
    axes.bar_label(drawn, fmt="{:,.0f}", padding=3)
    axes.set_yticks(range(len(bars)), [name for name, _ in bars])
    axes.set(xlabel="videos", ylim=(len(bars) - 0.4, -0.6))
    axes.margins(x=0.15)
    return _save(figure, folder, "codecs.png", "Codecs", f"{plural(len(codecs), 'codec')} in the source files.")


def _brightness(facts: PageFacts, folder: Path) -> Chart | None:
    values = [video.brightness for video in facts.videos if video.brightness is not None]
    if not values:
        return None
    figure, axes = _figure()
    _histogram(axes, values, np.linspace(0, 255, 35))
    axes.set(xlabel="mean brightness of a video, 0 black to 255 white", ylabel="videos", xlim=(0, 255))
    caption = f"{_spread(values, '{:.0f}'.format)}.{_unknown(facts, values)}"
    return _save(figure, folder, "brightness.png", "Brightness", caption)


def _decoding(facts: PageFacts, folder: Path) -> Chart | None:
    values = [1000 * video.decode_seconds for video in facts.videos]
    if not max(values) > 0:
        return None
    figure, axes = _figure()
    _histogram(axes, values, np.linspace(0, max(values), 31))
    axes.set(xlabel="CPU time to decode a video once, ms", ylabel="videos", xlim=(0, None))
    caption = f"{_spread(values, '{:,.3g}'.format)} ms, {show_seconds(sum(values) / 1000)} in all on one core."
    return _save(figure, folder, "decoding.png", "Decoding", caption)


def _figure(size: tuple[float, float] = _SIZE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _histogram(axes: Axes, values: Sequence[float], edges: np.ndarray) -> None:
    """Bars over `edges`, which rise; values that are all the same get one bar around them."""
    if edges[0] == edges[-1]:
        edges = np.linspace(0, 2 * edges[0], 12)
    axes.hist(values, bins=edges.tolist(), color=_COLORS[0], edgecolor="white", linewidth=0.6)


def _save(figure: Figure, folder: Path, file: str, title: str, caption: str) -> Chart:
    figure.savefig(folder / file, dpi=_DPI)
    return Chart(file, title, caption, f"Chart: {title.lower()}. {caption}")


def _spread(values: Sequence[float], show: Callable[[float], str]) -> str:
    if show(min(values)) == show(max(values)):
        return f"All {show(values[0])}"
    return f"{show(min(values))} to {show(max(values))}, median {show(statistics.median(values))}"


def _unknown(facts: PageFacts, known: Sequence[float]) -> str:
    missing = len(facts.videos) - len(known)
    return f" Unknown for {plural(missing, 'video')}." if missing else ""


def make_strip(frames: np.ndarray, box: int) -> list[Image.Image]:
    """Frames uint8 RGB `(n, h, w, 3)`, each within `box` x `box` px; dimmed outside the middle square of the frame."""
    height, width = frames.shape[1:3]
    scale = box / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    pictures = []
    for frame in frames:
        picture = Image.fromarray(np.ascontiguousarray(frame)).resize(size, Image.Resampling.BOX)
        side = min(size)
        left, top = (size[0] - side) // 2, (size[1] - side) // 2
        square = (left, top, left + side, top + side)
        dimmed = picture.point([round(value * _DIM) for value in range(256)] * 3)
        dimmed.paste(picture.crop(square), square)
        pictures.append(dimmed)
    return pictures


def join_strip(pictures: Sequence[Image.Image]) -> Image.Image:
    """The pictures, all of one size, in a row."""
    width, height = pictures[0].size
    row = Image.new("RGB", (len(pictures) * (width + _GAP) - _GAP, height), "white")
    for index, picture in enumerate(pictures):
        row.paste(picture, (index * (width + _GAP), 0))
    return row


def encode_strip(pictures: Sequence[Image.Image], max_bytes: int) -> bytes:
    """JPEG of `join_strip`, at the best of four qualities that fits `max_bytes`; the lowest where none does."""
    row, data = join_strip(pictures), b""
    for quality in (82, 65, 45, 25):
        buffer = io.BytesIO()
        row.save(buffer, format="JPEG", quality=quality, optimize=True)
        data = buffer.getvalue()
        if len(data) <= max_bytes:
            break
    return data


def save_contact_sheet(path: Path, title: str, rows: Sequence[tuple[Sequence[Image.Image], str]]) -> None:
    """PNG of a class: rows of (pictures, caption) under the class's name. Pillow draws it: no formulas, no warnings."""
    pad, line = 10, 20
    large, small = (ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size) for size in (17, 12))
    strips = [join_strip(pictures) for pictures, _ in rows]
    width = max([600, *(strip.width for strip in strips)]) + 2 * pad
    sheet = Image.new("RGB", (width, 44 + sum(strip.height + line + pad for strip in strips)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((pad, pad), _fitted(title, large, width - 2 * pad), font=large, fill="#111111")
    top = 40
    for strip, (_, caption) in zip(strips, rows):
        draw.text((pad, top), _fitted(caption, small, width - 2 * pad), font=small, fill="#333333")
        sheet.paste(strip, (pad, top + line))
        top += strip.height + line + pad
    sheet.save(path)


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    text = visible(text)
    while font.getlength(text) > width and len(text) > 2:
        text = text[: len(text) * 9 // 10 - 1] + "…"
    return text
