"""An exponential moving average of the weights, which is what is evaluated and saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


class MovingAverage:
    """float32 averages of the parameters of `model` that learn; of a sharded model (FSDP2), of this process's shards.

    Make it after the model was prepared for training: sharding replaces the parameters.

    After step n (from 0) the average moves by 1 - min(`decay`, (1 + n) / (10 + n)) towards the weights: few steps must
    not leave it at the start (TensorFlow's ExponentialMovingAverage with num_updates).
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self._model = model
        self._learning = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.weights = {name: _local(weight).float().clone() for name, weight in self._learning.items()}
        self._own: dict[str, torch.Tensor] = {}  # the model's, while it holds the averages

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights as they are after optimizer step `step`, counted from 0."""
        move = 1 - min(self.decay, (1 + step) / (10 + step))
        now = [_local(weight).float() for weight in self._learning.values()]
        torch._foreach_lerp_(list(self.weights.values()), now, move)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model holds the averages; afterwards its own weights again, bit for bit."""
        self._own = {name: _local(weight).clone() for name, weight in self._learning.items()}
        self.load_average()
        try:
            yield
        finally:
            self._load(self._own)
            self._own = {}

    def load_average(self) -> None:
        """Puts the averages into the model."""
        self._load(self.weights)

    @torch.no_grad()
    def _load(self, weights: dict[str, torch.Tensor]) -> None:
        # Modules that are whole after a forward pass would go on computing with what they gathered before.
        for module in self._model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        for name, weight in self._learning.items():
            _local(weight).copy_(weights[name])

    @torch.no_grad()
    def load_training_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Puts whole tensors, as `training_weights` gave them, into the model; the average stays."""
        self._load({name: _local(_like(weights[name], weight)) for name, weight in self._learning.items()})

    def training_weights(self) -> dict[str, torch.Tensor]:
        """Return the weights that training goes on from, while the model holds the averages: whole tensors on the CPU. Every
        process calls it, since each has its shard.
        """
        whole = {}
        for name, weight in self._learning.items():
            own = self._own[name]
            if isinstance(weight, DTensor):
                own = DTensor.from_local(own, weight.device_mesh, weight.placements, shape=weight.shape, stride=weight.stride()).full_tensor()  # fmt: skip
            whole[name] = own.cpu().contiguous()
        return whole


def _local(weight: torch.Tensor) -> torch.Tensor:
    """The part of a weight that this process has, sharing its memory."""
    weight = weight.detach()
    return weight.to_local() if isinstance(weight, DTensor) else weight


def _like(whole: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Shard the tensor `whole` as `weight` is sharded."""
    if not isinstance(weight, DTensor):
        return whole
    return distribute_tensor(whole.to(weight.device), weight.device_mesh, weight.placements, src_data_rank=None)
