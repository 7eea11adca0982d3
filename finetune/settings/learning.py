"""How the weights learn, where transformers' TrainingArguments have no word for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from data_prep.errors import UserError

WEIGHT_DECAY_ON = ("all", "all_but_embeddings", "all_but_norms", "matrices")

# What says how weights other than the head learn, or how an epoch goes; and the value at which it does nothing.
NOT_OF_A_PROBE = {
    "lora_rank": 0, "freeze_blocks": 0, "ema_decay": 0, "layer_decay": 1, "mixup_alpha": 0, "cutmix_alpha": 0,
    "early_stopping_patience": None,
}  # fmt: skip


@dataclass
class LearningArguments:
    """Schedule, loss, mixing, order of the videos, and which weights learn."""

    target_batch_size: int | None = field(default=None, metadata={"help": "Clips of one optimizer step over all processes; the gradient accumulation that gives it is worked out from --per_device_train_batch_size."})  # fmt: skip
    lr_batch_size: int | None = field(default=None, metadata={"help": "How many clips of an optimizer step --learning_rate is meant for: it is scaled in proportion to the step's real number, and the result is printed."})  # fmt: skip
    lr_milestones: list[float] | None = field(default=None, metadata={"help": "Epochs after which the learning rate is multiplied by --lr_milestone_factor, as 11 14, in place of --lr_scheduler_type."})  # fmt: skip
    lr_milestone_factor: float = field(default=0.1, metadata={"help": "See --lr_milestones."})
    layer_decay: float = field(default=1.0, metadata={"help": "Learning rate of a block as a share of the next one's, as 0.75: the head learns at --learning_rate, the embeddings slowest."})  # fmt: skip
    weight_decay_on: str = field(default="matrices", metadata={"choices": WEIGHT_DECAY_ON, "help": "Which weights decay: all (the authors' recipes), all_but_embeddings (not the class token, positions and times), all_but_norms (no biases and norms), or matrices (neither)."})  # fmt: skip
    ema_decay: float = field(default=0.0, metadata={"help": "Evaluate and save an exponential moving average of the weights, as 0.999; 0: the weights themselves."})  # fmt: skip
    mixup_alpha: float = field(default=0.0, metadata={"help": "Mix pairs of clips and their labels; the share is drawn from Beta(alpha, alpha), as 0.8."})  # fmt: skip
    cutmix_alpha: float = field(default=0.0, metadata={"help": "Paste a rectangle of another clip, in all frames, and mix the labels by area, as 1."})  # fmt: skip
    cutmix_probability: float = field(default=0.5, metadata={"help": "With both of them: of which share of the batches the pairs are cut rather than mixed."})  # fmt: skip
    class_weights: Literal["balanced"] | None = field(default=None, metadata={"help": "balanced: the loss of a video counts in inverse proportion to the size of its class."})  # fmt: skip
    focal_gamma: float = field(default=0.0, metadata={"help": "Focal loss: videos that are already right count less, as 2; 0: cross-entropy."})  # fmt: skip
    sampler: Literal["random", "balanced"] = field(default="random", metadata={"help": "random: every video once an epoch; balanced: every class as often as the others, by repeating videos of small ones."})  # fmt: skip
    repeated_augmentation: int = field(default=1, metadata={"help": "How many differently augmented clips of each video an epoch has, side by side in a batch."})  # fmt: skip
    early_stopping_patience: int | None = field(default=None, metadata={"help": "Stop after this many evaluations without a better --metric_for_best_model."})  # fmt: skip
    freeze_blocks: float = field(default=0, metadata={"help": "Leave the embeddings and this many first blocks as they are, or, below 1, this share of them, as 0.67."})  # fmt: skip
    linear_probe: bool = field(default=False, metadata={"help": "Train the head alone, on features that are computed once: logistic regression, its strength chosen on validation. Takes seconds."})  # fmt: skip
    head_start: Literal["random", "linear_probe"] = field(default="random", metadata={"help": "What a new head starts from. linear_probe: what --linear_probe gives, so that a head that knows nothing does not spoil the features first."})  # fmt: skip
    time_start: Literal["zeros", "contrast", "auto"] = field(default="zeros", metadata={"help": "What time starts from where the weights know none, as an image model's. zeros: as the authors; a clip of one still picture gives what the image model gives. contrast: late frames minus early ones are told from the first step on, for few videos whose labels are told by an order. auto: contrast where a linear probe tells held-out videos better from it, by more than one standard error; else zeros."})  # fmt: skip
    lora_rank: int = field(default=0, metadata={"help": "Train low-rank additions to the linear maps in place of the weights (LoRA, extra lora), as 16; they are merged into the weights at the end."})  # fmt: skip
    lora_alpha: int | None = field(default=None, metadata={"help": "Scale of the additions times their rank. Default: twice the rank."})  # fmt: skip
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before the additions."})


def check_learning(learning: LearningArguments) -> None:
    """Raises `UserError` for a value that cannot be meant."""
    for name, low, high in (
        ("layer_decay", 0.0, 1.0), ("ema_decay", 0.0, 0.99999), ("cutmix_probability", 0.0, 1.0),
        ("mixup_alpha", 0.0, 100.0), ("cutmix_alpha", 0.0, 100.0), ("focal_gamma", 0.0, 10.0),
        ("lr_milestone_factor", 0.0, 1.0), ("lora_dropout", 0.0, 0.99),
    ):  # fmt: skip
        value = getattr(learning, name)
        if not low <= value <= high:
            raise UserError(f"--{name} is {value:g}, expected {low:g} to {high:g}.")
    for name in (
        "target_batch_size",
        "lr_batch_size",
        "repeated_augmentation",
        "early_stopping_patience",
        "lora_alpha",
    ):
        value = getattr(learning, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}, expected at least 1.")
    for name in ("freeze_blocks", "lora_rank"):
        if getattr(learning, name) < 0:
            raise UserError(f"--{name} is {getattr(learning, name):g}, expected at least 0.")
    if learning.freeze_blocks > 1 and learning.freeze_blocks % 1:
        raise UserError(f"--freeze_blocks is {learning.freeze_blocks:g}, expected a number of blocks, as 8, or a share of them, as 0.67.")  # fmt: skip
    milestones = learning.lr_milestones or []
    if milestones != sorted(milestones) or any(epoch <= 0 for epoch in milestones):
        raise UserError(f"--lr_milestones is {milestones}: expected epochs in order, as 11 14.")
    if learning.layer_decay == 0:
        raise UserError("--layer_decay is 0, expected more: 1 for one learning rate, 0.75 as usual.")
    idle = [f"--{name}" for name, default in NOT_OF_A_PROBE.items() if getattr(learning, name) != default]
    if learning.linear_probe and idle:
        raise UserError(f"--linear_probe trains the head alone: leave out {' and '.join(idle)}.")
    if learning.time_start == "auto" and learning.head_start != "linear_probe" and not learning.linear_probe:
        raise UserError("--time_start auto measures with a linear probe, which is then the head: add --head_start linear_probe, or give zeros or contrast.")  # fmt: skip
