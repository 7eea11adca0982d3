"""A trained model, ready to be used: videos in, labels with scores out. What `from finetune import load` gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike, fspath
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import TimesformerVideoProcessor

from data_prep.errors import UserError
from finetune.clips.batch import ClipTransform, normalise
from finetune.clips.sampling import Sampling
from finetune.clips.views import AVERAGES, Average, Views, spatial_crops
from finetune.model.attention import StepDense, is_plain_linear
from finetune.model.finite import check_answers
from finetune.model.layer import TimesformerLayer
from finetune.model.modeling import MULTI_LABEL, TimesformerForVideoClassification, probabilities
from finetune.model.thresholds import label_thresholds
from finetune.model.weights import load_checkpoint
from finetune.use.explanation import Explanation, explain
from finetune.use.inputs import Input, find_inputs
from finetune.use.reading import ClipReader, ReadVideo, read_all
from finetune.use.timeline import Timeline, make_timeline

Row = dict[str, Any]
Video = str | PathLike[str]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load(name: str, device: str | None = None, dtype: str = "float32", revision: str = "main") -> Classifier:
    """The classifier of a checkpoint: a directory or a Hub id. Raises `UserError`.

    `device`: an accelerator where there is one. `dtype`: `bfloat16` is faster where the hardware has it (of CPUs, those
    with AVX512-BF16 or AMX), and changes scores in their second or third digit.
    """
    device = device or default_device()
    if dtype not in DTYPES:
        raise UserError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}.")
    model, processor = load_checkpoint(name, revision)
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from error
    merge_linear_maps(model)
    return Classifier(model, processor, DTYPES[dtype], name, revision)


def default_device() -> str:
    return str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else "cpu"


@torch.no_grad()
def merge_linear_maps(model: TimesformerForVideoClassification) -> None:
    """Writes two linear maps in a row as the one they are, for a model that is not trained any more: the same numbers
    as without, since the forward pass multiplies them each time (`SpaceTimeAttention`).
    """
    for layer in (module for module in model.modules() if isinstance(module, TimesformerLayer)):
        for name in layer.first_steps:
            dense, then = getattr(layer, f"{name}_attention").output.dense, getattr(layer, f"{name}_dense")
            if is_plain_linear(dense, nn.Linear) and is_plain_linear(then, StepDense):
                dense.bias.copy_(then.weight @ dense.bias + then.bias)
                dense.weight.copy_(then.weight @ dense.weight)
                setattr(layer, f"{name}_dense", nn.Identity())


@dataclass(frozen=True)
class Ask:
    """What is wanted of every video, and how it is worked out. `average`: of "logits" or "probabilities" of the views."""

    top_k: int = 5
    views: Views = field(default_factory=Views)
    average: Average = "logits"
    batch_size: int = 4
    num_workers: int = 0

    def __post_init__(self) -> None:
        if self.average not in AVERAGES:
            raise UserError(f"average is {self.average!r}, expected one of {', '.join(AVERAGES)}.")


@dataclass(frozen=True)
class Classifier:
    """A model and its processor. Cannot be saved or trained on: `finetune.model.weights.load_start` gives what can."""

    model: TimesformerForVideoClassification
    processor: TimesformerVideoProcessor
    dtype: torch.dtype = torch.float32
    name: str = ""  # what it was loaded from
    revision: str = "main"

    @property
    def labels(self) -> list[str]:
        return [self.model.config.id2label[i] for i in range(self.model.config.num_labels)]

    @property
    def num_frames(self) -> int:
        return int(self.model.config.num_frames)

    @property
    def is_multi_label(self) -> bool:
        return bool(self.model.config.problem_type == MULTI_LABEL)

    @cached_property
    def thresholds(self) -> np.ndarray | None:
        """float64 `(num_labels,)`: from which score on each of several labels is given; None where a video has one."""
        return label_thresholds(self.model.config)

    @property
    def sampling(self) -> Sampling:
        return Sampling.read_from(self.model.config)

    def pixels(self, frames: np.ndarray, num_crops: int = 1) -> torch.Tensor:
        """uint8 RGB `(num_frames, height, width, 3)` -> uint8 `(num_crops, num_frames, 3, crop, crop)`, by the processor."""
        clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
        return spatial_crops(clip, ClipTransform(self.processor), num_crops)

    def scores(self, pixels: torch.Tensor) -> torch.Tensor:
        """float32 `(clips, num_labels)` on the CPU, of uint8 `(clips, num_frames, 3, crop, crop)`.

        They add up to 1 for each clip; of a multi-label model each is a probability of its own, as in transformers' pipeline.
        """
        return self.probabilities(self.logits(pixels))

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), self._precision():
            values = normalise(pixels.to(self.model.device), self.processor)
            logits = self.model(pixel_values=values).logits.float().cpu()
        return check_answers(logits, self.name, self.dtype)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return probabilities(logits, self.model.config)

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.model.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def predict(
        self,
        videos: Video | Iterable[Video],
        top_k: int = 5,
        views: str = "1x1",
        average: Average = "logits",
        batch_size: int = 4,
        num_workers: int = 0,
    ) -> list[Row]:
        """A row for each video, in their order: `video` and `predictions`, a list of `label` and `score`, the highest
        first; or `video` and `error`. Folders, globs and lists stand for what is in them (`finetune.use.inputs`).
        Of a model of several labels per video each prediction also says whether it is `given` (`ranked`).

        `views`: clips x crops of each video, as "4x3", whose `average` is taken. `num_workers`: processes that decode.
        """
        texts = [videos] if isinstance(videos, (str, PathLike)) else videos
        sources = find_inputs([fspath(text) for text in texts])
        ask = Ask(top_k, Views.parse(views), average, batch_size, num_workers)
        rows = {row["video"]: row for row in self.rows(sources, ask)}
        return [rows[source.path] for source in sources]

    def timeline(self, video: Video, window_seconds: float = 4.0, stride_seconds: float | None = None) -> Timeline:
        """Scores of a sliding window over a long video, and `.segments()` of one label. Raises `UserError`."""
        return make_timeline(self, fspath(video), window_seconds, stride_seconds or window_seconds / 2)

    def explain(self, video: Video, label: str | None = None, method: str = "relevance") -> Explanation:
        """Where and when the model looked for its likeliest label, or `label` (`finetune.use.relevance`). Raises `UserError`."""
        return explain(self, fspath(video), label, method)

    def rows(self, sources: Sequence[Input], ask: Ask) -> Iterator[Row]:
        """Likewise, one by one as they are done. An input's own label comes along as `true_label`."""
        reader = ClipReader(self.sampling, self.num_frames, ask.views.num_temporal)
        waiting: list[tuple[Row, torch.Tensor | None]] = []
        for video in read_all(sources, reader, ask.num_workers):
            clips = None
            if video.frames is not None:
                clips = torch.cat([self.pixels(frames, ask.views.num_spatial) for frames in video.frames])
            waiting.append((_row(video), clips))
            if len(waiting) * len(ask.views) >= ask.batch_size:
                yield from self._classify(waiting, ask)
                waiting = []
        if waiting:
            yield from self._classify(waiting, ask)

    def _classify(self, batch: list[tuple[Row, torch.Tensor | None]], ask: Ask) -> Iterator[Row]:
        readable = [clips for _, clips in batch if clips is not None]
        parts = torch.cat(readable).split(ask.batch_size) if readable else ()
        logits = iter(torch.cat([self.logits(part) for part in parts]).split(len(ask.views)) if parts else ())
        for row, clips in batch:
            yield (
                row
                if clips is None
                else row | {"predictions": self.ranked(self._averaged(next(logits), ask), ask.top_k)}
            )

    def _averaged(self, logits: torch.Tensor, ask: Ask) -> torch.Tensor:
        """Scores `(num_labels,)` of the views' logits `(views, num_labels)`."""
        if ask.average == "logits":
            return self.probabilities(logits.mean(0))
        return self.probabilities(logits).mean(0)

    def ranked(self, scores: torch.Tensor, top_k: int) -> list[dict[str, Any]]:
        """`label` and `score`, to six digits, of the highest of `(num_labels,)`.

        Of several labels per video also `given`: whether the score reaches the label's threshold. Labels that do come
        along however many there are.
        """
        order, labels, thresholds = scores.argsort(descending=True, stable=True).tolist(), self.labels, self.thresholds
        named = [{"label": labels[i], "score": round(float(scores[i]), 6)} for i in order]
        if thresholds is None:
            return named[:top_k]
        given = (scores.double().numpy() >= thresholds)[order].tolist()
        marked = [one | {"given": is_given} for one, is_given in zip(named, given)]
        return [one for rank, one in enumerate(marked) if rank < top_k or one["given"]]


def _row(video: ReadVideo) -> Row:
    label = {} if video.source.label is None else {"true_label": video.source.label}
    error = {} if video.frames is not None else {"error": video.error}
    return {"video": video.source.path, **label, **error}
