"""python -m finetune.explain: where and when the model looked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import blobs, encode
from torch.nn import functional as F
from transformers import TimesformerConfig

from data_prep.errors import UserError
from data_prep.video import probe, read_frames
from finetune.explain import main
from finetune.model.attention import to_windows
from finetune.model.layer import ATTENTION_TYPES
from finetune.model.modeling import TimesformerForVideoClassification
from finetune.model.named_models import random_model
from finetune.use.relevance import METHODS, explain_clip, step_back


def tiny(attention_type: str = "divided_space_time", num_frames: int = 4) -> TimesformerForVideoClassification:
    config = TimesformerConfig(
        image_size=48, patch_size=12, num_frames=num_frames, attention_type=attention_type, initializer_range=0.1,
        hidden_size=96, num_hidden_layers=3, num_attention_heads=4, intermediate_size=192, num_labels=2,
    )  # fmt: skip
    return random_model(config).eval()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_every_scheme_has_both(attention_type: str, method: str) -> None:
    torch.manual_seed(0)
    heat = explain_clip(tiny(attention_type), torch.randn(1, 4, 3, 24, 48), label=1, method=method)
    assert heat.shape == (4, 2, 4) and not heat.requires_grad
    assert bool((heat >= 0).all()) and float(heat.max()) > 0
    if method == "rollout":  # shares of one whole; the rest is the class token's own
        assert 0 < float(heat.sum()) < 1


def test_a_rollout_is_the_product_of_the_mixed_maps() -> None:
    """Against the formula with matrices of all tokens: class token first, then the patches as `joint_space_time` has them."""
    torch.manual_seed(0)
    model, values = tiny("joint_space_time"), torch.randn(1, 2, 3, 24, 24)
    with torch.no_grad():
        maps = model(pixel_values=values, output_attentions=True).attentions
    rolled = torch.eye(9)
    for one in maps:
        rolled = (one[0].mean(0) + torch.eye(9)) / 2 @ rolled
    expected = rolled[0, 1:].reshape(2, 2, 2).permute(2, 0, 1)
    assert torch.allclose(explain_clip(model, values, 0, "rollout"), expected, atol=1e-6)


@pytest.mark.parametrize("window", ["time", "frame", "row", "column"])
def test_a_step_back_is_the_transposed_step(window: str) -> None:
    """<g, step(x)> == <step_back(g), x>, with the step written out: copies of the class token, their results averaged."""
    torch.manual_seed(0)
    shape = (2, 3, 4)
    x, g, x_class, g_class = torch.rand(shape), torch.rand(shape), torch.rand(()), torch.rand(())
    tokens, wanted = (to_windows(one[None, ..., None], window)[0, :, :, 0] for one in (x, g))
    has_class = window != "time"
    attention = torch.rand(len(tokens), tokens.shape[1] + has_class, tokens.shape[1] + has_class)
    if has_class:
        given = torch.einsum("wqk,wk->wq", attention, torch.cat((x_class.expand(len(tokens), 1), tokens), 1))
        forward = (given[:, 1:] * wanted).sum() + given[:, 0].mean() * g_class
    else:
        forward = (torch.einsum("wqk,wk->wq", attention, tokens) * wanted).sum() + x_class * g_class
    back_class, back = step_back(g_class, g, attention, window)  # type: ignore[arg-type]
    assert float((back * x).sum() + back_class * x_class) == pytest.approx(float(forward), rel=1e-5)


def moving_square(forwards: bool, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A bright square that crosses noise to the right or to the left: float `(4, 3, 48, 48)`, and where it is, bool."""
    frames, where = random.normal(0, 0.3, (4, 3, 48, 48)), np.zeros((4, 48, 48), bool)
    y, x = random.integers(0, 36), random.integers(0, 6)
    for i in range(4):
        left = x + 10 * (i if forwards else 3 - i)
        where[i, y : y + 12, left : left + 12] = True
    frames[np.broadcast_to(where[:, None], frames.shape)] = 2.0
    return frames, where


def energy_inside(model: TimesformerForVideoClassification, method: str) -> float:
    """Mean heat inside the square by the mean outside, the median over clips."""
    random, ratios = np.random.default_rng(9), []
    for number in range(12):
        frames, where = moving_square(number % 2 == 1, random)
        heat = explain_clip(model, torch.tensor(frames[None], dtype=torch.float32), number % 2, method)
        heat = F.interpolate(heat[None], size=(48, 48), mode="bilinear")[0].numpy()
        ratios.append(heat[where].mean() / heat[~where].mean())
    return float(np.median(ratios))


@pytest.mark.slow
def test_a_trained_model_looks_at_what_moves_and_a_random_one_does_not() -> None:
    torch.manual_seed(0)
    random, model = np.random.default_rng(0), tiny()
    for method in METHODS:
        assert energy_inside(model, method) < 1.6
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=2e-3)
    for _ in range(100):
        labels = random.integers(0, 2, 16)
        clips = np.stack([moving_square(label == 1, random)[0] for label in labels])
        logits = model(pixel_values=torch.tensor(clips, dtype=torch.float32)).logits
        loss = F.cross_entropy(logits, torch.tensor(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    for method in METHODS:
        assert energy_inside(model.eval(), method) >= 2


def test_the_command_writes_a_video_and_a_strip(random_checkpoint: str, tmp_path: Path) -> None:
    video, output = encode(tmp_path / "v.mp4", blobs("explain", num_frames=20)), tmp_path / "heat.mp4"
    told = main([random_checkpoint, str(video), "--output", str(output), "--label", "class 3", "--device", "cpu"])
    assert told.label == "class 3" and told.heat.max() == pytest.approx(1) and told.heat.min() >= 0
    info = probe(output)
    assert (info.num_frames, info.width) == (8, 2 * info.height)
    left, right = np.split(read_frames(output, [0])[0].astype(int), 2, axis=1)
    seen = told.frames[0].repeat(info.height // 48, 0).repeat(info.height // 48, 1)
    assert np.abs(left - seen).mean() < 12 < np.abs(right - seen).mean()
    assert (tmp_path / "heat.png").read_bytes().startswith(b"\x89PNG")


def test_wrong_use_is_said(random_checkpoint: str, ramp_video: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"x")
    good = str(tmp_path / "x.mp4")
    for arguments, message in (
        ([str(ramp_video), "--output", good, "--label", "jump"], "'jump' is none of the model's"),
        ([str(tmp_path / "broken.mp4"), "--output", good], "cannot be opened"),
        ([str(ramp_video), "--output", "x.gif"], "ends in .mp4"),
    ):
        with pytest.raises(UserError, match=message):
            main([random_checkpoint, *arguments])
