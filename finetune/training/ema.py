"""An exponential moving average of the weights, which is what is evaluated and saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class MovingAverage:
    """float32 averages of the parameters of `model` that learn.

    After step n (from 0) the average moves by 1 - min(`decay`, (1 + n) / (10 + n)) towards the weights: few steps must
    not leave it at the start (TensorFlow's ExponentialMovingAverage with num_updates).
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self._learning = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.weights = {name: weight.detach().float().clone() for name, weight in self._learning.items()}
        self._own: dict[str, torch.Tensor] = {}  # the model's, while it holds the averages

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights as they are after optimizer step `step`, counted from 0."""
        move = 1 - min(self.decay, (1 + step) / (10 + step))
        now = [weight.detach().float() for weight in self._learning.values()]
        torch._foreach_lerp_(list(self.weights.values()), now, move)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model holds the averages; afterwards its own weights again, bit for bit."""
        self._own = {name: weight.detach().clone() for name, weight in self._learning.items()}
        self.load(self.weights)
        try:
            yield
        finally:
            self.load(self._own)
            self._own = {}

    @torch.no_grad()
    def load(self, weights: dict[str, torch.Tensor]) -> None:
        """Puts `weights` into the model."""
        for name, weight in self._learning.items():
            weight.copy_(weights[name])

    def training_weights(self) -> dict[str, torch.Tensor]:
        """The model's own while it holds the averages, on the CPU: a checkpoint of both can be gone on from."""
        return {name: weight.cpu().contiguous() for name, weight in self._own.items()}
