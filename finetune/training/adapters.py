"""Which weights learn: all, the upper blocks, or low-rank additions to the linear maps (LoRA, arXiv 2106.09685)."""

from __future__ import annotations

from data_prep.errors import UserError
from finetune.model.modeling import TimesformerForVideoClassification
from finetune.settings.learning import LearningArguments

# Every linear map of the blocks: qkv and output of each attention, what follows temporal attention, and the MLP's two.
_TARGETS = r".*encoder\.layer\.\d+\..*(qkv|dense|temporal_dense)"


def choose_what_learns(model: TimesformerForVideoClassification, learning: LearningArguments) -> None:
    """Freezes and adds as `learning` says; the head always learns. Raises `UserError`."""
    blocks = len(model.timesformer.encoder.layer)
    frozen = learning.freeze_blocks if learning.freeze_blocks >= 1 else round(learning.freeze_blocks * blocks)
    if frozen > blocks:
        raise UserError(f"--freeze_blocks is {frozen:g}, but the model has {blocks} blocks.")
    if learning.lora_rank:
        add_lora(model, learning)
    for name, weight in model.named_parameters():
        if frozen and model.layer_id(name) <= frozen:
            weight.requires_grad_(False)


def add_lora(model: TimesformerForVideoClassification, learning: LearningArguments) -> None:
    """Low-rank additions inside `model`, which stays the class it is; beside them only the head learns."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError('--lora_rank needs PEFT: pip install -e ".[lora]".') from error
    alpha = learning.lora_alpha if learning.lora_alpha is not None else 2 * learning.lora_rank
    config = LoraConfig(
        r=learning.lora_rank, lora_alpha=alpha, lora_dropout=learning.lora_dropout, target_modules=_TARGETS
    )
    inject_adapter_in_model(config, model)
    for weight in model.classifier.parameters():
        weight.requires_grad_(True)


def merge_lora(model: TimesformerForVideoClassification) -> None:
    """The additions become part of the weights: a plain TimeSformer again, with the same logits."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
