"""A head on frozen features: logistic regression on the class tokens of one clip a video, computed once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from data_prep.errors import UserError
from finetune.clip import IGNORED, Clips
from finetune.dataset import Splits
from finetune.losses import as_targets, balanced_weights
from finetune.trainer import VideoTrainer

# Strengths of the penalty on the squared weights of standardised features, a decade apart.
_PENALTIES = [10.0**power for power in range(-5, 2)]
_STEPS = 200  # of L-BFGS; it stops by itself before


def train_head(trainer: VideoTrainer, splits: Splits) -> None:
    """Replaces the model's head by the best of several logistic regressions: the penalty with the least loss on the
    validation videos, or the middle one where there are none. Raises `UserError`.
    """
    if trainer.args.world_size > 1:
        raise UserError("--linear_probe takes seconds in one process: launch it with --num_processes 1.")
    maker = trainer.train_dataset.maker
    known = features(trainer, Clips(splits.train, maker, training=False))
    weights = None
    if trainer.learning.class_weights is not None:
        weights = balanced_weights(known[1].tolist(), len(splits.labels))
    validation = features(trainer, Clips(splits.validation, maker, training=False)) if splits.validation else None
    candidates = [fit(*known, len(splits.labels), penalty, weights) for penalty in _PENALTIES]
    losses = [float("nan")] * len(candidates)
    chosen = len(candidates) // 2
    if validation is not None:
        with torch.no_grad():
            losses = [float(cross_entropy(head(validation[0]), validation[1])) for head in candidates]
        chosen = int(np.argmin(losses))
    for penalty, loss in zip(_PENALTIES, losses):
        print(f"penalty {penalty:g}: validation loss {loss:.4f}{' (chosen)' if penalty == _PENALTIES[chosen] else ''}")
    trainer.model.classifier.load_state_dict(candidates[chosen].state_dict())


@torch.no_grad()
def features(trainer: VideoTrainer, clips: Clips) -> tuple[torch.Tensor, torch.Tensor]:
    """Class tokens float32 `(videos, hidden_size)` and labels int64 `(videos,)`, on the CPU, of the readable videos."""
    model = trainer.model.eval()
    tokens, labels = [], []
    for inputs in trainer.get_test_dataloader(clips):
        inputs = trainer._prepare_inputs(inputs)
        output: Any = model.timesformer(inputs["pixel_values"], class_only=True)
        tokens.append(output[0][:, 0].float().cpu())
        labels.append(inputs["labels"].cpu())
    readable = torch.cat(labels) != IGNORED
    return torch.cat(tokens)[readable], torch.cat(labels)[readable]


def fit(
    tokens: torch.Tensor, labels: torch.Tensor, num_labels: int, penalty: float, class_weights: torch.Tensor | None
) -> nn.Linear:
    """Multinomial logistic regression by L-BFGS on standardised features; the head returned takes them as they are."""
    mean, std = tokens.mean(0), tokens.std(0).clamp(min=1e-6)
    standard = (tokens - mean) / std
    head = nn.Linear(tokens.shape[1], num_labels)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    weights = class_weights if class_weights is not None else torch.ones(num_labels)
    targets = as_targets(labels, num_labels)
    solver = torch.optim.LBFGS(head.parameters(), max_iter=_STEPS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        solver.zero_grad()
        losses = -(weights * targets * head(standard).log_softmax(-1)).sum(-1)
        loss = losses.mean() + penalty * head.weight.square().sum() / 2
        loss.backward()
        return loss

    solver.step(closure)
    with torch.no_grad():
        head.weight.div_(std)
        head.bias.sub_(head.weight @ mean)
    return head
