"""finetune.model.weights: the right weights under the right head, or a message that says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    TimesformerConfig,
    TimesformerForVideoClassification,
    TimesformerVideoProcessor,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VideoMAEImageProcessor,
)

from data_prep.errors import UserError
from finetune.clips.batch import ClipTransform, normalise
from finetune.model.layer import ATTENTION_TYPES
from finetune.model.modeling import is_plain
from finetune.model.named_models import NAMED_MODELS
from finetune.model.wanted import ModelArguments
from finetune.model.weights import load_checkpoint, load_start


def wanted(name: Path | str, **changes: Any) -> ModelArguments:
    return ModelArguments(model_name_or_path=str(name), **changes)


def change_config(checkpoint: Path, **changes: Any) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A saved tiny TimeSformer of classes a, b, c with its processor."""
    torch.manual_seed(0)
    start = load_start(ModelArguments(model_name_or_path="timesformer-tiny"), ["a", "b", "c"])
    start.model.save_pretrained(tmp_path / "model")
    start.processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_kept_head_gives_the_checkpoints_logits(checkpoint: Path) -> None:
    plain = TimesformerForVideoClassification.from_pretrained(checkpoint).eval()
    start = load_start(wanted(checkpoint), ["a", "b", "c"])
    pixels = torch.randn(2, 8, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(start.model.eval()(pixels).logits, plain(pixels).logits)
    assert "kept" in start.message


@pytest.mark.parametrize("labels", [["x", "y"], ["x", "y", "z"], ["a", "b", "c", "d"]])
def test_a_new_head_has_the_datasets_labels_and_the_old_backbone(checkpoint: Path, labels: list[str]) -> None:
    """Also with as many labels as before: other names mean another head."""
    plain = TimesformerForVideoClassification.from_pretrained(checkpoint)
    start = load_start(wanted(checkpoint), labels)
    assert start.model.config.id2label == dict(enumerate(labels))
    assert start.model.classifier.weight.shape[0] == len(labels) == start.model.num_labels
    if len(labels) == 3:
        assert not torch.equal(start.model.classifier.weight, plain.classifier.weight)
    for name, weight in plain.timesformer.state_dict().items():
        assert torch.equal(start.model.timesformer.state_dict()[name], weight), name
    assert "replaced" in start.message


def test_the_same_labels_in_another_order_are_an_error_unless_a_new_head_is_wanted(checkpoint: Path) -> None:
    with pytest.raises(UserError, match="in another order .*--new_head"):
        load_start(wanted(checkpoint), ["b", "a", "c"])
    assert load_start(wanted(checkpoint, new_head=True), ["b", "a", "c"]).model.config.id2label[0] == "b"


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_no_weight_of_a_named_model_is_left_uninitialised_and_time_starts_away_from_zero(attention_type: str) -> None:
    start = load_start(wanted("timesformer-tiny", attention_type=attention_type), ["a", "b"])
    for name, weight in start.model.named_parameters():
        assert torch.isfinite(weight).all()
        assert weight.any() or name.endswith("bias"), name
    if attention_type != "space_only":
        assert start.model.timesformer.embeddings.time_embeddings.std() > 0.3
    assert start.processor.num_frames == start.model.config.num_frames == 8


@pytest.mark.parametrize(
    ("name", "frames", "size"),
    [
        ("timesformer-small", 8, 224),
        ("timesformer-base", 8, 224),
        ("timesformer-hr", 16, 448),
        ("timesformer-large", 96, 224),
    ],
)
def test_named_sizes_have_the_papers_geometries(name: str, frames: int, size: int) -> None:
    config = TimesformerConfig(**NAMED_MODELS[name])
    assert (config.num_frames, config.image_size, config.patch_size, config.num_hidden_layers) == (frames, size, 16, 12)


def test_a_named_model_is_drawn_at_the_size_wanted() -> None:
    start = load_start(wanted("timesformer-tiny", num_frames=5, image_size=[24, 60]), ["a", "b"])
    assert start.processor.crop_size["height"], start.processor.crop_size["width"] == (24, 60)
    assert start.model(torch.zeros(1, 5, 3, 24, 60)).logits.shape == (1, 2)


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


@pytest.mark.parametrize("kind", [TimesformerVideoProcessor, VideoMAEImageProcessor])
@pytest.mark.parametrize(
    "flags",
    [
        {"do_normalize": False}, {"do_rescale": False}, {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5}, {"do_normalize": False, "image_mean": None, "image_std": None},
        {"do_center_crop": False, "size": {"height": 48, "width": 48}, "crop_size": {"height": 40, "width": 40}},
    ],
)  # fmt: skip
def test_steps_that_a_processor_leaves_out_are_left_out(checkpoint: Path, kind: Any, flags: dict[str, Any]) -> None:
    """Pixels, so logits, are those of transformers' own processor; also after it was adapted and saved."""
    (checkpoint / "video_preprocessor_config.json").unlink()
    settings = {"size": {"shortest_edge": 56}, "crop_size": {"height": 48, "width": 48}, "image_mean": [0.45] * 3, "image_std": [0.225] * 3}  # fmt: skip
    own = kind(**{**settings, **flags})
    own.save_pretrained(checkpoint)
    frames = np.random.default_rng(0).integers(0, 256, (8, 60, 80, 3), dtype=np.uint8)
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
    if kind is VideoMAEImageProcessor:
        theirs = own(list(frames), return_tensors="pt")["pixel_values"][0]
    else:
        theirs = own(clip, do_sample_frames=False, return_tensors="pt")["pixel_values"][0]
    _, processor = load_checkpoint(str(checkpoint))
    (checkpoint / "preprocessor_config.json").unlink(missing_ok=True)
    processor.save_pretrained(checkpoint)
    for one in (processor, load_start(wanted(checkpoint), ["a", "b", "c"]).processor):
        ours = normalise(ClipTransform(one).evaluate(clip), one)
        step = (own.rescale_factor if own.do_rescale else 1.0) / (0.225 if own.do_normalize else 1.0)
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=0, atol=1.01 * step)
        torch.testing.assert_close(ours.float().mean(), theirs.float().mean(), rtol=1e-2, atol=0.05 * step)


