"""finetune.model.image_vit: a TimeSformer that starts from an image model is that image model on a still clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    BeitConfig,
    BeitModel,
    BitImageProcessor,
    DeiTConfig,
    DeiTModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    TimesformerForVideoClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
)

from data_prep.errors import UserError
from finetune.model.wanted import ModelArguments
from finetune.model.weights import load_start

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}


def saved(model: Any, folder: Path, processor: Any = None) -> str:
    """Every weight random, LayerScale and biases too."""
    torch.manual_seed(0)
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return str(folder)


def start_from(name: str, **changes: Any) -> Any:
    return load_start(ModelArguments(model_name_or_path=name, **{"image_size": [32], **changes}), ["a", "b"])


def class_tokens(name: str, model: nn.Module, size: int = 32, frames: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a picture by the image model, and of a still clip of it by the TimeSformer."""
    picture = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    image = AutoModel.from_pretrained(name).eval()
    with torch.no_grad():
        clip = picture[:, None].expand(-1, frames, -1, -1, -1)
        return image(picture).last_hidden_state[:, 0], model.eval().timesformer(clip).last_hidden_state[:, 0]


@pytest.mark.parametrize(
    "model",
    [
        ViTModel(ViTConfig(**SMALL, intermediate_size=24)),
        ViTModel(ViTConfig(**SMALL, intermediate_size=24, qkv_bias=False, hidden_act="relu"), add_pooling_layer=False),
        ViTForImageClassification(ViTConfig(**SMALL, intermediate_size=24)),
        Dinov2Model(Dinov2Config(**SMALL, mlp_ratio=2)),
    ],
    ids=["vit", "vit without bias", "vit classifier", "dinov2"],
)
@pytest.mark.parametrize("attention_type", ["divided_space_time", "space_only"])
def test_a_still_clip_gives_the_image_models_class_token(model: Any, attention_type: str, tmp_path: Path) -> None:
    name = saved(model, tmp_path)
    image, video = class_tokens(name, start_from(name, attention_type=attention_type).model)
    torch.testing.assert_close(video, image, rtol=1e-5, atol=1e-5)


def test_so_it_does_at_another_size_which_dinov2_resizes_as_we_do(tmp_path: Path) -> None:
    name = saved(Dinov2Model(Dinov2Config(**{**SMALL, "image_size": 56}, mlp_ratio=2)), tmp_path)
    start = start_from(name, num_frames=5)
    assert "7x7 -> 4x4 patches, bicubic" in start.message
    image, video = class_tokens(name, start.model, frames=5)
    torch.testing.assert_close(video, image, rtol=1e-5, atol=1e-5)


def test_the_start_loads_in_plain_transformers(tmp_path: Path) -> None:
    name = saved(ViTModel(ViTConfig(**SMALL, intermediate_size=24)), tmp_path / "image")
    start = start_from(name)
    start.model.eval().save_pretrained(tmp_path / "video")
    plain = TimesformerForVideoClassification.from_pretrained(tmp_path / "video").eval()
    clip = torch.randn(1, 8, 3, 32, 32)
    torch.testing.assert_close(plain(clip).logits, start.model(clip).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        DeiTModel(DeiTConfig(**SMALL, intermediate_size=24)),
        Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SMALL, mlp_ratio=2)),
    ],
    ids=["deit", "registers"],
)
def test_without_their_extra_tokens_the_others_are_what_is_left_of_them(model: Any, tmp_path: Path) -> None:
    """Taking the tokens away from the image model gives the same class token: nothing else was changed."""
    name = saved(model, tmp_path)
    start = start_from(name)
    extra = [key for key in model.state_dict() if key.endswith(("distillation_token", "register_tokens"))]
    assert len(extra) == 1 and f"without its {extra[0].rpartition('.')[2]}" in start.message
    positions = start.model.timesformer.embeddings.position_embeddings
    kept = [
        0,
        *range(model.embeddings.position_embeddings.shape[1] - 16, model.embeddings.position_embeddings.shape[1]),
    ]
    torch.testing.assert_close(positions, model.embeddings.position_embeddings[:, kept])
    assert start.model(torch.randn(1, 8, 3, 32, 32)).logits.isfinite().all()


def test_an_image_model_that_is_no_plain_vit_is_refused_with_what_does_not_fit(tmp_path: Path) -> None:
    config = BeitConfig(**SMALL, intermediate_size=24, use_relative_position_bias=True)
    with pytest.raises(UserError, match="is a beit model with .*, for which TimeSformer has no place"):
        start_from(saved(BeitModel(config), tmp_path / "beit"))
    swiglu = Dinov2Config(**SMALL, mlp_ratio=2, use_swiglu_ffn=True)
    with pytest.raises(UserError, match="is a dinov2 model with .*mlp.*, for which TimeSformer has no place"):
        start_from(saved(Dinov2Model(swiglu), tmp_path / "swiglu"))


def test_numbers_of_the_image_models_processor_are_kept_and_a_film_is_not_squeezed(tmp_path: Path) -> None:
    processor = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4] * 3)
    name = saved(ViTModel(ViTConfig(**SMALL, intermediate_size=24)), tmp_path, processor)
    start = start_from(name, image_size=None)
    assert list(start.processor.image_mean) == [0.1, 0.2, 0.3]
    assert start.processor.size.shortest_edge == 32 and start.processor.resample == processor.resample
    assert start.model.config.image_size == 32


def test_the_crop_of_its_processor_is_the_size_of_a_clip(tmp_path: Path) -> None:
    processor = BitImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    name = saved(Dinov2Model(Dinov2Config(**{**SMALL, "image_size": 56}, mlp_ratio=2)), tmp_path, processor)
    start = start_from(name, image_size=None)
    assert start.model.config.image_size == 32
    assert start.processor.size.shortest_edge == 40 and start.processor.crop_size["height"] == 32


def test_without_a_processor_the_familys_numbers_are_taken_and_said(tmp_path: Path) -> None:
    name = saved(Dinov2Model(Dinov2Config(**SMALL, mlp_ratio=2)), tmp_path)
    start = start_from(name)
    assert list(start.processor.image_mean) == [0.485, 0.456, 0.406]
    assert "none saved: mean 0.485" in start.message
    name = saved(ViTModel(ViTConfig(**SMALL, intermediate_size=24)), tmp_path / "vit")
    start = start_from(name, image_size=None)
    assert list(start.processor.image_mean) == [0.5] * 3 and start.model.config.image_size == 32
