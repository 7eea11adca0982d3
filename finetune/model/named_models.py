"""Models that start from random weights, by name."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import TimesformerConfig

from finetune.model.attention import StepDense
from finetune.model.modeling import TimesformerForVideoClassification

# The paper's three (section 4): 8 frames of 224 px, 16 of 448 (HR), 96 of 224 (L, for long), all with a ViT of the size B.
# tiny is the demonstration's; small has the width of a ViT-S. initializer_range: the usual 0.02 is for a width of 768; at
# a width of 96 it leaves attention almost shut, and a thousand clips then teach the axis of a motion but not its
# direction (measured on the demonstration). 0.1 is 96**-0.5.
NAMED_MODELS: dict[str, dict[str, Any]] = {
    "timesformer-tiny": {
        "image_size": 48, "patch_size": 12, "num_frames": 8, "initializer_range": 0.1,
        "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 384,
    },
    "timesformer-small": {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536},
    "timesformer-base": {"image_size": 224, "num_frames": 8},
    "timesformer-hr": {"image_size": 448, "num_frames": 16},
    "timesformer-large": {"image_size": 224, "num_frames": 96},
}  # fmt: skip

# Standard deviation of their time embeddings: the scale of the tokens. At zero, where the authors start from an image
# model, the order of frames is a plateau that few clips do not leave.
_TIME_EMBEDDING_STD = 0.5


def random_model(config: TimesformerConfig) -> TimesformerForVideoClassification:
    """Weights from torch's global generator. Nothing is zeroed to keep an image model whole, as there is none."""
    model = TimesformerForVideoClassification(config)
    if config.attention_type != "space_only":
        nn.init.normal_(model.timesformer.embeddings.time_embeddings, std=_TIME_EMBEDDING_STD)
    for module in model.modules():
        if isinstance(module, StepDense):
            nn.init.trunc_normal_(module.weight, std=config.initializer_range)
    return model
