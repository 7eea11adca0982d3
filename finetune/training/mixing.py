"""Clips of a batch mixed in pairs, with their targets: mixup (arXiv 1710.09412) and CutMix (1905.04899)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Mixing:
    """`mixup_alpha`, `cutmix_alpha`: of the Beta distribution of the share; 0: not at all. With both,
    `cutmix_probability` is the share of batches that are cut.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    cutmix_probability: float = 0.5

    @property
    def is_on(self) -> bool:
        return bool(self.mixup_alpha or self.cutmix_alpha)

    def __call__(
        self, pixels: torch.Tensor, targets: torch.Tensor, random: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`pixels` `(batch, num_frames, 3, height, width)`, `targets` `(batch, num_labels)` -> both mixed.

        One share, one pairing and one rectangle a batch; the rectangle lies in all frames of a clip (arXiv 2012.03457).
        """
        if len(pixels) < 2 or not self.is_on:
            return pixels, targets
        cut = bool(self.cutmix_alpha) and (not self.mixup_alpha or random.random() < self.cutmix_probability)
        alpha = self.cutmix_alpha if cut else self.mixup_alpha
        share = float(random.beta(alpha, alpha))
        partners = torch.from_numpy(random.permutation(len(pixels))).to(pixels.device)
        if cut:
            pixels, share = paste(pixels, pixels[partners], share, random)
        else:
            pixels = torch.lerp(pixels[partners], pixels, share)
        return pixels, torch.lerp(targets[partners], targets, share)


def paste(
    pixels: torch.Tensor, others: torch.Tensor, share: float, random: np.random.Generator
) -> tuple[torch.Tensor, float]:
    """A rectangle of about `1 - share` of the area of `others` over `pixels`, and the share that is left of them.

    Its centre lies anywhere, so that part of it may fall outside (the paper's rule): the share returned is the real one.
    """
    height, width = pixels.shape[-2:]
    sides = (round(height * (1 - share) ** 0.5), round(width * (1 - share) ** 0.5))
    (top, bottom), (left, right) = (
        np.clip(centre + np.array([-(side // 2), side - side // 2]), 0, limit)
        for side, limit, centre in zip(sides, (height, width), (random.integers(height), random.integers(width)))
    )
    pixels = pixels.clone()
    pixels[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    return pixels, 1 - float((bottom - top) * (right - left)) / (height * width)