@pytest.mark.parametrize("flag", ["do_resize", "do_center_crop"])
def test_a_processor_that_gives_clips_of_all_shapes_is_refused(checkpoint: Path, flag: str) -> None:
    path = checkpoint / "video_preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), flag: False}))
    with pytest.raises(UserError, match=f"{flag} false"):
        load_checkpoint(str(checkpoint))


def test_of_two_processors_the_one_for_videos_counts(checkpoint: Path) -> None:
    VideoMAEImageProcessor(image_mean=[0.1] * 3, do_normalize=False).save_pretrained(checkpoint)
    processor = load_checkpoint(str(checkpoint))[1]
    assert processor.do_normalize and list(processor.image_mean) != [0.1] * 3


def test_a_mean_that_is_asked_for_is_used_where_the_processor_normalised_nothing(checkpoint: Path) -> None:
    path = checkpoint / "video_preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_normalize": False, "do_rescale": False}))
    start = load_start(wanted(checkpoint, image_mean=[0.4] * 3, image_std=[0.2] * 3), ["a", "b", "c"])
    pixels = torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
    torch.testing.assert_close(normalise(pixels, start.processor), torch.full((1, 3, 4, 4), 0.6 / 0.2))


def test_a_checkpoint_without_a_head_is_no_classifier_but_a_start(checkpoint: Path) -> None:
    model = TimesformerForVideoClassification.from_pretrained(checkpoint)
    model.timesformer.save_pretrained(checkpoint)
    with pytest.raises(UserError, match="has no classification head"):
        load_checkpoint(str(checkpoint))
    assert "new, 3 labels" in load_start(wanted(checkpoint), ["a", "b", "c"]).message


def test_a_damaged_weights_file_is_one_line(checkpoint: Path) -> None:
    data = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="cannot be loaded"):
        load_checkpoint(str(checkpoint))


def test_a_checkpoint_in_half_precision_is_trained_in_single(checkpoint: Path) -> None:
    """The lower precision of a file is no wish for this run: --bf16 and --fp16 are."""
    TimesformerForVideoClassification.from_pretrained(checkpoint).half().save_pretrained(checkpoint)
    assert load_start(wanted(checkpoint), ["a", "b", "c"]).model.dtype == torch.float32


# --- other clips, other schemes ----------------------------------------------------------------------------------------


