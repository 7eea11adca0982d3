"""TimeSformer ("Is Space-Time Attention All You Need for Video Understanding?", arXiv 2102.05095), correct and fast.

`TimesformerForVideoClassification` is transformers' class with its parameter names: checkpoints of either load in the
other and give the same logits wherever transformers is right. What this one adds: all five attention schemes of the
paper, any number of frames and any frame size that whole patches fill, the library's attention implementations, maps of
every attention, stochastic depth, and a forward pass that computes nothing twice (finetune/model/attention.py).

Inside, a clip is two tensors: `patches` (batch, rows, columns, num_frames, hidden_size) and `class_token`
(batch, 1, hidden_size). To the outside it is transformers' one: the class token, then the patches row by row, the frames
of each patch innermost.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import nn
from transformers import TimesformerConfig, initialization
from transformers.loss.loss_utils import ForSequenceClassificationLoss
from transformers.modeling_outputs import BaseModelOutput, ImageClassifierOutput
from transformers.models.timesformer import modeling_timesformer as reference

from finetune.model.attention import StepDense
from finetune.model.embeddings import TimesformerEmbeddings
from finetune.model.layer import FIRST_STEPS, AttentionMaps, TimesformerEncoder, TimesformerLayer

MULTI_LABEL = "multi_label_classification"  # `problem_type` of a model that gives several labels to a video


def probabilities(logits: torch.Tensor, config: TimesformerConfig) -> torch.Tensor:
    """Scores of the shape of `logits` `(..., num_labels)`, as transformers' pipeline gives them: they add up to 1, or of
    several labels are each a probability of its own.
    """
    return logits.sigmoid() if config.problem_type == MULTI_LABEL else logits.softmax(-1)


def is_plain(config: TimesformerConfig) -> bool:
    """Whether transformers' own class gives this model's logits: it lacks two schemes, is wrong about space_only (a row
    of logits per frame) and fails on rectangles.
    """
    is_square = isinstance(config.image_size, int) and isinstance(config.patch_size, int)
    return is_square and config.attention_type in ("divided_space_time", "joint_space_time")


@dataclass
class TimesformerModelOutput(BaseModelOutput):
    """transformers' output and `step_attentions`: of each layer, the maps of all attention steps by parameter name.

    `attentions` has of each layer the map of its last step, as in transformers. Shapes, with N = rows * columns patches
    a frame, T frames, and queries before keys: `temporal_attention` (batch * N, heads, T, T); `attention`
    (batch * T, heads, 1 + N, 1 + N) for divided_space_time and space_only, (batch, heads, 1 + N * T, 1 + N * T) for
    joint_space_time and sparse_local_global, there also `local_attention`; for axial `width_attention`
    (batch * T * rows, heads, 1 + columns, 1 + columns) and `attention` (batch * T * columns, heads, 1 + rows, 1 + rows).
    The class token comes first. `hidden_states` of space_only have a row for each frame, as in transformers.
    """

    step_attentions: tuple[AttentionMaps, ...] | None = None


@dataclass
class TimesformerOutput(ImageClassifierOutput):
    """transformers' output and `step_attentions`, as in `TimesformerModelOutput`."""

    step_attentions: tuple[AttentionMaps, ...] | None = None


