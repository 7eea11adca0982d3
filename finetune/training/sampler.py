"""The order in which an epoch shows the training videos."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class VideoSampler(Sampler[int]):
    """Numbers of clips in an order that is a function of (seed, epoch): every process draws the same.

    Clip `i` of `num_videos` is video `i % num_videos`; the higher ones are further copies, which are augmented otherwise.
    With `labels` (one per video) every class comes as often as the others, the smaller ones by repeating videos. Each
    video stands `repeats` times in a row (repeated augmentation, arXiv 1901.09335, as VideoMAE has it).
    """

    def __init__(self, num_videos: int, seed: int, labels: list[int] | None = None, repeats: int = 1):
        self.num_videos, self.seed, self.labels, self.repeats = num_videos, seed, labels, repeats
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_videos * self.repeats

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(self.num_videos) if self.labels is None else self._balanced(random)
        seen = np.zeros(self.num_videos, dtype=np.int64)
        for video in order:
            for _ in range(self.repeats):
                yield int(video + seen[video] * self.num_videos)
                seen[video] += 1

    def _balanced(self, random: np.random.Generator) -> np.ndarray:
        """`num_videos` videos, as many of each class but for one; no video again before all of its class were there."""
        labels = np.array(self.labels)
        classes = random.permutation(np.unique(labels))
        each, left = divmod(self.num_videos, len(classes))
        drawn = []
        for number, label in enumerate(classes):
            own, wanted = np.flatnonzero(labels == label), each + (number < left)
            rounds = [random.permutation(own) for _ in range(-(-wanted // len(own)))]
            drawn.append(np.concatenate(rounds)[:wanted])
        return random.permutation(np.concatenate(drawn))
