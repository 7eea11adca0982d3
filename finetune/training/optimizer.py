"""Which weights learn how fast: parameter groups, the milestone schedule, and the size of a step."""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable
from typing import Any

from torch import nn

from data_prep.errors import UserError
from finetune.model.modeling import TimesformerForVideoClassification

_NORMS = re.compile(r"(^|[._])(layer)?norm[0-9]*([._]|$)|layernorm", re.IGNORECASE)


def parameter_groups(
    model: TimesformerForVideoClassification,
    learning_rate: float,
    weight_decay: float,
    decay_on: str,
    layer_decay: float,
) -> list[dict[str, Any]]:
    """Groups for a torch optimizer, the head's first; weights that do not require gradients are in none.

    `decay_on`: one of `finetune.settings.learning.WEIGHT_DECAY_ON`. A layer's learning rate is `layer_decay` times the next one's
    (BEiT, arXiv 2106.08254).
    """
    embeddings = model.no_weight_decay()
    last = model.layer_id("classifier.weight")
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (last - model.layer_id(name), decays(name, decay_on, embeddings))
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": groups[below, decay], "lr": learning_rate * layer_decay**below, "weight_decay": weight_decay * decay}
        for below, decay in sorted(groups)
    ]


def decays(name: str, decay_on: str, embeddings: set[str]) -> bool:
    """Whether weight decay pulls at the parameter `name`."""
    norm_or_bias = name.endswith("bias") or _NORMS.search(name) is not None
    return not (
        (decay_on in ("all_but_embeddings", "matrices") and name in embeddings)
        or (decay_on in ("all_but_norms", "matrices") and norm_or_bias)
    )


def milestone_schedule(
    milestones: list[float], factor: float, num_epochs: float, num_steps: int, warmup_steps: int
) -> Callable[[int], float]:
    """What the learning rate is multiplied by at a step: `factor` once for each milestone (epoch) that is past, after a
    linear warm-up (facebookresearch/TimeSformer, utils/lr_policy.py: steps_with_relative_lrs).

    milestone_schedule([11, 14], 0.1, 15, 1500, 0)(1100) == 0.1
    """
    steps = [round(epoch / num_epochs * num_steps) for epoch in milestones]

    def multiplier(step: int) -> float:
        warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
        return float(warm * factor ** bisect.bisect_right(steps, step))

    return multiplier


def accumulation_for(target: int, batch_size: int, num_processes: int) -> int:
    """How many batches make a step of `target` clips. Raises `UserError` when none do.

    accumulation_for(64, 8, 2) == 4
    """
    together = batch_size * num_processes
    if target % together:
        raise UserError(
            f"--target_batch_size {target} is not a multiple of {together} ({num_processes} processes x "
            f"--per_device_train_batch_size {batch_size}): choose a batch size that divides it."
        )
    return target // together