class TimesformerPreTrainedModel(reference.TimesformerPreTrainedModel):
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As the authors: truncated normal, times at zero, and the map after a step that a ViT lacks at zero."""
        if isinstance(module, StepDense):
            initialization.zeros_(module.weight)
            initialization.zeros_(module.bias)
            return
        super()._init_weights(module)
        if isinstance(module, TimesformerEmbeddings) and module.attention_type != "space_only":
            initialization.zeros_(module.time_embeddings)


class TimesformerModel(TimesformerPreTrainedModel):
    """Embeddings, blocks and the last norm."""

    def __init__(self, config: TimesformerConfig):
        super().__init__(config)
        if config.attention_type not in FIRST_STEPS:
            raise ValueError(f"attention_type is {config.attention_type!r}, expected one of {', '.join(FIRST_STEPS)}.")
        self.embeddings = TimesformerEmbeddings(config)
        self.encoder = TimesformerEncoder(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embeddings

    def forward(
        self,
        pixel_values: torch.Tensor,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        class_only: bool = False,
    ) -> tuple | TimesformerModelOutput:
        """`last_hidden_state` (batch, 1 + patches * num_frames, hidden_size), class token first; of space_only the mean
        over the frames (batch, 1 + patches, hidden_size). With `class_only` (batch, 1, hidden_size): the class token,
        which is all that a classifier reads, and in the last block all that is computed.
        """
        with_maps = self.config.output_attentions if output_attentions is None else output_attentions
        with_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        class_only = class_only and not with_states and not with_maps
        patches, class_token = self.embeddings(pixel_values)
        num_frames = patches.shape[3]
        if self.config.attention_type == "space_only":  # each frame is a clip of its own
            patches = patches.permute(0, 3, 1, 2, 4).flatten(0, 1)[:, :, :, None]
            class_token = class_token.repeat_interleave(num_frames, dim=0)
        states, maps = [], []
        for layer in self.encoder.layer:
            if with_states:
                states.append(in_order(patches, class_token))
            is_last = layer is self.encoder.layer[-1]
            patches, class_token, of_layer = layer(patches, class_token, with_maps, class_only and is_last)
            maps.append(of_layer)
        if with_states:
            states.append(in_order(patches, class_token))
        last = class_token if class_only else in_order(patches, class_token)
        if self.config.attention_type == "space_only":
            last = last.unflatten(0, (-1, num_frames)).mean(dim=1)
        output = TimesformerModelOutput(
            last_hidden_state=self.layernorm(last),
            hidden_states=tuple(states) if with_states else None,
            attentions=tuple(of_layer["attention"] for of_layer in maps) if with_maps else None,
            step_attentions=tuple(maps) if with_maps else None,
        )
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()


def in_order(patches: torch.Tensor, class_token: torch.Tensor) -> torch.Tensor:
    """One tensor (batch, 1 + rows * columns * num_frames, hidden_size), as transformers has it."""
    return torch.cat((class_token, patches.flatten(1, 3)), dim=1)


class TimesformerForVideoClassification(TimesformerPreTrainedModel, reference.TimesformerForVideoClassification):
    """A TimeSformer with a linear head on its class token. Is transformers' class, but for what it computes.

    To change the size of a checkpoint's clips for good go through `finetune.model.weights.load_start`: `from_pretrained` with
    `ignore_mismatched_sizes` draws embeddings of another size anew, here as in transformers.
    """

    def __init__(self, config: TimesformerConfig):
        super(reference.TimesformerForVideoClassification, self).__init__(config)  # not the blocks of transformers
        self.num_labels = config.num_labels
        self.timesformer = TimesformerModel(config)
        self.head_dropout = nn.Dropout(0.0)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels) if config.num_labels else nn.Identity()
        self.post_init()

    # Without **kwargs: Trainer takes them as a promise to average the loss over accumulated batches itself.
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple | TimesformerOutput:
        """`logits` (batch, num_labels) of `pixel_values` (batch, num_frames, num_channels, height, width), and with
        `labels` the loss that `config.problem_type` names, as in transformers. Raises `ValueError` on other shapes.
        """
        outputs = self.timesformer(
            pixel_values, output_attentions, output_hidden_states, return_dict=True, class_only=True
        )
        logits = self.classifier(self.head_dropout(outputs.last_hidden_state[:, 0]))
        loss = None if labels is None else ForSequenceClassificationLoss(labels, logits, self.config)
        output = TimesformerOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            step_attentions=outputs.step_attentions,
        )
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()

    def regularize(self, drop_path_rate: float, head_dropout: float) -> None:
        """Stochastic depth, from 0 in the first block to `drop_path_rate` in the last (the authors' rule; 0.1 in their
        recipes), and dropout before the head. They belong to a training run: no checkpoint carries them.
        """
        blocks = [module for module in self.modules() if isinstance(module, TimesformerLayer)]
        for block, rate in zip(blocks, torch.linspace(0, drop_path_rate, len(blocks)).tolist()):
            block.drop_path.rate = rate
        self.head_dropout.p = head_dropout

    def no_weight_decay(self) -> set[str]:
        """Names of the embeddings that the authors' code lists as free of weight decay (their recipes decay all)."""
        named = ("cls_token", "position_embeddings", "time_embeddings")
        return {name for name, _ in self.named_parameters() if name.endswith(named)}

    def layer_id(self, name: str) -> int:
        """For layer-wise decay of the learning rate: 0 for the embeddings, 1 for the first block, ..., last for the head.

        The numbering of BEiT (arXiv 2106.08254) and its followers; the last norm goes with the head.
        """
        if ".embeddings." in name:
            return 0
        block = re.search(r"\.layer\.(\d+)\.", name)
        return int(block[1]) + 1 if block else len(self.timesformer.encoder.layer) + 1
