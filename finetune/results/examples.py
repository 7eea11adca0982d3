"""Which videos of an evaluation are worth a look, and the frames that show them."""

from __future__ import annotations

import numpy as np
import torch

from finetune.clips.clip import ClipMaker, Rows, read_clip
from finetune.results.evaluation import Evaluation

_AT_MOST = 8

Strip = tuple[np.ndarray, str, str, float]  # frames uint8 `(num_frames, height, width, 3)`, label, prediction, score


def hardest(evaluation: Evaluation) -> list[int]:
    """Videos by number: the most confident errors, then, where there are fewer, the least confident right answers."""
    right = (evaluation.answers(evaluation.scores) == evaluation.truth()).all(1)
    confidence = evaluation.scores.max(1)
    if evaluation.is_multi_label:  # of all its decisions, the one that is furthest on the wrong side, or nearest to it
        confidence = np.abs(evaluation.truth() - evaluation.scores).max(1)
        order = np.lexsort((-confidence, right))
    else:
        order = np.lexsort((np.where(right, confidence, -confidence), right))
    return [int(i) for i in order if evaluation.readable[i]][:_AT_MOST]


def examples(evaluation: Evaluation) -> list[int]:
    """Videos by number: the most confident error first, then the first video of each class."""
    truth, readable = evaluation.truth(), evaluation.readable
    wrong = (evaluation.answers(evaluation.scores) != truth).any(1) & readable
    errors = [i for i in hardest(evaluation) if wrong[i]][:1]
    firsts = [int(np.argmax(of_class)) for of_class in (truth & readable[:, None]).T if of_class.any()]
    return list(dict.fromkeys([*errors, *firsts]))[:_AT_MOST]


def make_strips(evaluation: Evaluation, chosen: list[int], maker: ClipMaker) -> list[Strip]:
    """The clips of the first view, as they are before the crop."""
    rows, names = Rows(evaluation.rows), np.array(evaluation.names, dtype=object)
    truth, answers = evaluation.truth(), evaluation.answers(evaluation.scores)
    strips = []
    for i in chosen:
        row = rows[i]
        label, answer = (" | ".join(names[given[i]]) or "none" for given in (truth, answers))
        frames = _thumbnails(read_clip(row, maker.evaluated(row)))
        strips.append((frames, label, answer, float(evaluation.scores[i].max())))
    return strips


def _thumbnails(clip: torch.Tensor, height: int = 96) -> np.ndarray:
    """uint8 `(num_frames, height, width, 3)`, at most 16 frames."""
    clip = clip[:: max(1, len(clip) // 16)][:16]
    width = max(1, round(clip.shape[-1] * height / clip.shape[-2]))
    small = torch.nn.functional.interpolate(clip.float(), (height, width), mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
