"""Attention within the windows of a clip: every token projected once, then grouped, attended, projected and put back.

Windows are read from section 3 of the TimeSformer paper (arXiv 2102.05095) and, where it is silent, from the authors'
code (facebookresearch/TimeSformer, models/vit.py):

| window | which patches a patch (row, column, frame) attends to | the class token |
|---|---|---|
| time | those of its place, in all frames | takes no part (the code; in the paper's equation it is a key) |
| frame | those of its frame | copied to every frame; its results are averaged (the code) |
| row, column | of its frame, those of its row, of its column | copied to every row, column; averaged likewise |
| clip | all | one of the tokens |
| local | in all frames, the rows / 2 by columns / 2 around it ("F x H/2 x W/2", counts rounded up; at a border the window is moved inside, so that it always holds that many) | a key for all; itself attends to all |
| global | those a multiple of 2 frames, rows and columns away from it ("a stride of 2 patches along the temporal dimension and also the two spatial dimensions", seen from the patch as in Child et al., arXiv 1904.10509) | likewise |

Local and global attention are computed as attention to the whole clip under a mask: they cost what `clip` costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.timesformer.modeling_timesformer import TimeSformerAttention

Window = Literal["time", "frame", "row", "column", "clip", "local", "global"]

# Of (batch, rows, columns, num_frames, channels): the axes that tell windows apart, then those that run inside one.
_AXES: dict[Window, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "time": ((1, 2), (3,)),
    "frame": ((3,), (1, 2)),
    "row": ((3, 1), (2,)),
    "column": ((3, 2), (1,)),
    "clip": ((), (1, 2, 3)),
    "local": ((), (1, 2, 3)),
    "global": ((), (1, 2, 3)),
}

# Tokens up to which a CPU is faster without torch's fused kernel, forward and backward (benchmarks/README.md).
_SHORT_ON_CPU = {torch.float32: 16, torch.bfloat16: 512}


def to_windows(patches: torch.Tensor, window: Window) -> torch.Tensor:
    """(batch, rows, columns, num_frames, channels) -> (batch, windows, patches of a window, channels)."""
    outer, inner = _AXES[window]
    windows = math.prod([patches.shape[axis] for axis in outer])
    length = math.prod([patches.shape[axis] for axis in inner])
    return patches.permute(0, *outer, *inner, 4).reshape(patches.shape[0], windows, length, patches.shape[4])


def from_windows(tokens: torch.Tensor, window: Window, shape: torch.Size) -> torch.Tensor:
    """The way back, to `shape`."""
    order = [0, *_AXES[window][0], *_AXES[window][1], 4]
    return tokens.reshape([shape[axis] for axis in order]).permute([order.index(axis) for axis in range(5)])


class StochasticDepth(nn.Module):
    """Leaves out a residual branch at random in training (arXiv 1603.09382). `rate` is no setting of the checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = 0.0

    def draw(self, like: torch.Tensor, groups: int) -> torch.Tensor | None:
        """Factors (groups, 1, 1): 0 with probability `rate`, else 1 / (1 - rate). None where nothing is left out."""
        if self.rate == 0.0 or not self.training:
            return None
        keep = 1 - self.rate
        return like.new_empty(groups, 1, 1).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


class StepDense(nn.Linear):
    """The linear map after an attention step that a ViT lacks: it starts at zero, so that the step adds nothing."""


