"""A picture of the first training batch, as the model sees it: what augmentation and mixing really do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from transformers import TimesformerVideoProcessor

from data_prep.letters import drawable
from finetune.results.figures import side_by_side

_AT_MOST = 8  # clips


def plot_batch(
    pixels: torch.Tensor, targets: torch.Tensor, processor: TimesformerVideoProcessor, names: list[str], path: Path
) -> None:
    """Writes a PNG: a row per clip of `pixels` `(batch, num_frames, 3, height, width)`, normalised; beside it what
    `targets` `(batch, num_labels)` say it shows.
    """
    clips = as_pictures(pixels[:_AT_MOST], processor)
    height = 1.1 * clips.shape[2] / clips.shape[3] * 8 / clips.shape[1] + 0.15
    figure = Figure(figsize=(11, max(1.2, height * len(clips))), layout="constrained")
    rows = figure.subplots(len(clips), 2, squeeze=False, width_ratios=(8, 2.4))
    for (picture, caption), frames, shares in zip(rows, clips, targets[:_AT_MOST].float().cpu().numpy()):
        picture.imshow(side_by_side(frames))
        caption.text(0, 0.5, in_words(shares, names), va="center", fontsize=9)
        for axes in (picture, caption):
            axes.axis("off")
    figure.savefig(path, dpi=100)


def as_pictures(pixels: torch.Tensor, processor: TimesformerVideoProcessor) -> np.ndarray:
    """Normalised `(..., 3, height, width)` -> uint8 `(..., height, width, 3)`: what normalisation did, undone."""
    mean, std = (
        torch.tensor(values).view(3, 1, 1) if processor.do_normalize else torch.tensor(float(name == "std"))
        for name, values in (("mean", processor.image_mean), ("std", processor.image_std))
    )
    values = pixels.detach().float().cpu() * std + mean
    if processor.do_rescale:
        values = values / processor.rescale_factor
    return values.round().clamp(0, 255).to(torch.uint8).movedim(-3, -1).numpy()


def in_words(shares: np.ndarray, names: list[str]) -> str:
    """The three largest shares: "running 70 %, walking 30 %"; an unmixed clip by its name alone."""
    best = [i for i in np.argsort(-shares, kind="stable")[:3] if shares[i] > 0.005]
    if len(best) == 1 and shares[best[0]] > 0.995:
        return drawable(names[best[0]], 30)
    return "\n".join(f"{shares[i]:.0%} {drawable(names[i], 26)}" for i in best) or "could not be read"
