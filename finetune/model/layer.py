"""The blocks of TimeSformer, and which attention steps each scheme of the paper makes of them.

Inside, a clip is two tensors: `patches` (batch, rows, columns, num_frames, hidden_size) and `class_token`
(batch, 1, hidden_size).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import TimesformerConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.timesformer import modeling_timesformer as reference

from finetune.model.attention import SpaceTimeAttention, StepDense, StochasticDepth, Window

# The attention steps of each scheme in the order they run (figure 2 of the paper). Each has its own queries, keys and
# values. The last step of a block has the parameters a ViT block has: `attention` and `layernorm_before`; a step before
# it, NAME, has `NAME_layernorm`, `NAME_attention` and, as the authors' temporal attention, a linear map after it,
# `NAME_dense`. With these the parameters of the paper's table 1 come out: 85.9, 85.9, 121.4, 121.4 and 156.8 million.
FIRST_STEPS: dict[str, dict[str, Window]] = {
    "space_only": {},
    "joint_space_time": {},
    "divided_space_time": {"temporal": "time"},
    "sparse_local_global": {"local": "local"},
    "axial": {"temporal": "time", "width": "row"},
}
LAST_WINDOW: dict[str, Window] = {
    "space_only": "frame",
    "joint_space_time": "clip",
    "divided_space_time": "frame",
    "sparse_local_global": "global",
    "axial": "column",
}
ATTENTION_TYPES = tuple(FIRST_STEPS)

AttentionMaps = dict[str, torch.Tensor | None]


class TimesformerLayer(GradientCheckpointingLayer):
    """One block: the scheme's attention steps, then the MLP, each on the normalised tokens and added to them."""

    def __init__(self, config: TimesformerConfig):
        super().__init__()
        self.first_steps, self.last_window = FIRST_STEPS[config.attention_type], LAST_WINDOW[config.attention_type]
        for name in self.first_steps:
            self.add_module(f"{name}_layernorm", nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps))
            self.add_module(f"{name}_attention", SpaceTimeAttention(config))
            self.add_module(f"{name}_dense", StepDense(config.hidden_size, config.hidden_size))
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = SpaceTimeAttention(config)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate = reference.TimesformerIntermediate(config)
        self.output = reference.TimesformerOutput(config)
        self.drop_path = StochasticDepth()

    def forward(
        self, patches: torch.Tensor, class_token: torch.Tensor, with_maps: bool = False, class_only: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, AttentionMaps]:
        """Both after the block, and the maps of its steps. With `class_only` the class token alone goes all the way."""
        maps: AttentionMaps = {}
        for name, window in self.first_steps.items():
            norm: nn.Module = getattr(self, f"{name}_layernorm")
            attention: SpaceTimeAttention = getattr(self, f"{name}_attention")
            dense: StepDense = getattr(self, f"{name}_dense")
            added, class_added, maps[f"{name}_attention"] = attention(
                norm(patches), norm(class_token), window, self.drop_path, then=dense, with_map=with_maps
            )
            patches = patches + added
            class_token = class_token if class_added is None else class_token + class_added
        norm = self.layernorm_before
        added, class_added, maps["attention"] = self.attention(
            norm(patches),
            norm(class_token),
            self.last_window,
            self.drop_path,
            class_only=class_only,
            with_map=with_maps,
        )
        class_token = class_token + class_added
        keep = self.drop_path.draw(class_token, class_token.shape[0])
        class_token = class_token + self._mlp(class_token, keep)
        if not class_only:
            patches = patches + added
            patches = patches + self._mlp(patches, None if keep is None else keep[..., None, None])
        return patches, class_token, maps

    def _mlp(self, tokens: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
        hidden = self.intermediate.dense(self.layernorm_after(tokens))
        if self.training and torch.is_grad_enabled():
            # What the activation gives is the largest thing to keep for the backward pass and cheap to compute again.
            added = checkpoint(self._mlp_end, hidden, use_reentrant=False)
        else:
            added = self._mlp_end(hidden)
        return added if keep is None else added * keep

    def _mlp_end(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.output(self.intermediate.dropout(self.intermediate.intermediate_act_fn(hidden)))


class TimesformerEncoder(nn.Module):
    """The blocks, under transformers' name."""

    def __init__(self, config: TimesformerConfig):
        super().__init__()
        self.layer = nn.ModuleList(TimesformerLayer(config) for _ in range(config.num_hidden_layers))
