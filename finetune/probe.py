"""A head on frozen features: logistic regression on the class tokens of one clip a video, computed once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from finetune.clip import IGNORED, Clips
from finetune.dataset import Splits
from finetune.losses import Loss, as_targets
from finetune.trainer import VideoTrainer

# Strengths of the penalty on the squared weights of standardised features, a decade apart.
_PENALTIES = [10.0**power for power in range(-5, 2)]
_STEPS = 200  # of L-BFGS; it stops by itself before


def train_head(trainer: VideoTrainer, splits: Splits) -> None:
    """Replaces the model's head by the best of several logistic regressions: the penalty with the least loss on the
    validation videos, or the middle one where there are none. Each process does the same.
    """
    maker = trainer.train_dataset.maker
    tokens, targets = features(trainer, Clips(splits.train, maker, training=False))
    plain = Loss(trainer.multi_label)
    weighted = Loss(trainer.multi_label, class_weights=trainer.loss.class_weights)
    candidates = [fit(tokens, targets, penalty, weighted) for penalty in _PENALTIES]
    losses = [float("nan")] * len(candidates)
    chosen = len(candidates) // 2
    if splits.validation:
        asked, answers = features(trainer, Clips(splits.validation, maker, training=False))
        with torch.no_grad():
            losses = [float(plain(head(asked), answers, len(answers))) for head in candidates]
        chosen = int(np.argmin(losses))
    if trainer.is_world_process_zero():
        for i, (penalty, loss) in enumerate(zip(_PENALTIES, losses)):
            print(f"penalty {penalty:g}: validation loss {loss:.4f}{' (chosen)' if i == chosen else ''}")
    trainer.model.classifier.load_state_dict(candidates[chosen].state_dict())


@torch.no_grad()
def features(trainer: VideoTrainer, clips: Clips) -> tuple[torch.Tensor, torch.Tensor]:
    """Class tokens `(videos, hidden_size)` and targets `(videos, num_labels)`, float32 on the CPU, of the readable videos
    of all processes.
    """
    model = trainer.model.eval()
    tokens: list[torch.Tensor] = []
    targets: list[torch.Tensor] = []
    for inputs in trainer.get_test_dataloader(clips):
        inputs = trainer._prepare_inputs(inputs)
        output: Any = model.timesformer(inputs["pixel_values"], class_only=True)
        found = output[0][:, 0].float(), as_targets(inputs["labels"], model.config.num_labels)
        for known, part in zip((tokens, targets), trainer.accelerator.gather_for_metrics(found)):
            known.append(part.cpu())
    readable = (torch.cat(targets) != IGNORED).all(1)
    return torch.cat(tokens)[readable], torch.cat(targets)[readable]


def fit(tokens: torch.Tensor, targets: torch.Tensor, penalty: float, loss: Loss) -> nn.Linear:
    """Logistic regression by L-BFGS on standardised features; the head returned takes them as they are."""
    mean, std = tokens.mean(0), tokens.std(0).clamp(min=1e-6)
    standard = (tokens - mean) / std
    head = nn.Linear(tokens.shape[1], targets.shape[1])
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    solver = torch.optim.LBFGS(head.parameters(), max_iter=_STEPS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        solver.zero_grad()
        whole = loss(head(standard), targets, len(targets)) + penalty * head.weight.square().sum() / 2
        whole.backward()
        return whole

    solver.step(closure)
    with torch.no_grad():
        head.weight.div_(std)
        head.bias.sub_(head.weight @ mean)
    return head
