"""finetune.weights: the right weights under the right head, or a message that says why not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    TimesformerConfig,
    TimesformerForVideoClassification,
    TimesformerVideoProcessor,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VideoMAEImageProcessor,
)

from data_prep.errors import UserError
from finetune.batch import ClipTransform, normalise
from finetune.weights import build_model, load_checkpoint, load_start


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A saved tiny TimeSformer of classes a, b, c with its processor."""
    torch.manual_seed(0)
    model, processor = build_model("timesformer-tiny", ["a", "b", "c"])
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_kept_head_gives_the_checkpoints_logits(checkpoint: Path) -> None:
    plain = TimesformerForVideoClassification.from_pretrained(checkpoint).eval()
    start = load_start(str(checkpoint), "main", ["a", "b", "c"], new_head=False)
    pixels = torch.randn(2, 8, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(start.model.eval()(pixels).logits, plain(pixels).logits)
    assert "head kept" in start.message


@pytest.mark.parametrize("labels", [["x", "y"], ["x", "y", "z"], ["a", "b", "c", "d"]])
def test_a_new_head_has_the_datasets_labels_and_the_old_backbone(checkpoint: Path, labels: list[str]) -> None:
    """Also with as many labels as before: other names mean another head."""
    plain = TimesformerForVideoClassification.from_pretrained(checkpoint)
    start = load_start(str(checkpoint), "main", labels, new_head=False)
    assert start.model.config.id2label == dict(enumerate(labels))
    assert start.model.classifier.weight.shape[0] == len(labels) == start.model.num_labels
    if len(labels) == 3:
        assert not torch.equal(start.model.classifier.weight, plain.classifier.weight)
    for name, weight in plain.timesformer.state_dict().items():
        assert torch.equal(start.model.timesformer.state_dict()[name], weight), name
    assert "replaced" in start.message


def test_the_same_labels_in_another_order_are_an_error_unless_a_new_head_is_wanted(checkpoint: Path) -> None:
    with pytest.raises(UserError, match="in another order .*--new_head"):
        load_start(str(checkpoint), "main", ["b", "a", "c"], new_head=False)
    assert load_start(str(checkpoint), "main", ["b", "a", "c"], new_head=True).model.config.id2label[0] == "b"


def test_no_weight_of_a_named_model_is_left_uninitialised_and_time_starts_away_from_zero() -> None:
    model, processor = build_model("timesformer-tiny", ["a", "b"])
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    assert model.timesformer.embeddings.time_embeddings.std() > 0.3
    assert processor.num_frames == model.config.num_frames == 8


@pytest.mark.parametrize("mean", [0.45, 0.5])
def test_an_old_image_processors_numbers_are_taken_over(checkpoint: Path, mean: float) -> None:
    """Checkpoints from before video processors carry preprocessor_config.json alone; their numbers differ."""
    (checkpoint / "video_preprocessor_config.json").unlink()
    settings = {"size": {"shortest_edge": 56}, "crop_size": {"height": 48, "width": 48}}
    old = VideoMAEImageProcessor(image_mean=[mean] * 3, image_std=[0.225] * 3, **settings)
    old.save_pretrained(checkpoint)
    _, processor = load_checkpoint(str(checkpoint))
    assert isinstance(processor, TimesformerVideoProcessor)
    assert list(processor.image_mean) == [mean] * 3
    frames = np.random.default_rng(0).integers(0, 256, (8, 60, 80, 3), dtype=np.uint8)
    ours = normalise(ClipTransform(processor).evaluate(torch.from_numpy(frames).permute(0, 3, 1, 2)), processor)
    theirs = old(list(frames), return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1.01 / 255 / 0.225)


def test_a_checkpoint_without_a_head_is_no_classifier_but_a_start(checkpoint: Path) -> None:
    model = TimesformerForVideoClassification.from_pretrained(checkpoint)
    model.timesformer.save_pretrained(checkpoint)
    with pytest.raises(UserError, match="has no classification head"):
        load_checkpoint(str(checkpoint))
    assert "replaced" in load_start(str(checkpoint), "main", ["a", "b", "c"], new_head=False).message


def test_a_damaged_weights_file_is_one_line(checkpoint: Path) -> None:
    data = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="cannot be loaded"):
        load_checkpoint(str(checkpoint))


def test_another_architecture_is_named(tmp_path: Path) -> None:
    config = VideoMAEConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16, image_size=32
    )
    VideoMAEForVideoClassification(config).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="is a videomae checkpoint, not TimeSformer"):
        load_checkpoint(str(tmp_path / "other"))


def test_a_checkpoint_transformers_cannot_train_is_refused(tmp_path: Path) -> None:
    TimesformerConfig(attention_type="space_only").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="space_only"):
        load_checkpoint(str(tmp_path))


def test_missing_weights_are_an_error_not_random_numbers(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["num_hidden_layers"] += 1
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="not a whole TimeSformer checkpoint"):
        load_checkpoint(str(checkpoint))


@pytest.mark.parametrize("name", ["/no/such/folder", "./here", "no-such-model", "me/no-such-model"])
def test_a_model_that_is_not_there_is_one_line(name: str) -> None:
    with pytest.raises(UserError) as caught:
        load_checkpoint(name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)
