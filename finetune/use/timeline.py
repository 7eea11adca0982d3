"""What happens when, in a long video: scores of a sliding window, and the segments of one label that they make."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from data_prep.errors import UserError, printable
from data_prep.letters import drawable
from data_prep.limits import MAX_FRAMES, VideoError
from data_prep.measure import MAX_DURATION_SECONDS
from data_prep.video import open_video
from finetune.results.output import csv_cell, write_bytes
from finetune.use.rows import write_text
from finetune.use.windows import Slide, slide_for, sliding_clips

if TYPE_CHECKING:
    from finetune.use.classifier import Classifier

UNKNOWN_FRAME_RATE = 25.0
_MOST_CURVES, _MOST_POINTS = 8, 500  # labels that a picture shows, and points of each


@dataclass(frozen=True)
class Segment:
    """A label from `start` to `end` (s), and the mean of its scores there."""

    start: float
    end: float
    label: str
    score: float


@dataclass(frozen=True)
class Timeline:
    """Scores float32 `(strides, num_labels)`: row i is of the time from i to i + 1 `stride_seconds`."""

    labels: list[str]
    stride_seconds: float
    duration: float  # s, until the last frame
    scores: np.ndarray
    thresholds: np.ndarray | None = None  # `(num_labels,)`, of a model of several labels per video

    def given(self) -> np.ndarray:
        """bool `(strides, num_labels)`: the likeliest label, or of several all from their thresholds on."""
        if self.thresholds is not None:
            return self.scores >= self.thresholds
        return np.eye(len(self.labels), dtype=bool)[self.scores.argmax(1)]

    def segments(self, min_score: float = 0.0) -> list[Segment]:
        """Runs of strides that are given a label, by their start; of several labels per video they may overlap.

        Those below `min_score` are left out.
        """
        found, given = [], self.given()
        for label in np.flatnonzero(given.any(0)):
            for is_given, run in groupby(range(len(given)), key=lambda i: bool(given[i, label])):
                rows = list(run)
                start = rows[0] * self.stride_seconds
                end = min((rows[-1] + 1) * self.stride_seconds, max(self.duration, start))
                score = float(self.scores[rows, label].mean())
                if is_given and score >= min_score and end > start:
                    found.append(Segment(start, end, self.labels[label], score))
        return sorted(found, key=lambda one: (one.start, -one.score))


def make_timeline(
    classifier: Classifier,
    video: str,
    window_seconds: float,
    stride_seconds: float,
    batch_size: int = 4,
    progress: Callable[[float], Any] = lambda seconds: None,
) -> Timeline:
    """Decodes the file once, in order, and keeps no more than the open windows. `progress` hears of the time reached (s).

    The scores of a stride are the mean over the windows that cover it, which is what smooths them. Raises `UserError`.
    """
    seen = _Seen(progress)
    starts, scores = [], []
    try:
        with open_video(video, time_limit=math.inf) as opened:
            slide = slide_for(classifier.sampling, classifier.num_frames, opened.fps or UNKNOWN_FRAME_RATE, window_seconds, stride_seconds)  # fmt: skip
            for of_batch, found in score_windows(classifier, seen.frames(opened), slide, batch_size):
                starts += of_batch
                scores.append(found)
    except (VideoError, ValueError) as error:
        raise UserError(f"{video}: {error}.") from error
    if seen.num_frames == 0:
        raise UserError(f"{video}: no frame decodes.")
    if seen.num_frames == 1:
        raise UserError(f"{video}: has only one frame: it is a picture, not a video.")
    if not starts:  # a dense clip lies in the middle of its window
        raise UserError(f"{video}: lasts {seen.seconds:.2f} s, too short for a window of {window_seconds:g} s: pass a smaller --window_seconds.")  # fmt: skip
    smooth = mean_over_windows(np.array(starts), torch.cat(scores).numpy(), window_seconds, stride_seconds)
    return Timeline(classifier.labels, stride_seconds, seen.seconds, smooth, classifier.thresholds)


class _Seen:
    """Passes frames on, under the limits of a file, and knows how many they were and the time reached."""

    def __init__(self, progress: Callable[[float], Any]):
        self.progress, self.seconds, self.num_frames = progress, 0.0, 0

    def frames(self, video: Any) -> Iterator[Any]:
        for frame in video:
            self.num_frames = frame.index + 1
            if self.num_frames > MAX_FRAMES:
                raise VideoError(f"has more than {MAX_FRAMES} frames")
            if frame.seconds is not None:
                if frame.seconds > MAX_DURATION_SECONDS:
                    raise VideoError(f"lasts {frame.seconds / 3600:.0f} hours by its timestamps, more than 24")
                self.progress(frame.seconds)
                self.seconds = frame.seconds
            if hasattr(video, "pts"):
                video.pts.clear()  # kept for measuring a file, and here hours of them
            yield frame


def score_windows(
    classifier: Classifier, frames: Iterator[Any], slide: Slide, batch_size: int, to_the_end: bool = True
) -> Iterator[tuple[list[float], torch.Tensor]]:
    """Starts (s) and scores `(windows, num_labels)` of batch after batch."""
    size: tuple[int, int] | None = None

    def picture(frame: Any) -> torch.Tensor:
        nonlocal size
        size = size or frame.size  # a size that changes in mid-stream is scaled to the first
        return classifier.pixels(frame.rgb(size)[None])[0, 0]

    waiting: list[tuple[float, torch.Tensor]] = []
    for start, pictures in sliding_clips(frames, slide, picture, to_the_end):
        waiting.append((start, torch.stack(pictures)))
        if len(waiting) == batch_size:
            yield _scored(classifier, waiting)
            waiting = []
    if waiting:
        yield _scored(classifier, waiting)


def _scored(classifier: Classifier, windows: list[tuple[float, torch.Tensor]]) -> tuple[list[float], torch.Tensor]:
    starts, clips = zip(*windows)
    return list(starts), classifier.scores(torch.stack(clips))


def mean_over_windows(starts: np.ndarray, scores: np.ndarray, window: float, stride: float) -> np.ndarray:
    """Of each stride the mean of the scores of the windows that cover its middle; of a gap, the window before. The last
    stride is the one in which the last window ends.

    Windows of 2 s every 1 s with scores 0, 1, 0 give 0, 0.5, 0.5, 0.
    """
    num_strides = max(1, math.ceil((starts[-1] + window) / stride - 1e-6))
    rows = []
    for middle in (np.arange(num_strides) + 0.5) * stride:
        first, last = np.searchsorted(starts, [middle - window, middle], side="right")
        rows.append(scores[min(first, last - 1) : last].mean(0))
    return np.stack(rows)


def run(options: argparse.Namespace, classifier: Classifier) -> list[dict[str, Any]]:
    """`--timeline` of the command line: prints or writes the segments and the picture, returns the segments."""
    (video,) = options.inputs
    with tqdm(unit="s", desc="timeline", file=sys.stderr, disable=None) as progress:
        timeline = make_timeline(
            classifier, video, options.window_seconds, options.stride_seconds, options.batch_size,
            lambda seconds: progress.update(int(seconds) - progress.n),
        )  # fmt: skip
    segments = timeline.segments(options.min_score)
    for note in notes(timeline, segments, options.window_seconds, options.min_score):
        print(f"{printable(video)}: {note}", file=sys.stderr)
    write_text(options.output, as_text(timeline, segments, video, options.format))
    if options.picture is not None:
        plot_timeline(timeline, segments, options.picture)
    return [asdict(one) for one in segments]


def notes(timeline: Timeline, segments: list[Segment], window_seconds: float, min_score: float) -> list[str]:
    """What a reader of the segments would wonder about."""
    found = []
    if timeline.duration < window_seconds:
        found.append(f"lasts {timeline.duration:.2f} s, less than a window of {window_seconds:g} s, which its last frame fills")  # fmt: skip
    if not timeline.given().any():
        found.append("no segment: no label reaches its threshold")
    elif not segments:
        found.append(f"no segment: none has a score of {min_score:g} or more")
    return found


def as_text(timeline: Timeline, segments: list[Segment], video: str, form: str) -> str:
    """json, csv, srt (SubRip subtitles), or a table."""
    if form == "json":
        found = {"video": video, "duration": timeline.duration, "stride_seconds": timeline.stride_seconds}
        return json.dumps({**found, "segments": [asdict(one) for one in segments]}, indent=2, allow_nan=False) + "\n"
    if form == "csv":
        text = io.StringIO()
        rows = [(f"{one.start:.3f}", f"{one.end:.3f}", csv_cell(one.label), f"{one.score:.6f}") for one in segments]
        csv.writer(text, lineterminator="\n").writerows([("start", "end", "label", "score"), *rows])
        return text.getvalue()
    if form == "srt":
        blocks = (
            f"{number}\n{clock(one.start, ',')} --> {clock(one.end, ',')}\n{_as_subtitle(one.label)} ({one.score:.0%})\n"
            for number, one in enumerate(segments, start=1)
        )
        return "\n".join(blocks)
    return "".join(
        f"{clock(one.start)}  {clock(one.end)}  {one.score:7.2%}  {printable(one.label)}\n" for one in segments
    )


def _as_subtitle(label: str) -> str:
    """`label` without what players take for a tag, a command or the line of times: `<b>`, `{\\an8}`, `-->`."""
    return printable(label).translate(str.maketrans("<>{}", "‹›()"))


def clock(seconds: float, point: str = ".") -> str:
    """clock(3661.25) == "01:01:01.250" """
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}{point}{ms % 1000:03d}"


def plot_timeline(timeline: Timeline, segments: list[Segment], path: Path) -> None:
    """Scores over time of the labels that are given somewhere, most often first, and the segments as a band below; of
    several labels per video, which may overlap, a lane for each of those labels.
    """
    counts = timeline.given().sum(0)
    shown = [int(i) for i in np.argsort(-counts) if counts[i]] or [int(timeline.scores.mean(0).argmax())]
    shown = shown[:_MOST_CURVES]
    figure = Figure(figsize=(11, 4), layout="constrained")
    axes, band = figure.subplots(2, 1, sharex=True, height_ratios=(6, 1))
    # Of hours, means: a picture has no room for every stride.
    parts = np.array_split(timeline.scores, min(len(timeline.scores), _MOST_POINTS))
    starts = np.cumsum([0, *map(len, parts)])
    middles = (starts[1:] + starts[:-1]) / 2 * timeline.stride_seconds
    curves = np.stack([part.mean(0) for part in parts])
    for place, label in enumerate(shown):
        axes.plot(middles, curves[:, label], color=f"C{place}", label=drawable(timeline.labels[label]))
    places = {timeline.labels[label]: place for place, label in enumerate(shown)}
    for one in segments:
        lane = places.get(one.label)
        if timeline.thresholds is None:
            band.axvspan(one.start, one.end, color="0.7" if lane is None else f"C{lane}", linewidth=0)
        elif lane is not None:
            top = 1 - lane / len(shown)
            band.axvspan(one.start, one.end, top - 1 / len(shown), top, color=f"C{lane}", linewidth=0)
    axes.set(ylabel="score", ylim=(0, 1.02), xlim=(0, max(timeline.duration, timeline.stride_seconds)))
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    band.set(yticks=[], xlabel="time (s)", ylabel="label")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    write_bytes(path, buffer.getvalue())
