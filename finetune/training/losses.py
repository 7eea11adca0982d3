"""What training minimises: cross-entropy with soft targets, or binary cross-entropy of several labels a video."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from finetune.clips.clip import IGNORED


@dataclass(frozen=True)
class Loss:
    """The training loss, summed over videos and divided by their number.

    `label_smoothing`: the share of a target that is spread over all classes (arXiv 1512.00567). `class_weights`: float32
    `(num_labels,)` or None. `focal_gamma`: each term times (1 - its probability)^gamma (arXiv 1708.02002, without its
    alpha). With `multi_label` each class is a question of its own, answered by a sigmoid.

    Never through the model's own `labels=`: it takes float labels for those of several classes, and saves that.
    """

    multi_label: bool = False
    label_smoothing: float = 0.0
    class_weights: torch.Tensor | None = None
    focal_gamma: float = 0.0

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor, num_items: torch.Tensor | int) -> torch.Tensor:
        """`logits` and `targets` (shares of classes, 0 to 1) float `(batch, num_labels)` -> the sum over `num_items`.

        A row of targets that is `IGNORED` adds nothing. `num_items`: of the whole optimizer step, over all processes;
        of several labels a video, videos times labels.
        """
        return self.terms(logits, targets).sum() / num_items

    def terms(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """What each class adds to the loss of each video, float32 `(batch, num_labels)`."""
        logits = logits.float()
        counted = (targets != IGNORED).all(-1, keepdim=True)
        targets = torch.where(counted, targets, 0)
        terms = self._binary(logits, targets) if self.multi_label else self._categorical(logits, targets)
        if self.class_weights is not None:
            terms = terms * self.class_weights.to(terms.device)
        return terms * counted

    def _categorical(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        targets = targets * (1 - self.label_smoothing) + self.label_smoothing / logits.shape[-1]
        log_p = F.log_softmax(logits, -1)
        if self.focal_gamma:
            return -targets * log_p * (self.focal_gamma * _log_of_others(logits, log_p)).exp()
        return -targets * log_p

    def _binary(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        targets = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
        yes, no = F.logsigmoid(logits), F.logsigmoid(-logits)
        if self.focal_gamma:
            yes, no = yes * (self.focal_gamma * no).exp(), no * (self.focal_gamma * yes).exp()
        return -targets * yes - (1 - targets) * no


def _log_of_others(logits: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
    """log(1 - p) of each class, `(batch, num_labels)`, without the difference from 1.

    Of the likeliest class p may round to 1, where (1 - p)^gamma has no gradient for gamma < 1: there it is the sum over
    the other classes. The p of all others is at most 1/2.
    """
    likeliest = F.one_hot(logits.argmax(-1), logits.shape[-1]).bool()
    of_likeliest = log_p.masked_fill(likeliest, float("-inf")).logsumexp(-1, keepdim=True)
    p = log_p.exp().masked_fill(likeliest, 0)
    return torch.where(likeliest, of_likeliest, torch.log1p(-p))


def as_targets(labels: torch.Tensor, num_labels: int) -> torch.Tensor:
    """int64 `(batch,)` or float `(batch, num_labels)` -> float32 `(batch, num_labels)`, rows `IGNORED` as they were."""
    if labels.ndim == 2:
        return labels.float()
    targets = F.one_hot(labels.where(labels != IGNORED, 0), num_labels).float()  # any other negative label is an error
    return torch.where((labels == IGNORED)[:, None], float(IGNORED), targets)


def balanced_weights(labels: list[int], num_labels: int) -> torch.Tensor:
    """float32 `(num_labels,)`: n / (classes that occur * videos of the class), whose mean over the videos is 1 (as
    scikit-learn's "balanced"). A class without videos has 0.
    """
    counts = np.bincount(labels, minlength=num_labels)
    weights = np.divide(len(labels), np.count_nonzero(counts) * counts, out=np.zeros(num_labels), where=counts > 0)
    return torch.tensor(weights, dtype=torch.float32)
