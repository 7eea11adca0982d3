"""A start that tells early from late, for clips too few to find time by themselves.

The paper's start, times at zero and temporal attention that adds nothing, gives a clip and its reverse the same class
token: a plateau that a few hundred clips do not leave (benchmarks/README.md, "Accuracy"). Here each frame carries its
moment in a channel of its own, one direction of the tokens that pictures hardly use and that nothing but temporal
attention reads, and in the last blocks temporal attention adds to each patch what it is late minus what it is early. A
clip of one still picture stays nearly what the image model makes of it ("Start from an image model", likewise).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise

import torch
from torch import nn

from data_prep.errors import UserError
from finetune.clips.batch import collate, normalise
from finetune.clips.clip import IGNORED, Clips
from finetune.clips.dataset import Splits
from finetune.model.layer import TimesformerLayer
from finetune.model.modeling import TimesformerForVideoClassification
from finetune.training.probe import train_head
from finetune.training.trainer import VideoTrainer

# Chosen by cross-validation of a linear head on 150 clips of SkateboardML played both ways, for DINOv2-small at 112 px.
_CLIPS = 32  # that it is fitted to
_CONTRASTS = 2  # blocks at the end; one carries one half of the channels, the other the other
_SHARPNESS = 1.0  # of the attention to late and to early moments: the later half of 8 frames has 0.85 of it


def start_measured_time(trainer: VideoTrainer, splits: Splits) -> None:
    """Zeros, or contrast where from it a linear probe tells the labels of videos it was not fitted to clearly better. The
    head is then the probe's. Each process does the same, and training goes on as if the start that is kept had been asked
    for, random numbers included.
    """
    zeros = train_head(trainer, splits)
    kept = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    with torch.random.fork_rng(devices=[]):  # from which loaders draw their seeds
        try:
            start_time(trainer, splits)
        except UserError as error:
            better, found = False, f"contrast cannot be ({error})"
        else:
            better, found = clearly_less(train_head(trainer, splits), zeros)
    if not better:
        trainer.model.load_state_dict(kept)
    if trainer.is_world_process_zero():
        print(f"time: {'contrast taken' if better else 'zeros kept'}; {found}")


def clearly_less(contrast: torch.Tensor, zeros: torch.Tensor) -> tuple[bool, str]:
    """Whether the held-out losses `(videos,)` from the contrast are less than those from zeros, of the same videos, by more
    than one standard error (the rule of Breiman, Friedman, Olshen and Stone, 1984: of two that differ by less, the simpler);
    and the words that say so.
    """
    if len(zeros) < 2 or len(contrast) != len(zeros):
        return False, "the same two videos or more could not be held out for both"
    less = zeros - contrast
    error = float(less.std()) / math.sqrt(len(less))
    found = f"{zeros.mean():.4f} with zeros, {contrast.mean():.4f} with contrast (standard error of the difference {error:.4f})"
    return float(less.mean()) > error, f"held-out loss of a linear probe {found}"


def start_time(trainer: VideoTrainer, splits: Splits) -> None:
    """The contrast start of the trainer's model, from some training videos. Each process does the same. Raises `UserError`
    where none of them can be read.
    """
    clips = Clips(splits.train, trainer.train_dataset.maker, training=False)
    order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(trainer.args.seed))
    batch = collate([clips[int(i)] for i in order[:_CLIPS]])
    readable = (batch["labels"].reshape(len(batch["labels"]), -1) != IGNORED).all(1)
    if not readable.any():
        raise UserError(
            f"--time_start contrast: none of the {len(readable)} training videos that it would be fitted to can be read any "
            "more. Restore them, run data_prep again, or leave --time_start out."
        )
    pixels = batch["pixel_values"][readable].to(trainer.args.device)
    start_contrast(trainer.model, normalise(pixels, trainer.processing_class))
    if trainer.is_world_process_zero():
        print(f"time: contrast of late and early frames, fitted to {len(pixels)} training videos")


@torch.no_grad()
def start_contrast(model: TimesformerForVideoClassification, pixel_values: torch.Tensor) -> None:
    """Sets time embeddings and temporal attention of `model`, fitted to clips: normalised float32
    `(clips, num_frames, channels, height, width)`. Schemes without temporal attention get the embeddings alone.
    """
    if pixel_values.shape[1] < 2:
        raise UserError("--time_start contrast needs clips of at least two frames: --num_frames 8.")
    model.eval()
    embeddings = model.timesformer.embeddings
    layers = [block for block in model.modules() if isinstance(block, TimesformerLayer)]
    moments = torch.linspace(-1, 1, pixel_values.shape[1], device=pixel_values.device)
    moments = moments / moments.square().mean().sqrt()
    embeddings.time_embeddings.zero_()
    channel = quiet_channel(patches for _, patches in inputs_of(layers, *embeddings(pixel_values)))
    embeddings.time_embeddings.copy_(moments[:, None] * channel)
    contrasting = [layer for layer in layers if "temporal" in layer.first_steps]
    for layer in contrasting:
        hide(channel, layer)
    halves = {layer: i % 2 for i, layer in enumerate(contrasting[-_CONTRASTS:])}
    for layer, patches in inputs_of(layers, *embeddings(pixel_values)):
        if layer in halves:
            fit_contrast(layer, patches, moments, channel, halves[layer])


def inputs_of(
    layers: list[TimesformerLayer], patches: torch.Tensor, class_token: torch.Tensor
) -> Iterator[tuple[TimesformerLayer, torch.Tensor]]:
    """Each layer and the patches it is given; it is run after it was handed out, unless it is the last."""
    yield layers[0], patches
    for before, layer in pairwise(layers):
        patches, class_token, _ = before(patches, class_token)
        yield layer, patches


def quiet_channel(inputs: Iterable[torch.Tensor]) -> torch.Tensor:
    """(hidden_size,): the direction in which the patches `(..., hidden_size)` of all blocks, each beside its own size, are
    smallest, among those that the norms leave alone because their mean is 0. Its length: what a patch's features have as
    root mean square in the last block.
    """
    products: torch.Tensor | float = 0.0
    for patches in inputs:
        tokens = patches.flatten(0, -2).double()
        size = tokens.square().mean()
        products = products + tokens.T @ tokens / (len(tokens) * size)
    _, directions = torch.linalg.eigh(products + 1.0)  # the quietest first; of mean 0, since others are made loud
    quietest = directions[:, 0]
    return (quietest * quietest[quietest.abs().argmax()].sign() * size.sqrt()).to(patches)


def hide(channel: torch.Tensor, layer: TimesformerLayer) -> None:
    """Nothing in `layer` but temporal attention reads the direction `channel`: it is taken out of all other maps."""
    readers = [
        (layer.layernorm_before, layer.attention.attention.qkv),
        (layer.layernorm_after, layer.intermediate.dense),
    ]
    for name in layer.first_steps:
        if name != "temporal":
            readers.append((getattr(layer, f"{name}_layernorm"), getattr(layer, f"{name}_attention").attention.qkv))
    for norm, linear in readers:
        direction = nn.functional.normalize(norm.weight * channel, dim=0)
        read = linear.weight @ direction
        linear.weight.sub_(
            read[:, None] * direction
        )  # in place: a layer with low-rank additions only lends its weights
        if linear.bias is not None:
            linear.bias.add_(read * (norm.bias @ direction))  # what the norm's bias gave stays


def fit_contrast(
    layer: TimesformerLayer, patches: torch.Tensor, moments: torch.Tensor, channel: torch.Tensor, half: int
) -> None:
    """Temporal attention of `layer`: half of the heads look at late frames and the other half at early ones, whatever the
    query; they carry the same features, every other one from `half` on, and the difference is added, as loud as `patches`.

    One feature of each query and key reads the moment. The others are zero and stay so, since neither gives the other a
    gradient: when a patch looks is all that attention learns, beside what it carries.
    """
    norm, attention, dense = layer.temporal_layernorm, layer.temporal_attention, layer.temporal_dense
    heads = attention.attention.num_heads
    pairs, size = heads // 2, patches.shape[-1] // heads
    qkv = attention.attention.qkv
    if not pairs or qkv.bias is None:
        raise UserError(
            "--time_start contrast needs two attention heads and biases of the queries, which this model lacks."
        )
    norm.weight.fill_(1)
    norm.bias.zero_()
    _, key, value = qkv.weight.zero_().view(3, heads, size, -1)
    key[:, 0] = channel * len(moments) / (norm(patches) @ channel @ moments).mean()
    towards = torch.full((pairs,), _SHARPNESS * math.sqrt(size), device=patches.device)
    qkv.bias.zero_().view(3, heads, size)[0, : 2 * pairs, 0] = torch.cat((towards, -towards))
    features = torch.arange(half, patches.shape[-1], 2, device=patches.device)[: pairs * size]
    carried = nn.functional.one_hot(features, patches.shape[-1]).to(patches)
    value[: 2 * pairs] = carried.view(pairs, size, -1).repeat(2, 1, 1)
    attention.output.dense.weight.copy_(torch.eye(patches.shape[-1]))
    attention.output.dense.bias.zero_()
    loudness = patches.std(dim=-1).mean()
    dense.weight.zero_()[:, : 2 * len(features)] = loudness * torch.cat((carried, -carried)).T
    dense.bias.zero_()