def test_more_frames_and_a_larger_picture_are_resized_never_drawn_anew(checkpoint: Path) -> None:
    """Linear in time, bicubic in place, and all else as it was. The checkpoint loads in plain transformers again."""
    before = load_start(wanted(checkpoint), ["a", "b", "c"]).model.state_dict()
    start = load_start(wanted(checkpoint, num_frames=16, image_size=[96, 72]), ["a", "b", "c"])
    after = start.model.state_dict()
    for name, weight in before.items():
        if not name.endswith(("position_embeddings", "time_embeddings")):
            assert torch.equal(after[name], weight), name
    times, places = (f"timesformer.embeddings.{name}_embeddings" for name in ("time", "position"))
    old = before[times].flatten(0, 1).numpy()
    at = (np.arange(16) + 0.5) * 8 / 16 - 0.5
    expected = np.stack([np.interp(at, np.arange(8), old[:, i]) for i in range(old.shape[1])], axis=1)
    np.testing.assert_allclose(after[times][0].numpy(), expected, atol=1e-5)
    assert torch.equal(after[places][:, 0], before[places][:, 0])
    grid = before[places][:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(grid, (8, 6), mode="bicubic")
    torch.testing.assert_close(after[places][:, 1:], resized.flatten(2).transpose(1, 2))
    assert (start.model.config.num_frames, start.model.config.image_size) == (16, [96, 72])
    assert start.processor.num_frames == 16
    assert dict(start.processor.crop_size)["height"] == 96
    assert "8 -> 16 frames, linear" in start.message and "4x4 -> 8x6 patches, bicubic" in start.message
    assert start.model(torch.zeros(1, 16, 3, 96, 72)).logits.isfinite().all()


def test_what_was_resized_loads_in_plain_transformers_with_the_same_logits(checkpoint: Path, tmp_path: Path) -> None:
    start = load_start(wanted(checkpoint, num_frames=4, image_size=[72]), ["a", "b"])
    start.model.eval().save_pretrained(tmp_path / "resized")
    plain = TimesformerForVideoClassification.from_pretrained(tmp_path / "resized").eval()
    pixels = torch.randn(2, 4, 3, 72, 72)
    with torch.no_grad():
        torch.testing.assert_close(plain(pixels).logits, start.model(pixels).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [[50], [48, 50], [48, 48, 48], [0]])
def test_a_picture_of_parts_of_patches_is_refused(checkpoint: Path, size: list[int]) -> None:
    with pytest.raises(UserError, match="multiples of the patch of 12x12"):
        load_start(wanted(checkpoint, image_size=size), ["a", "b"])


def test_a_divided_start_from_space_only_keeps_its_logits_and_trains_time(tmp_path: Path) -> None:
    """The new attention adds nothing yet: on a still clip the logits are those of before."""
    space = load_start(wanted("timesformer-tiny", attention_type="space_only"), ["a", "b"])
    space.model.save_pretrained(tmp_path)
    space.processor.save_pretrained(tmp_path)
    start = load_start(wanted(tmp_path, attention_type="divided_space_time"), ["a", "b"])
    pixels = torch.randn(2, 1, 3, 48, 48).expand(-1, 8, -1, -1, -1)
    torch.testing.assert_close(start.model.eval()(pixels).logits, space.model.eval()(pixels).logits)
    block = start.model.timesformer.encoder.layer[0]
    assert torch.equal(block.temporal_attention.attention.qkv.weight, block.attention.attention.qkv.weight)
    assert "copied from the attention there is, its output zero" in start.message


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_a_checkpoint_can_be_started_from_in_every_scheme(checkpoint: Path, attention_type: str) -> None:
    start = load_start(wanted(checkpoint, attention_type=attention_type), ["a", "b"])
    assert start.model.config.attention_type == attention_type
    assert start.model(torch.randn(1, 8, 3, 48, 48)).logits.isfinite().all()


def test_frames_in_the_other_channel_order_are_undone_exactly(checkpoint: Path) -> None:
    """A checkpoint trained on BGR gives for RGB frames what it gave for BGR ones."""
    old = load_start(wanted(checkpoint), ["a", "b", "c"])
    new = load_start(wanted(checkpoint, input_channel_order="bgr"), ["a", "b", "c"])
    pixels = torch.randn(2, 8, 3, 48, 48)
    torch.testing.assert_close(new.model.eval()(pixels).logits, old.model.eval()(pixels.flip(2)).logits)
    assert "BGR" in new.message


def test_random_weights_have_no_channel_order_to_undo() -> None:
    with pytest.raises(UserError, match="bgr is for checkpoints: timesformer-tiny has random weights"):
        load_start(wanted("timesformer-tiny", input_channel_order="bgr"), ["a", "b"])


def test_clips_are_of_the_size_that_the_processor_makes(checkpoint: Path) -> None:
    """Where its crop is not the size of the embeddings these are resized, and it is said: nothing is left to chance."""
    settings = {"size": {"shortest_edge": 48}, "crop_size": {"height": 36, "width": 36}, "num_frames": 8}
    TimesformerVideoProcessor(**settings).save_pretrained(checkpoint)
    start = load_start(wanted(checkpoint), ["a", "b", "c"])
    assert "4x4 -> 3x3 patches, bicubic" in start.message
    assert start.model.config.image_size == 36 and is_plain(start.model.config)
    assert start.processor.size.shortest_edge == 48
    TimesformerVideoProcessor(**{**settings, "crop_size": {"height": 50, "width": 50}}).save_pretrained(checkpoint)
    with pytest.raises(UserError, match="multiples of the patch of 12x12"):
        load_start(wanted(checkpoint), ["a", "b", "c"])


def test_a_squeezing_processor_is_scaled_with_the_crop(checkpoint: Path) -> None:
    settings = {"size": {"height": 60, "width": 72}, "crop_size": {"height": 48, "width": 48}, "num_frames": 8}
    TimesformerVideoProcessor(**settings).save_pretrained(checkpoint)
    same = load_start(wanted(checkpoint), ["a", "b", "c"]).processor
    assert (same.size.height, same.size.width) == (60, 72)
    larger = load_start(wanted(checkpoint, image_size=[96]), ["a", "b", "c"]).processor
    assert (larger.size.height, larger.size.width, larger.crop_size.height) == (120, 144, 96)


def test_a_head_of_several_labels_a_video_is_trained_with_one(checkpoint: Path) -> None:
    change_config(checkpoint, problem_type="multi_label_classification")
    model = load_start(wanted(checkpoint), ["a", "b", "c"]).model
    assert model(torch.randn(2, 8, 3, 48, 48), labels=torch.tensor([0, 2])).loss.isfinite()


def test_a_loaded_checkpoint_is_ready_to_use(checkpoint: Path) -> None:
    change_config(checkpoint, hidden_dropout_prob=0.5)
    model, _ = load_checkpoint(str(checkpoint))
    pixels = torch.randn(1, 8, 3, 48, 48)
    assert torch.equal(model(pixels).logits, model(pixels).logits)


@pytest.mark.parametrize(
    "change",
    [
        {"drop_path_rate": 0.1}, {"image_size": None}, {"hidden_act": "foo"}, {"patch_size": 0}, {"num_frames": 4},
        {"hidden_size": 18}, {"num_channels": 1}, {"id2label": ["a"]}, {"num_hidden_layers": 1}, {"num_hidden_layers": 5},
        {"attention_type": "space_only"}, {"attention_type": "nonsense"},
    ],
)  # fmt: skip
def test_a_configuration_that_does_not_fit_its_weights_is_one_line(checkpoint: Path, change: dict[str, Any]) -> None:
    change_config(checkpoint, **change)
    with pytest.raises(UserError) as caught:
        load_start(wanted(checkpoint), ["a", "b", "c"])
    assert "\n" not in str(caught.value) and str(checkpoint) in str(caught.value)


def test_a_file_does_not_choose_the_code_that_computes_attention(checkpoint: Path) -> None:
    """A name with a slash would be fetched and run."""
    change_config(checkpoint, attn_implementation="evil/kernel", _attn_implementation="evil/kernel")
    assert load_checkpoint(str(checkpoint))[0].config._attn_implementation == "sdpa"


def test_attention_that_cannot_work_here_is_refused(checkpoint: Path) -> None:
    if not torch.accelerator.is_available():
        with pytest.raises(UserError, match="flex_attention needs a GPU"):
            load_start(wanted(checkpoint, attn_implementation="flex_attention"), ["a", "b", "c"])
    sparse = wanted(checkpoint, attn_implementation="flash_attention_2", attention_type="sparse_local_global")
    with pytest.raises(UserError, match="takes no mask"):
        load_start(sparse, ["a", "b", "c"])


def test_regularisation_is_of_the_run_and_in_no_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    start = load_start(wanted(checkpoint, drop_path_rate=0.1, head_dropout=0.2), ["a", "b", "c"])
    assert [layer.drop_path.rate for layer in start.model.timesformer.encoder.layer] == pytest.approx([0, 0.05, 0.1])
    assert start.model.head_dropout.p == 0.2
    start.model.save_pretrained(tmp_path / "saved")
    again = TimesformerForVideoClassification.from_pretrained(tmp_path / "saved").eval()
    pixels = torch.randn(1, 8, 3, 48, 48)
    torch.testing.assert_close(again(pixels).logits, start.model.eval()(pixels).logits, rtol=1e-5, atol=1e-5)


def test_a_kernel_that_is_not_there_is_one_line(checkpoint: Path) -> None:
    for name in ("flash_attention_2", "nonsense"):
        with pytest.raises(UserError, match=f"--attn_implementation {name}") as caught:
            load_start(wanted(checkpoint, attn_implementation=name), ["a", "b", "c"])
        assert "\n" not in str(caught.value)
    start = load_start(wanted(checkpoint, attn_implementation="eager"), ["a", "b", "c"])
    assert start.model.config._attn_implementation == "eager"


def test_another_architecture_is_named(tmp_path: Path) -> None:
    config = VideoMAEConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16, image_size=32
    )
    VideoMAEForVideoClassification(config).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="is a videomae model .*Give a TimeSformer checkpoint, or a ViT"):
        load_checkpoint(str(tmp_path / "other"))
    BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)).save_pretrained(tmp_path / "text")  # fmt: skip
    with pytest.raises(UserError, match="is a bert checkpoint"):
        load_checkpoint(str(tmp_path / "text"))


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
