"""python -m finetune.predict MODEL INPUT [INPUT...]: the likeliest labels of each video.

With --timeline the labels over the time of a long video; with --stream, of frames that come from a camera or a pipe.
"""

# torch and transformers take seconds to import: what needs them is imported where it is used, so that --help and wrong
# arguments are answered at once, and the processes that decode, which import this file again, start quickly.
from __future__ import annotations

import sys

from data_prep.sigterm import interruptible

if __name__ == "__main__":
    interruptible()  # before what takes seconds to import

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.errors import CommandLine, UserError, exit_cleanly
from data_prep.layouts.labels import clean
from data_prep.layouts.source import series_notes
from data_prep.lock import only_writer
from data_prep.workers import available_cores
from finetune.results.output import check_spares
from finetune.use.inputs import find_inputs
from finetune.use.model_flags import add_model_flags, load_classifier, not_negative, positive, positive_seconds
from finetune.use.rows import APPENDED, Row, as_written, done_before, writer_to

_FORMATS = {
    "a prediction of whole videos": ("table", "json", "jsonl", "csv"),
    "--timeline": ("table", "json", "csv", "srt"),
    "--stream": ("table", "jsonl"),
}
_FEW = 3  # videos that are read before other processes would have started


def main(argv: list[str] | None = None) -> list[Row]:
    """Prints or writes and returns one row per video: `video` and `predictions`, or `video` and `error`.

    With --timeline a row per segment; with --stream the last row.
    """
    options = parse_arguments(argv)
    with only_writer(("--output", options.output), ("--picture", options.picture)):
        return predict(options)


def predict(options: argparse.Namespace) -> list[Row]:
    if options.timeline:
        check_spares_inputs(options, ())
        classifier = load_classifier(options)
        from finetune.use import timeline

        return timeline.run(options, classifier)
    if options.stream:
        classifier = load_classifier(options)
        from finetune.use import live

        return live.run(options, classifier)
    return predict_videos(options)


def predict_videos(options: argparse.Namespace) -> list[Row]:
    sources = find_inputs(options.inputs)
    check_spares_inputs(options, [source.path for source in sources])
    classifier = load_classifier(options)
    from finetune.clips.views import Views
    from finetune.use.classifier import Ask
    from finetune.use.resuming import settings_of

    ask = Ask(options.top_k, Views.parse(options.views), options.average, options.batch_size)
    before: set[str] = set()
    if options.output is not None and options.format in APPENDED:
        before = done_before(options.output, options.format, settings_of(classifier, ask), len(classifier.labels))
    todo = [source for source in sources if as_written(source.path) not in before]
    if before:
        print(f"{len(sources) - len(todo)} of {len(sources)} videos are in {options.output} already", file=sys.stderr)
    for note in series_notes(source.path for source in todo):
        print(note, file=sys.stderr)
    num_workers = options.num_workers
    if num_workers is None:
        num_workers = 0 if len(todo) <= _FEW else available_cores()
    ask = replace(ask, num_workers=num_workers)
    rows = []
    with writer_to(options.output, options.format) as write, _progress(len(todo), options.output) as progress:
        for row in classifier.rows(todo, ask):
            write(row)
            rows.append(row)
            progress.update()
    tell_outcome(rows, are_all=not before)
    return rows


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    about, more = (__doc__ or "").split("\n\n", 1)
    parser = CommandLine(prog="python -m finetune.predict", description=about, epilog=more)
    parser.add_argument("model", metavar="MODEL", help="TimeSformer checkpoint: a directory or a Hub id")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="video files, folders of them, quoted globs, lists (.csv, .tsv, .txt: path and optionally label), or - for paths on standard input, one a line")  # fmt: skip
    parser.add_argument("--top_k", type=positive, default=5, help="labels per video (default: 5)")
    parser.add_argument("--format", choices=("table", "json", "jsonl", "csv", "srt"), help="of the output (default: by --output's extension, else table)")  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="FILE", help="write there; jsonl and csv grow video by video, and the same command goes on where it was")  # fmt: skip
    parser.add_argument("--views", default="1x1", help="clips x crops of each video which are averaged, as 4x1 or 10x3 (default: 1x1)")  # fmt: skip
    parser.add_argument("--average", choices=("logits", "probabilities"), default="logits", help="what is averaged over the views (default: logits, as evaluation does)")  # fmt: skip
    parser.add_argument("--batch_size", type=positive, default=4, help="clips the model sees at once (default: 4)")
    parser.add_argument("--num_workers", type=not_negative, help=f"processes that decode; 0: none but this one (default: {available_cores()}, the cores; 0 for up to {_FEW} videos)")  # fmt: skip
    add_model_flags(parser)
    _add_time_flags(parser)
    options = parser.parse_args(argv)
    _check_output(options)
    return options


