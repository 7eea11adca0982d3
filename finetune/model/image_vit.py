"""An image transformer of transformers -> a TimeSformer that starts from it, as the paper's start from an ImageNet ViT.

The image model's attention becomes the spatial one. At that start a clip of one still picture gives exactly the image
model's class token, for divided_space_time (whose temporal attention adds nothing yet) and space_only. The other schemes
start from the same weights, but attend to other tokens than the image model did.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from transformers import TimesformerConfig

from data_prep.errors import UserError

State = dict[str, torch.Tensor]

# Of one block, as releases and families of transformers name them -> as TimeSformer does.
_BLOCK = re.compile(r"(?:encoder\.layer|layers)\.(\d+)\.(.+)\.(weight|bias|lambda1)")
_PARTS = {
    "norm1": "layernorm_before",
    "layernorm_before": "layernorm_before",
    "norm2": "layernorm_after",
    "layernorm_after": "layernorm_after",
    "attention.q_proj": "query",
    "attention.attention.query": "query",
    "attention.k_proj": "key",
    "attention.attention.key": "key",
    "attention.v_proj": "value",
    "attention.attention.value": "value",
    "attention.o_proj": "attention.output.dense",
    "attention.output.dense": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "intermediate.dense": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "output.dense": "output.dense",
    "layer_scale1": "attention.output.dense",
    "layer_scale2": "output.dense",
}
_KEPT = ("embeddings.cls_token", "embeddings.position_embeddings", "embeddings.patch_embeddings.", "layernorm.")
_DROPPED = ("pooler.", "embeddings.mask_token", "embeddings.distillation_token", "embeddings.register_tokens")

HELP = "Give a TimeSformer checkpoint, or a ViT, DeiT or DINOv2 one (a directory or a Hub id)"


def extra_tokens(model: Any) -> list[str]:
    """Names of the tokens that are dropped and that the image model's class token looks at."""
    return [
        key.rpartition(".")[2] for key in model.state_dict() if key.endswith(("distillation_token", "register_tokens"))
    ]


def from_image_model(name: str, model: Any) -> tuple[TimesformerConfig, State]:
    """Configuration (without labels) and `timesformer.*` weights of a ViT-shaped image model. Raises `UserError`.

    ViT, DeiT and DINOv2, their self-supervised kin, and whatever else has a learned position for each patch, a class
    token, and blocks that normalise first. LayerScale is folded into the maps before it, exactly. Distillation and
    register tokens are dropped, since plain transformers could not load a TimeSformer that has them; the class token is
    then near the image model's, not equal to it.
    """
    source: State = model.state_dict()
    state: State = {}
    scales: State = {}
    for key, weight in source.items():
        block = _BLOCK.fullmatch(key)
        if block and block[2] in _PARTS:
            into = scales if block[3] == "lambda1" else state
            into[f"encoder.layer.{block[1]}.{_PARTS[block[2]]}.{block[3]}"] = weight
        elif key.startswith(_KEPT):
            state[key] = weight
        elif not key.startswith(_DROPPED):
            raise UserError(f"{name} is a {model.config.model_type} model with {key}, for which TimeSformer has no place. {HELP}.")  # fmt: skip
    for key, scale in scales.items():
        dense = key.removesuffix(".lambda1")
        state[f"{dense}.weight"] = state[f"{dense}.weight"] * scale[:, None]
        state[f"{dense}.bias"] = state[f"{dense}.bias"] * scale
    try:
        if "embeddings.distillation_token" in source:  # its place is the second
            positions = state["embeddings.position_embeddings"]
            state["embeddings.position_embeddings"] = torch.cat((positions[:, :1], positions[:, 2:]), dim=1)
        _join_queries_keys_values(state, model.config.num_hidden_layers)
        config = _configuration(model.config, state)
    except KeyError as error:
        raise UserError(f"{name} is a {model.config.model_type} model without {error.args[0]}, which TimeSformer needs. {HELP}.") from error  # fmt: skip
    return config, {f"timesformer.{key}": weight for key, weight in state.items()}


def _join_queries_keys_values(state: State, num_layers: int) -> None:
    for i in range(num_layers):
        block = f"encoder.layer.{i}."
        for kind in ("weight", "bias"):
            if kind == "bias" and f"{block}query.bias" not in state:
                continue
            parts = [state.pop(f"{block}{part}.{kind}") for part in ("query", "key", "value")]
            state[f"{block}attention.attention.qkv.{kind}"] = torch.cat(parts)


def _configuration(image: Any, state: State) -> TimesformerConfig:
    for needed in ("embeddings.cls_token", "embeddings.position_embeddings", "layernorm.weight"):
        state[needed]
    return TimesformerConfig(
        image_size=image.image_size,
        patch_size=image.patch_size,
        num_channels=image.num_channels,
        hidden_size=image.hidden_size,
        num_hidden_layers=image.num_hidden_layers,
        num_attention_heads=image.num_attention_heads,
        intermediate_size=len(state["encoder.layer.0.intermediate.dense.weight"]),
        hidden_act=image.hidden_act,
        hidden_dropout_prob=image.hidden_dropout_prob,
        attention_probs_dropout_prob=image.attention_probs_dropout_prob,
        initializer_range=image.initializer_range,
        layer_norm_eps=image.layer_norm_eps,
        qkv_bias="encoder.layer.0.attention.attention.qkv.bias" in state,
    )