class SpaceTimeAttention(TimeSformerAttention):
    """transformers' multi-head attention, parameters and names, over the windows of a clip."""

    is_causal = False  # asked for by the library's attention functions

    def __init__(self, config: Any):
        super().__init__(config)
        self.config = config

    def forward(
        self,
        patches: torch.Tensor,
        class_token: torch.Tensor,
        window: Window,
        drop_path: StochasticDepth,
        then: StepDense | None = None,
        class_only: bool = False,
        with_map: bool = False,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """What to add to the patches and to the class token (None: nothing, or not asked for), and the attention map.

        `patches` (batch, rows, columns, num_frames, hidden_size) and `class_token` (batch, 1, hidden_size) are
        normalised. `then` is a linear map after the output projection. `drop_path` leaves out whole windows, as the
        authors' code does. With `class_only` the patches are only attended to.
        """
        shape, heads = patches.shape, self.attention.num_heads
        tokens = to_windows(self.attention.qkv(patches), window)
        batch, windows, length = tokens.shape[:3]
        if window != "time":
            copies = self.attention.qkv(class_token)[:, None].expand(-1, windows, -1, -1)
            tokens = torch.cat((copies, tokens), dim=2)
            length += 1
        tokens = tokens.view(batch * windows, length, 3, heads, shape[-1] // heads)
        query, key, value = tokens.permute(2, 0, 3, 1, 4).unbind(0)
        if class_only:
            query, mask = query[:, :, :1], None
        else:
            mask = window_mask(window, shape[1:4], query)
        context, attention_map = self._attend(query, key, value, mask, with_map)
        added = self._project(context.flatten(2), drop_path.draw(context, batch * windows), then)
        added = added.view(batch, windows, query.shape[2], shape[-1])
        if window == "time":
            return from_windows(added, window, shape), None, attention_map
        class_added, added = added.split([1, added.shape[2] - 1], dim=2)
        return (
            None if class_only else from_windows(added, window, shape),
            class_added.mean(dim=1),
            attention_map,
        )

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, with_map: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(windows, tokens, heads, head_dim) from three tensors (windows, heads, tokens, head_dim), and the map."""
        name = self.config._attn_implementation
        if mask is not None and name.startswith("flash"):
            raise ValueError("sparse_local_global needs a mask, which flash attention does not take: use sdpa.")
        if with_map or (name == "sdpa" and _is_short_on_cpu(key)):
            name = "eager"
        dropout = self.attention.attn_drop.p if self.training else 0.0
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention)
        return attend(self, query, key, value, mask, dropout=dropout, scaling=self.attention.scale)

    def _project(self, context: torch.Tensor, keep: torch.Tensor | None, then: StepDense | None) -> torch.Tensor:
        dense, dropout = self.output.dense, self.output.dropout
        # Two linear maps in a row are one, unless dropout stands between them.
        is_free = is_plain_linear(dense, nn.Linear) and not (dropout.p and self.training)
        if then is not None and is_free and is_plain_linear(then, StepDense):
            weight, bias = then.weight @ dense.weight, then.weight @ dense.bias
            if keep is None:
                return F.linear(context, weight, bias + then.bias)
            return F.linear(context, weight, bias) * keep + then.bias
        added = dropout(dense(context))
        added = added if keep is None else added * keep
        return added if then is None else then(added)


def _is_short_on_cpu(key: torch.Tensor) -> bool:
    if key.device.type != "cpu" or torch.compiler.is_exporting():  # a program for every length must not ask for it
        return False
    return key.shape[2] <= _SHORT_ON_CPU.get(key.dtype, 0)


def is_plain_linear(module: nn.Module, kind: type) -> bool:
    """Whether its weight may be used without calling it: nothing wraps it (LoRA) or moves it in when called (offloading)."""
    return type(module) is kind and not hasattr(module, "_hf_hook")


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(query key^T) value as written, and the softmax. Signature and shapes of the library's interface."""
    scores = (query * scaling) @ key.transpose(-1, -2)
    if attention_mask is not None:
        scores = scores + attention_mask
    attention_map = F.dropout(scores.softmax(dim=-1), dropout)
    return (attention_map @ value).transpose(1, 2), attention_map


def window_mask(window: Window, shape: Sequence[int], like: torch.Tensor) -> torch.Tensor | None:
    """Of `local` and `global`: (batch, 1, tokens, tokens) to add to scores, 0 inside the window, minus infinity outside.

    `shape` is (rows, columns, num_frames); the first token is the class token; `like` is (batch, heads, tokens, head_dim).
    """
    if window not in ("local", "global"):
        return None
    allowed = torch.ones((), dtype=torch.bool, device=like.device)
    for axis, length in enumerate(shape):
        place = torch.arange(length, device=like.device)
        if window == "global":
            near = (place[:, None] - place) % 2 == 0
        elif axis < 2:
            near = _near(place, length)
        else:
            near = torch.ones(length, length, dtype=torch.bool, device=like.device)
        view = [1] * 6
        view[axis] = view[axis + 3] = length
        allowed = allowed & near.view(view)
    num_patches = math.prod(shape)
    allowed = F.pad(allowed.reshape(num_patches, num_patches), (1, 0, 1, 0), value=True)
    # Expanded, because flex attention looks the mask up by batch index.
    return like.new_zeros(allowed.shape).masked_fill(~allowed, float("-inf")).expand(like.shape[0], 1, -1, -1)


def _near(place: torch.Tensor, length: int) -> torch.Tensor:
    """(length, length): whether a key lies in the window of half the length that is centred on the query, moved inside."""
    size = math.ceil(length / 2)
    start = (place - size // 2).clamp(0, length - size)[:, None]
    return (place >= start) & (place < start + size)
