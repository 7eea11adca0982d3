"""An answer and where in the clip it came from, as a video and as a strip of pictures."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch.nn import functional as F

from data_prep.encode import ClipWriter, even
from data_prep.errors import UserError
from data_prep.letters import drawable
from finetune.clips.batch import normalise
from finetune.results.output import write_bytes
from finetune.use.inputs import Input
from finetune.use.reading import ClipReader
from finetune.use.relevance import explain_clip

if TYPE_CHECKING:
    from finetune.use.classifier import Classifier

_FRAMES_PER_SECOND = 2.0  # of the video: a clip has few frames, and each is to be looked at
_SMALLEST_SIDE = 224  # px: frames of small models are shown enlarged
_STRIP_FRAMES = 16  # at most, in one row of pictures


@dataclass(frozen=True)
class Explanation:
    """`frames` uint8 RGB `(num_frames, crop, crop, 3)` as the model saw them, and `heat` float32 `(num_frames, crop, crop)`,
    0 to 1, the highest of the clip being 1; for `label`, whose score the model gave.
    """

    label: str
    score: float
    frames: np.ndarray
    heat: np.ndarray

    def overlay(self) -> np.ndarray:
        """uint8 RGB like `frames`: the frames in grey, the hotter the more coloured."""
        colors = colormaps["inferno"](self.heat)[..., :3] * 255
        grey = self.frames.mean(-1, keepdims=True)
        share = 0.75 * np.sqrt(self.heat)[..., None]
        return np.rint(grey * (1 - share) + colors * share).astype(np.uint8)


def explain(classifier: Classifier, video: str, label: str | None = None, method: str = "relevance") -> Explanation:
    """Of the clip that a prediction sees; for its likeliest label, or `label`. Raises `UserError`."""
    read = ClipReader(classifier.sampling, classifier.num_frames).read(Input(video))
    if read.frames is None:
        raise UserError(f"{video}: {read.error}.")
    if label is not None and label not in classifier.labels:
        raise UserError(f"--label {label!r} is none of the model's: {', '.join(classifier.labels[:20])}.")
    pixels = classifier.pixels(read.frames[0])
    scores = classifier.scores(pixels)[0]
    number = int(scores.argmax()) if label is None else classifier.labels.index(label)
    values = normalise(pixels.to(classifier.model.device), classifier.processor)
    heat = explain_clip(classifier.model, values, number, method).cpu()
    heat = F.interpolate(heat[None], size=tuple(pixels.shape[-2:]), mode="bilinear")[0]
    heat = heat / heat.max().clamp(min=torch.finfo(heat.dtype).tiny)
    frames = pixels[0].permute(0, 2, 3, 1).contiguous().numpy()
    return Explanation(classifier.labels[number], float(scores[number]), frames, heat.numpy())


def write_video(explanation: Explanation, path: Path) -> None:
    """H.264 in an mp4: each frame, and beside it its heat."""
    pairs = np.concatenate((explanation.frames, explanation.overlay()), axis=2)
    times = max(1, _SMALLEST_SIDE // pairs.shape[1])
    pairs = pairs.repeat(times, axis=1).repeat(times, axis=2)
    height, width = even((pairs.shape[1], pairs.shape[2]))
    writer = ClipWriter((height, width), _FRAMES_PER_SECOND)
    for i, pair in enumerate(pairs):
        writer.add(np.ascontiguousarray(pair[:height, :width]), i / _FRAMES_PER_SECOND)
    write_bytes(path, writer.close())


def write_strip(explanation: Explanation, path: Path) -> None:
    """A PNG with a row of frames and a row of their heat; of a long clip, frames evenly from it."""
    step = -(-len(explanation.frames) // _STRIP_FRAMES)
    frames, overlay = explanation.frames[::step], explanation.overlay()[::step]
    figure = Figure(figsize=(1.4 * len(frames), 3.2), layout="constrained")
    figure.suptitle(f"{drawable(explanation.label)}  {explanation.score:.0%}")
    for axes, picture in zip(figure.subplots(2, len(frames), squeeze=False).flat, (*frames, *overlay)):
        axes.imshow(picture)
        axes.axis("off")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    write_bytes(path, buffer.getvalue())
