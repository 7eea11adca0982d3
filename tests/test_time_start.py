"""finetune.training.time_start: a start from an image model that tells early from late before anything has learnt."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import encode, moving_bar
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from torch import nn
from transformers import TimesformerForVideoClassification, ViTConfig, ViTModel

from data_prep.errors import UserError
from data_prep.prepare import main as prepare
from finetune.model.wanted import ModelArguments
from finetune.model.weights import load_start
from finetune.run import main
from finetune.settings.learning import LearningArguments
from finetune.training.adapters import add_lora, merge_lora
from finetune.training.time_start import clearly_less, start_contrast


def image_model(folder: Path, **changes: Any) -> str:
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
    model = ViTModel(ViTConfig(**{**sizes, "image_size": 48, "patch_size": 12, **changes}))
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    return str(folder)


def started(name: str, **changes: Any) -> TimesformerForVideoClassification:
    return load_start(ModelArguments(name, num_frames=8, image_size=[48], **changes), ["a", "b"]).model.eval()


def bar_clips(seeds: range) -> torch.Tensor:
    """Bars that move to the right: (clips, 8, 3, 48, 48), about 0 to 1."""
    bars = np.stack([moving_bar(1, seed, num_frames=8) for seed in seeds])
    return torch.from_numpy(bars).permute(0, 1, 4, 2, 3).float() / 255


@torch.no_grad()
def class_tokens(model: Any, clips: torch.Tensor) -> torch.Tensor:
    return model.timesformer(clips).last_hidden_state[:, 0]


@pytest.mark.parametrize("scheme", ["divided_space_time", "axial"])
def test_a_linear_model_tells_clips_from_their_reverse_where_the_papers_start_gives_both_the_same(
    scheme: str, tmp_path: Path
) -> None:
    model = started(image_model(tmp_path), attention_type=scheme)
    known, asked = bar_clips(range(24)), bar_clips(range(24, 40))
    torch.testing.assert_close(class_tokens(model, asked), class_tokens(model, asked.flip(1)), rtol=1e-4, atol=1e-4)
    start_contrast(model, known)
    learnt, answers = ([0] * 24 + [1] * 24), ([0] * 16 + [1] * 16)
    tokens = [class_tokens(model, torch.cat((clips, clips.flip(1)))).numpy() for clips in (known, asked)]
    assert LogisticRegression(max_iter=2000).fit(tokens[0], learnt).score(tokens[1], answers) >= 0.9


@pytest.mark.extra("peft")
@pytest.mark.parametrize("scheme", ["divided_space_time", "axial"])
def test_layers_with_low_rank_additions_are_started_as_plain_ones(scheme: str, tmp_path: Path) -> None:
    plain, with_additions = (started(image_model(tmp_path), attention_type=scheme) for _ in range(2))
    add_lora(with_additions, LearningArguments(lora_rank=2))
    for model in (plain, with_additions):
        start_contrast(model, bar_clips(range(4)))
    merge_lora(with_additions)
    merged = with_additions.state_dict()
    for name, weight in plain.state_dict().items():
        if not name.startswith("classifier"):
            torch.testing.assert_close(merged[name], weight)


def test_half_of_the_heads_look_at_late_frames_and_half_at_early_ones_in_the_last_two_blocks_alone(
    tmp_path: Path,
) -> None:
    model = started(image_model(tmp_path))
    start_contrast(model, bar_clips(range(24)))
    with torch.no_grad():
        maps = model(bar_clips(range(24, 32)), output_attentions=True).step_attentions
    late = [of_layer["temporal_attention"][..., 4:].sum(-1).mean(dim=(0, 2)) for of_layer in maps]
    assert all((heads[:2] > 0.75).all() and (heads[2:] < 0.25).all() for heads in late[1:])
    adds = [layer.temporal_dense.weight.abs().sum(1) > 0 for layer in model.timesformer.encoder.layer]
    assert not adds[0].any() and (adds[1] ^ adds[2]).all(), "each feature is told apart in one of them"


def test_nothing_but_temporal_attention_reads_the_time_so_that_a_still_clip_stays_what_the_image_model_makes_of_it(
    tmp_path: Path,
) -> None:
    model, clips = started(image_model(tmp_path)), bar_clips(range(24, 32))
    before = class_tokens(model, clips), class_tokens(model, still := clips[:, :1].expand_as(clips))
    start_contrast(model, bar_clips(range(24)))
    assert torch.cosine_similarity(class_tokens(model, still), before[1]).min() > 0.98
    for layer in model.timesformer.encoder.layer:
        nn.init.zeros_(layer.temporal_dense.weight)
    without = class_tokens(model, clips)
    torch.testing.assert_close(without, class_tokens(model, clips.flip(1)), rtol=0, atol=1e-2)
    assert torch.cosine_similarity(without, before[0]).min() > 0.98


def test_what_the_heads_carry_and_how_they_weigh_moments_can_be_learnt(tmp_path: Path) -> None:
    model = started(image_model(tmp_path))
    start_contrast(model, bar_clips(range(24)))
    model(bar_clips(range(24, 26)), labels=torch.tensor([0, 1])).loss.backward()
    layer = model.timesformer.encoder.layer[2]
    query, key, value = layer.temporal_attention.attention.qkv.weight.grad.view(3, 4, 12, 48)
    assert all(
        (part.flatten(1).norm(dim=1) > 0).all()
        for part in (query[:, 0], key[:, 0], value, layer.temporal_dense.weight.grad)
    )


def test_other_schemes_get_the_times_alone_and_plain_transformers_loads_what_comes_out(tmp_path: Path) -> None:
    name, clips = image_model(tmp_path / "image"), bar_clips(range(8))
    for scheme in ("joint_space_time", "divided_space_time"):
        model = started(name, attention_type=scheme)
        start_contrast(model, clips)
        assert not torch.allclose(class_tokens(model, clips), class_tokens(model, clips.flip(1)), atol=1e-4)
        model.save_pretrained(tmp_path / scheme)
        plain = TimesformerForVideoClassification.from_pretrained(tmp_path / scheme).eval()
        torch.testing.assert_close(plain(clips).logits, model(clips).logits, rtol=1e-4, atol=1e-4)


def test_what_it_cannot_start_is_refused_in_words(tmp_path: Path) -> None:
    model = started(image_model(tmp_path / "one", num_attention_heads=1))
    with pytest.raises(UserError, match="needs two attention heads"):
        start_contrast(model, bar_clips(range(4)))
    model = started(image_model(tmp_path / "image"))
    with pytest.raises(UserError, match="at least two frames"):
        start_contrast(model, bar_clips(range(4))[:, :1])


def test_a_run_starts_so_from_an_image_model_and_leaves_the_times_of_a_checkpoint(
    bars_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(output: str, model: str, *flags: str) -> dict[str, float]:
        return main(["--dataset_name", str(bars_dataset), "--model_name_or_path", model, "--time_start", "contrast",
                     "--output_dir", str(tmp_path / output), "--report_to", "none", *flags])  # fmt: skip

    clips = ["--config", "linear_probe", "--image_size", "48", "--num_frames", "8"]
    assert run("out", image_model(tmp_path / "image"), *clips)["test_top1"] == 1
    assert "fitted to" in capsys.readouterr().out
    run("again", str(tmp_path / "out"), "--config", "linear_probe")
    assert "fitted to" not in capsys.readouterr().out


def clip_of(label: str, number: int) -> np.ndarray:
    """Eight frames. Each of them is as likely in `forward` as in `backward`; `dark` and `bright` flicker, in any order."""
    if label in ("forward", "backward"):
        return moving_bar(1, number, num_frames=8)[:: 1 if label == "forward" else -1]
    random = np.random.default_rng(number)
    light = random.normal(105 if label == "dark" else 145, 40, (8, 1, 1, 1))
    return (light + random.normal(0, 10, (8, 48, 48, 3))).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("labels", "kept", "verb"),
    [(("forward", "backward"), "contrast", "taken"), (("dark", "bright"), "zeros", "kept")],
)
def test_auto_takes_the_start_from_which_a_probe_tells_held_out_videos_better_and_trains_on_as_if_it_were_asked_for(
    labels: tuple[str, str], kept: str, verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(time_start: str) -> dict[str, torch.Tensor]:
        main(["--dataset_name", str(tmp_path / "dataset"), "--model_name_or_path", name, "--time_start", time_start,
              "--config", "small_data", "--max_steps", "2", "--eval_strategy", "no", "--image_size", "48", "--num_frames", "8",
              "--report_to", "none", "--output_dir", str(tmp_path / time_start)])  # fmt: skip
        return load_file(tmp_path / time_start / "model.safetensors")

    for i, label in enumerate(labels):
        for number in range(20):
            encode(tmp_path / "videos" / label / f"{number}.mp4", clip_of(label, 20 * i + number))
    prepare([str(tmp_path / "videos"), str(tmp_path / "dataset"), "--splits", "0.8", "0", "0.2", "--num_proc", "1"])
    name = image_model(tmp_path / "image")
    found = run("auto")
    assert f"time: {kept} {verb}; held-out loss" in capsys.readouterr().out
    torch.testing.assert_close(found, run(kept), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("gains", "better"),
    [([0.2, 0.0, 0.2, 0.0], True), ([0.2, -0.1, 0.2, -0.1], False), ([-0.1] * 4, False), ([1.0], False), ([], False)],
)
def test_a_start_is_better_only_beyond_the_standard_error_of_what_is_gained_on_the_same_videos(
    gains: list[float], better: bool
) -> None:
    zeros = torch.arange(1.0, 1 + len(gains))  # losses of videos are further apart than those of the starts
    assert clearly_less(zeros - torch.tensor(gains), zeros)[0] is better


def test_losses_of_other_videos_are_not_compared() -> None:
    assert clearly_less(torch.zeros(3), torch.ones(4)) == (
        False,
        "the same two videos or more could not be held out for both",
    )


def test_auto_keeps_zeros_where_the_other_start_cannot_be_and_says_why(
    bars_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dataset_name", str(bars_dataset), "--model_name_or_path", image_model(tmp_path / "image"), "--num_frames", "1",
             "--time_start", "auto", "--image_size", "48", "--output_dir", str(tmp_path / "out"), "--report_to", "none"]  # fmt: skip
    main([*flags, "--config", "linear_probe"])
    assert "time: zeros kept; contrast cannot be" in (out := capsys.readouterr().out) and "at least two frames" in out
    with pytest.raises(UserError, match="add --head_start linear_probe"):
        main([*flags, "--config", "none"])


def test_videos_that_are_all_gone_are_told(bars: Path, tmp_path: Path) -> None:
    for label in ("left", "right"):
        shutil.copytree(bars / label, tmp_path / "videos" / label, ignore=lambda _, names: sorted(names)[3:])
    prepare([str(tmp_path / "videos"), str(tmp_path / "dataset"), "--splits", "1", "0", "0", "--num_proc", "1"])
    shutil.rmtree(tmp_path / "videos")
    with pytest.raises(
        UserError, match="none of the 6 training videos that it would be fitted to can be read any more"
    ):
        main(["--dataset_name", str(tmp_path / "dataset"), "--model_name_or_path", image_model(tmp_path / "image"),
              "--time_start", "contrast", "--config", "linear_probe", "--image_size", "48", "--num_frames", "8",
              "--eval_strategy", "no", "--on_bad_video", "skip", "--output_dir", str(tmp_path / "out"), "--report_to", "none"])  # fmt: skip
