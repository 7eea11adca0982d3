"""A start that tells early from late, for clips too few to find time by themselves.

The paper's start, times at zero and temporal attention that adds nothing, gives a clip and its reverse the same class
token: a plateau that a few hundred clips do not leave (benchmarks/README.md, "Accuracy"). Here each frame carries its
moment in one direction of the tokens that pictures hardly use, and temporal attention of the upper third of the blocks
adds to each patch what is there late minus what is there early. Both are fitted to a few clips. That costs much of what
the image model knows of pictures ("Start from an image model", likewise).
"""

from __future__ import annotations

import math

import torch

from data_prep.errors import UserError
from finetune.clips.batch import collate, normalise
from finetune.clips.clip import IGNORED, Clips
from finetune.clips.dataset import Splits
from finetune.model.layer import TimesformerLayer
from finetune.model.modeling import TimesformerForVideoClassification
from finetune.training.trainer import VideoTrainer

# Chosen on clips of SkateboardML played both ways, for DINOv2-small at 112 px (benchmarks/README.md, "Accuracy").
_CLIPS = 32  # that it is fitted to
_LOUDNESS = 3.0  # root mean square of the time embeddings over that of the position embeddings
_SHARPNESS = 3.0  # of the attention to late and to early moments: about 0.7 of it is on the last of 8 frames
_FIRST_BLOCK = 2 / 3  # of all blocks
_RIDGE = 1e-3  # of the mean variance of a channel


def start_time(trainer: VideoTrainer, splits: Splits) -> None:
    """The contrast start of the trainer's model, from some training videos. Each process does the same."""
    clips = Clips(splits.train, trainer.train_dataset.maker, training=False)
    order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(trainer.args.seed))
    batch = collate([clips[int(i)] for i in order[:_CLIPS]])
    readable = (batch["labels"].reshape(len(batch["labels"]), -1) != IGNORED).all(1)
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
    moments = _moments(pixel_values.shape[1], pixel_values.device)
    embeddings.time_embeddings.zero_()
    quiet = quiet_direction(embeddings(pixel_values)[0])
    loudness = _LOUDNESS * embeddings.position_embeddings[:, 1:].norm(dim=-1).square().mean().sqrt()
    embeddings.time_embeddings.copy_(loudness * moments[:, None] * quiet)
    patches, class_token = embeddings(pixel_values)
    for i, layer in enumerate(layers):
        if i >= round(_FIRST_BLOCK * len(layers)) and "temporal" in layer.first_steps:
            fit_contrast(layer, patches, moments)
        patches, class_token, _ = layer(patches, class_token)


def _moments(num_frames: int, device: torch.device) -> torch.Tensor:
    """(num_frames,), evenly from early to late, of mean 0 and root mean square 1."""
    moments = torch.linspace(-1, 1, num_frames, device=device)
    return moments / moments.square().mean().sqrt()


def quiet_direction(patches: torch.Tensor) -> torch.Tensor:
    """(hidden_size,), of length 1: the one in which the patches of pictures differ least."""
    tokens = patches.flatten(0, -2).double()  # the least is a millionth of a millionth of the most
    _, directions = torch.linalg.eigh(torch.cov(tokens.T))  # the quietest first
    quietest = directions[:, 0]
    return (quietest * quietest[quietest.abs().argmax()].sign()).to(patches)


def fit_contrast(layer: TimesformerLayer, patches: torch.Tensor, moments: torch.Tensor) -> None:
    """Temporal attention of `layer`: half of the heads look at late frames and the other half at early ones, whatever the
    query; they carry the same directions, those that change most, and the difference is added, as loud as `patches` are.

    One channel of each query and key reads the moment. The others are zero and stay so, since neither gives the other a
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
    tokens = norm(patches)
    directions = changing_directions(tokens, pairs * size)
    query, key, value = qkv.weight.view(3, heads, size, -1)
    query.zero_()
    qkv.bias.zero_()
    key.zero_()
    key[:, 0] = moment_reader(tokens, moments)
    towards = torch.ones(pairs, device=patches.device) * _SHARPNESS * math.sqrt(size)
    qkv.bias.view(3, heads, size)[0, : 2 * pairs, 0] = torch.cat((towards, -towards))
    value[: 2 * pairs] = directions.T.view(pairs, size, -1).repeat(2, 1, 1)
    attention.output.dense.weight.copy_(torch.eye(patches.shape[-1]))
    attention.output.dense.bias.zero_()
    loudness = patches.std(dim=-1).mean()
    dense.weight.zero_()
    dense.weight[:, : 2 * pairs * size] = loudness * torch.cat((directions, -directions), dim=1)
    dense.bias.zero_()


def moment_reader(tokens: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
    """(hidden_size,): what reads the moment off a token `(..., num_frames, hidden_size)`. Ridge regression, scaled so that
    a frame's tokens read its moment on average.
    """
    flat = tokens.flatten(0, -2).double()
    wanted = moments.double().repeat(len(flat) // len(moments))
    centred = flat - flat.mean(0)
    products = centred.T @ centred
    products += _RIDGE * products.diagonal().mean() * torch.eye(len(products)).to(products)
    reader = torch.linalg.solve(products, centred.T @ wanted)
    return (reader * wanted.square().sum() / (centred @ reader @ wanted)).to(tokens)


def changing_directions(tokens: torch.Tensor, count: int) -> torch.Tensor:
    """(hidden_size, count), orthonormal: in which tokens `(..., num_frames, hidden_size)` differ most between the first and
    the last quarter of the frames, apart from the change that all have in common, which is the moment itself.
    """
    ends = max(1, tokens.shape[-2] // 4)
    change = (tokens[..., -ends:, :].mean(-2) - tokens[..., :ends, :].mean(-2)).flatten(0, -2).double()
    common = torch.nn.functional.normalize(change.mean(0), dim=0)
    change = change - (change @ common)[:, None] * common
    _, directions = torch.linalg.eigh(change.T @ change)
    return directions[:, -count:].to(tokens)
