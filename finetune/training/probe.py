"""A head on frozen features: logistic regression on the class tokens of one clip a video, computed once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from finetune.clips.clip import IGNORED, Clips
from finetune.clips.dataset import Splits
from finetune.model.finite import NotFinite
from finetune.results.intervals import resampling_units
from finetune.training.losses import Loss, as_targets
from finetune.training.trainer import VideoTrainer

# Strengths of the penalty on the squared weights of standardised features, a decade apart.
_PENALTIES = [10.0**power for power in range(-5, 2)]
_FOLDS = 5
_STEPS = 200  # of L-BFGS; it stops by itself before


def train_head(trainer: VideoTrainer, splits: Splits) -> torch.Tensor:
    """Replaces the model's head by a logistic regression of the strength with the least loss: on the validation videos,
    or, where there are none, on each fold of the training videos in turn. Each process does the same. Returns the losses
    of the videos that were held out, float32 `(videos,)`, in an order that depends on the dataset alone; none where none
    can be.
    """
    maker = trainer.train_dataset.maker
    tokens, targets, readable = features(trainer, Clips(splits.train, maker, training=False))
    plain = Loss(trainer.multi_label)
    weighted = Loss(trainer.multi_label, class_weights=trainer.loss.class_weights)
    if splits.validation:
        rounds = [((tokens, targets), features(trainer, Clips(splits.validation, maker, training=False))[:2])]
    else:
        groups = splits.train["group"] if "group" in splits.train.column_names else None
        held_out = folds(resampling_units(groups, len(splits.train))[0][readable.numpy()])
        rounds = [((tokens[~held], targets[~held]), (tokens[held], targets[held])) for held in held_out]
    losses = [
        torch.cat([torch.empty(0), *(held_out_losses(*parts, penalty, weighted, plain) for parts in rounds)])
        for penalty in _PENALTIES
    ]
    means = [float(loss.mean()) for loss in losses]
    chosen = int(np.argmin(np.nan_to_num(means, nan=np.inf))) if len(losses[0]) else len(_PENALTIES) // 2
    if trainer.is_world_process_zero():
        where = "validation" if splits.validation else f"{len(rounds)}-fold"
        for i, (penalty, loss) in enumerate(zip(_PENALTIES, means)):
            print(f"penalty {penalty:g}: {where} loss {loss:.4f}{' (chosen)' if i == chosen else ''}")
    trainer.model.classifier.load_state_dict(fit(tokens, targets, _PENALTIES[chosen], weighted).state_dict())
    return losses[chosen]


def folds(groups: np.ndarray) -> list[torch.Tensor]:
    """Up to `_FOLDS` masks (videos,) of whole groups to hold out, drawn by a fixed seed; none of a single group."""
    numbers, group = np.unique(groups, return_inverse=True)
    count = min(_FOLDS, len(numbers))
    fold = np.random.default_rng(0).permutation(len(numbers))[group] % max(1, count)
    return [torch.from_numpy(fold == k) for k in range(count)] if count > 1 else []


def held_out_losses(
    known: tuple[torch.Tensor, torch.Tensor], asked: tuple[torch.Tensor, torch.Tensor], penalty: float, weighted: Loss, plain: Loss,
) -> torch.Tensor:  # fmt: skip
    """Of each video of `asked`, by a head fitted to `known`: float32 `(videos,)`."""
    head = fit(*known, penalty, weighted)
    with torch.no_grad():
        return plain.terms(head(asked[0]), asked[1]).sum(-1)


@torch.no_grad()
def features(trainer: VideoTrainer, clips: Clips) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Class tokens `(videos, hidden_size)` and targets `(videos, num_labels)`, float32 on the CPU, of the readable videos
    of all processes, in their order, and which of `clips` are readable.
    """
    model = trainer.model.eval()
    tokens: list[torch.Tensor] = []
    targets: list[torch.Tensor] = []
    for inputs in trainer.get_test_dataloader(clips):
        inputs = trainer._prepare_inputs(inputs)
        output: Any = model.timesformer(inputs["pixel_values"], class_only=True)
        found = output[0][:, 0].float(), as_targets(inputs["labels"], model.config.num_labels)
        for kept, part in zip((tokens, targets), trainer.accelerator.gather_for_metrics(found)):
            kept.append(part.cpu())
    readable = (torch.cat(targets) != IGNORED).all(1)
    known = torch.cat(tokens)[readable]
    if wrong := int((~known.isfinite()).any(1).sum()):
        raise NotFinite(f"the features of {wrong} of {len(known)} videos are NaN or infinite: no head learns from them. Start from another checkpoint; where they are computed in float16, --bf16 true in place of --fp16.")  # fmt: skip
    return known, torch.cat(targets)[readable], readable


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
