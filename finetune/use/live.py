"""Predictions of frames as they come: from standard input, a pipe, or a file that is still being written."""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from data_prep.errors import UserError
from data_prep.limits import VideoError
from data_prep.video import open_stream
from finetune.use.classifier import Classifier
from finetune.use.rows import named
from finetune.use.timeline import UNKNOWN_FRAME_RATE, clock, score_windows
from finetune.use.windows import slide_for

_POLL_SECONDS = 0.1


class Growing:
    """Bytes of a descriptor as they come; of a file, also those that are written later, until `patience` s bring none."""

    def __init__(self, descriptor: int, patience: float):
        self.descriptor = descriptor
        self.patience = patience if stat.S_ISREG(os.fstat(descriptor).st_mode) else 0.0

    def read(self, size: int) -> bytes:
        deadline = time.monotonic() + self.patience
        while True:
            data = os.read(self.descriptor, size)
            if data:
                return data
            if time.monotonic() >= deadline:
                self.patience = 0.0  # the end, after which FFmpeg asks several times more
                return data
            time.sleep(_POLL_SECONDS)


@contextmanager
def _opened(name: str, patience: float) -> Iterator[Growing]:
    if name == "-":
        yield Growing(sys.stdin.fileno(), patience)
        return
    try:
        descriptor = os.open(name, os.O_RDONLY)
    except (OSError, ValueError) as error:
        raise UserError(f"--stream {name} cannot be read: {getattr(error, 'strerror', error)}.") from error
    try:
        kind = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind)):
            raise UserError(f"--stream {name} is neither a pipe nor a file: send a camera's frames through a pipe (README).")  # fmt: skip
        yield Growing(descriptor, patience)
    finally:
        os.close(descriptor)


def run(options: argparse.Namespace, classifier: Classifier) -> list[dict[str, Any]]:
    """`--stream` of the command line: prints a line for each window as it is full. Returns the last row. Raises `UserError`."""
    (name,) = options.inputs
    last: list[dict[str, Any]] = []  # not all: a stream may have no end
    try:
        with _opened(name, options.patience_seconds) as file, open_stream(file) as video:
            fps = video.fps or UNKNOWN_FRAME_RATE
            slide = slide_for(classifier.sampling, classifier.num_frames, fps, options.window_seconds, options.stride_seconds)  # fmt: skip
            for starts, scores in score_windows(classifier, _without_history(video), slide, 1, to_the_end=False):
                predictions = classifier.ranked(scores[0], options.top_k)
                row = {"start": starts[0], "end": starts[0] + slide.window_seconds, "predictions": predictions}
                print(_line(row, options.format), flush=True)
                last = [row]
    except (VideoError, ValueError) as error:
        raise UserError(f"--stream {name} {error}.") from error
    if not last:
        raise UserError(f"--stream {name} ended before its first window of {options.window_seconds:g} s was full.")
    return last


def _without_history(video: Any) -> Iterator[Any]:
    for frame in video:
        video.pts.clear()  # kept for measuring a file
        yield frame


def _line(row: dict[str, Any], form: str) -> str:
    if form == "jsonl":
        return json.dumps(row, allow_nan=False)
    predictions = ", ".join(f"{one['score']:.0%} {named(one)}" for one in row["predictions"])
    return f"{clock(row['start'])}  {clock(row['end'])}  {predictions}"