def _add_time_flags(parser: argparse.ArgumentParser) -> None:
    times = parser.add_argument_group("over time")
    which = times.add_mutually_exclusive_group()
    which.add_argument("--timeline", action="store_true", help="segments of one label in a long video: start, end, label, score; table, json, csv or srt")  # fmt: skip
    which.add_argument("--stream", action="store_true", help="INPUT is -, a pipe, or a file that is still being written (MPEG-TS, Matroska, FLV, y4m; MJPEG counts as 25 frames a second): a line each stride; table or jsonl")  # fmt: skip
    times.add_argument("--window_seconds", type=positive_seconds, default=4.0, help="what the model sees at once: about as long as the videos it was trained on (default: 4)")  # fmt: skip
    times.add_argument("--stride_seconds", type=positive_seconds, help="from window to window (default: half a window)")
    times.add_argument("--min_score", type=float, default=0.0, help="--timeline: leave out segments below (default: 0)")
    times.add_argument("--picture", type=Path, metavar="FILE.png", help="--timeline: draw the scores over time")
    times.add_argument("--patience_seconds", type=float, default=5.0, help="--stream: a file ends when it has not grown for so long (default: 5)")  # fmt: skip


def _check_output(options: argparse.Namespace) -> None:
    """Fills in what depends on other flags. Raises `UserError` where flags do not go together."""
    what = "--timeline" if options.timeline else "--stream" if options.stream else "a prediction of whole videos"
    forms = _FORMATS[what]
    extension = options.output.suffix[1:] if options.output else ""
    options.format = options.format or (extension if extension in forms else "table")
    if options.format not in forms:
        raise UserError(f"--format {options.format} does not go with {what}, expected one of {', '.join(forms)}.")
    for flag, path in (("--output", options.output), ("--picture", options.picture)):
        if path is not None and not path.parent.is_dir():
            raise UserError(f"{flag} {path}: there is no folder {path.parent}.")
    if (options.timeline or options.stream) and len(options.inputs) != 1:
        raise UserError(f"{what} takes one INPUT, got {len(options.inputs)}.")
    if options.stream and options.output is not None:
        raise UserError("--stream prints its lines: leave --output out, and redirect them.")
    options.stride_seconds = options.stride_seconds or options.window_seconds / 2


def _progress(total: int, output: Path | None) -> Any:
    """On stderr where that is a terminal, unless the rows themselves appear there one by one."""
    rows_show_it = output is None and sys.stdout.isatty()
    return tqdm(total=total, unit="video", desc="predicting", file=sys.stderr, disable=rows_show_it or None)


def check_spares_inputs(options: argparse.Namespace, videos: Sequence[str]) -> None:
    """Raises `UserError` where an output would take the place of what is read."""
    for flag, path in (("--output", options.output), ("--picture", options.picture)):
        check_spares(path, flag, [*options.inputs, *videos])


def tell_outcome(rows: list[Row], are_all: bool = True) -> None:
    """On stderr: how many failed, and how many labels of a list were met. Raises `UserError` where all failed.

    Where they are not all, because an output held others, there is no such error.
    """
    failed = [row for row in rows if "error" in row]
    if rows and are_all and len(failed) == len(rows):
        raise UserError(f"none of the {len(rows)} videos could be read; the first: {failed[0]['error']}.")
    if failed:
        print(f"{len(failed)} of {len(rows)} videos could not be read: see their errors", file=sys.stderr)
    labelled = [row for row in rows if "true_label" in row and "predictions" in row]
    if labelled:
        right = sum(map(_is_right, labelled))
        several = any("given" in one for one in labelled[0]["predictions"])
        print(f"{'all labels right' if several else 'top-1'}: {right} of {len(labelled)} labelled videos", file=sys.stderr)  # fmt: skip


def _is_right(row: Row) -> bool:
    """Whether the first label is the true one; of several, whether those that are given are the true ones (`a|b`). Labels
    are read as data_prep reads them.
    """
    predictions = row["predictions"]
    if "given" not in predictions[0]:
        return bool(predictions[0]["label"] == clean(row["true_label"]))
    true = {clean(label) for label in row["true_label"].split("|")} - {""}
    return {one["label"] for one in predictions if one["given"]} == true


if __name__ == "__main__":
    sys.exit(exit_cleanly(main)())
