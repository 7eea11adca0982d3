"""Pixels -> tokens that know their place and time, and embeddings resized for other clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import TimesformerConfig
from transformers.models.timesformer import modeling_timesformer as reference

from finetune.model.attention import is_plain_linear


class PatchEmbeddings(reference.TimesformerPatchEmbeddings):
    """Pixels -> patches (batch, rows, columns, num_frames, hidden_size)."""

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """A convolution whose stride is its kernel is one product of matrices, which leaves patches where they belong."""
        num_channels, (patch_height, patch_width) = self.projection.in_channels, pair(self.patch_size)
        check_clip(pixel_values, num_channels, patch_height, patch_width)
        batch, num_frames, _, height, width = pixel_values.shape
        rows, columns = height // patch_height, width // patch_width
        if not is_plain_linear(self.projection, nn.Conv2d):
            embedded = self.projection(pixel_values.flatten(0, 1))
            return embedded.view(batch, num_frames, -1, rows, columns).permute(0, 3, 4, 1, 2)
        kernel = self.projection.weight
        cut = pixel_values.to(kernel.dtype).view(
            batch, num_frames, num_channels, rows, patch_height, columns, patch_width
        )
        flat = cut.permute(0, 3, 5, 1, 2, 4, 6).reshape(batch, rows, columns, num_frames, kernel[0].numel())
        return F.linear(flat, kernel.flatten(1), self.projection.bias)


class TimesformerEmbeddings(reference.TimesformerEmbeddings):
    """Pixels -> tokens, with the embeddings of place and time added."""

    def __init__(self, config: TimesformerConfig):
        super().__init__(config)
        self.patch_embeddings = PatchEmbeddings(config)

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`patches` (batch, rows, columns, num_frames, hidden_size) and `class_token` (batch, 1, hidden_size) of
        `pixel_values` (batch, num_frames, num_channels, height, width). Raises `ValueError` where that does not fit.
        """
        patches = self.patch_embeddings(pixel_values)
        rows, columns, num_frames = patches.shape[1:4]
        class_position, position = self._position(rows, columns)
        patches = self.pos_drop(patches + position)
        class_token = self.pos_drop((self.cls_token + class_position).expand(patches.shape[0], -1, -1))
        if self.attention_type != "space_only":
            patches = self.time_drop(patches + self._time(num_frames))
        return patches, class_token

    def _position(self, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings of the class token and of each place; for another grid those of the nearest place.

        The authors' rule, but by the shape of the grid: their code, and transformers', look at the number of patches
        alone, and would take 2x8 patches for 4x4.
        """
        own = grid_of(self.patch_embeddings)
        class_position, position = self.position_embeddings.split([1, own[0] * own[1]], dim=1)
        position = position.view(1, *own, -1)
        if own != (rows, columns):
            position = F.interpolate(position.permute(0, 3, 1, 2), size=(rows, columns)).permute(0, 2, 3, 1)
        return class_position, position[:, :, :, None]

    def _time(self, num_frames: int) -> torch.Tensor:
        time = self.time_embeddings
        if time.shape[1] != num_frames:
            time = F.interpolate(time.transpose(1, 2), size=num_frames).transpose(1, 2)
        return time[:, None, None]


def grid_of(sized: Any) -> tuple[int, int]:
    """(rows, columns) of patches of whatever has `image_size` and `patch_size`, numbers or pairs, as a configuration."""
    rows, columns = (size // patch for size, patch in zip(pair(sized.image_size), pair(sized.patch_size)))
    return rows, columns


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def check_clip(pixel_values: torch.Tensor, num_channels: int, patch_height: int, patch_width: int) -> None:
    """Raises `ValueError` saying what fits."""
    shape = tuple(pixel_values.shape)
    if len(shape) != 5:
        raise ValueError(
            f"pixel_values has shape {shape}, expected (batch, num_frames, {num_channels}, height, width)."
        )
    if shape[2] != num_channels:
        hint = " Frames come before channels: transpose(1, 2)." if shape[1] == num_channels else ""
        raise ValueError(f"pixel_values has {shape[2]} channels in shape {shape}, expected {num_channels}.{hint}")
    height, width = shape[3:]
    if height % patch_height or width % patch_width or not (height and width and shape[1]):
        fits = max(1, round(height / patch_height)) * patch_height, max(1, round(width / patch_width)) * patch_width
        raise ValueError(
            f"pixel_values has {shape[1]} frames of {height}x{width} pixels, expected whole patches of "
            f"{patch_height}x{patch_width}: {fits[0]}x{fits[1]} would fit."
        )


def resize_positions(position_embeddings: torch.Tensor, old: tuple[int, int], new: tuple[int, int]) -> torch.Tensor:
    """(1, 1 + rows * columns, hidden_size) of the grid `new`, bicubic in two dimensions, from those of the grid `old`.

    For a checkpoint that is adapted for good; the class token's embedding comes first and stays.
    """
    class_position, position = position_embeddings.float().split([1, old[0] * old[1]], dim=1)
    position = position.view(1, *old, -1).permute(0, 3, 1, 2)
    position = F.interpolate(position, size=new, mode="bicubic", align_corners=False)
    resized = torch.cat((class_position, position.permute(0, 2, 3, 1).flatten(1, 2)), dim=1)
    return resized.to(position_embeddings.dtype)


def resize_times(time_embeddings: torch.Tensor, num_frames: int) -> torch.Tensor:
    """(1, num_frames, hidden_size), linear in time, for a checkpoint that is adapted for good."""
    resized = F.interpolate(
        time_embeddings.float().transpose(1, 2), size=num_frames, mode="linear", align_corners=False
    )
    return resized.transpose(1, 2).to(time_embeddings.dtype)
