"""finetune.model.modeling: TimeSformer as the paper and the authors' code define it, for clips of any size.

The reference below is written from the definition: one query token at a time, with the list of tokens it attends to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForVideoClassification, TimesformerConfig, Trainer, TrainingArguments
from transformers import TimesformerForVideoClassification as PlainTimesformer

from finetune.model.layer import ATTENTION_TYPES
from finetune.model.modeling import TimesformerForVideoClassification, is_plain

Token = tuple[int, int, int] | None  # (row, column, frame), or the class token
PATCH, FRAMES = 4, 3

# Parameters in million of the five schemes at the size of ViT-B with 400 classes: table 1 of the paper.
PAPER_PARAMETERS = {"space_only": 85.9, "joint_space_time": 85.9, "divided_space_time": 121.4, "sparse_local_global": 121.4, "axial": 156.8}  # fmt: skip


def small_config(attention_type: str, **changes: object) -> TimesformerConfig:
    settings = {
        "image_size": 16, "patch_size": PATCH, "num_frames": FRAMES, "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 24, "num_labels": 5, "attention_type": attention_type,
    }  # fmt: skip
    return TimesformerConfig(**{**settings, **changes})


def small_model(attention_type: str, **changes: object) -> TimesformerForVideoClassification:
    """Every weight random, also those that start at zero."""
    torch.manual_seed(0)
    model = TimesformerForVideoClassification(small_config(attention_type, **changes)).eval()
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.3)
    return model


def clip(frames: int = FRAMES, height: int = 16, width: int = 16, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, frames, 3, height, width, generator=torch.Generator().manual_seed(1))


# --- the reference -----------------------------------------------------------------------------------------------------


def attend(layer: nn.Module, name: str, x: dict[Token, torch.Tensor], query: Token, keys: list[Token]) -> torch.Tensor:
    """Multi-head attention of one token, with its output projection."""
    norm = getattr(layer, f"{name}_layernorm" if name else "layernorm_before")
    module = getattr(layer, f"{name}_attention" if name else "attention")
    heads, width = module.attention.num_heads, len(x[query])
    projected = {token: module.attention.qkv(norm(x[token])).view(3, heads, width // heads) for token in {query, *keys}}
    context = torch.zeros(heads, width // heads)
    for head in range(heads):
        scores = torch.stack([projected[query][0, head] @ projected[key][1, head] for key in keys])
        weights = (scores / math.sqrt(width // heads)).softmax(0)
        context[head] = sum(weight * projected[key][2, head] for weight, key in zip(weights, keys))
    return module.output.dense(context.flatten())


def near(query: int, key: int, length: int) -> bool:
    """Whether `key` is one of the length / 2 places around `query`, moved inside at the borders."""
    size = math.ceil(length / 2)
    start = min(max(query - size // 2, 0), length - size)
    return start <= key < start + size


# For a patch: the patches it attends to.
WINDOWS: dict[str, Callable[[tuple, tuple, tuple], bool]] = {
    "time": lambda q, k, size: q[:2] == k[:2],
    "frame": lambda q, k, size: q[2] == k[2],
    "row": lambda q, k, size: q[2] == k[2] and q[0] == k[0],
    "column": lambda q, k, size: q[2] == k[2] and q[1] == k[1],
    "clip": lambda q, k, size: True,
    "local": lambda q, k, size: near(q[0], k[0], size[0]) and near(q[1], k[1], size[1]),
    "global": lambda q, k, size: all((a - b) % 2 == 0 for a, b in zip(q, k)),
}
SCHEMES = {
    "space_only": [("", "frame")],
    "joint_space_time": [("", "clip")],
    "divided_space_time": [("temporal", "time"), ("", "frame")],
    "sparse_local_global": [("local", "local"), ("", "global")],
    "axial": [("temporal", "time"), ("width", "row"), ("", "column")],
}


def step(
    layer: nn.Module, name: str, window: str, x: dict[Token, torch.Tensor], size: tuple
) -> dict[Token, torch.Tensor]:
    """One attention step of a block: every token with what its attention adds."""
    patches = [token for token in x if token is not None]
    then = getattr(layer, f"{name}_dense") if name else (lambda added: added)
    cls: list[Token] = [] if window == "time" else [None]
    result = dict(x)
    for query in patches:
        keys = cls + [key for key in patches if WINDOWS[window](query, key, size)]
        result[query] = x[query] + then(attend(layer, name, x, query, keys))
    if window in ("clip", "local", "global"):
        result[None] = x[None] + then(attend(layer, name, x, None, [None, *patches]))
    elif window != "time":  # a copy of the class token in every window, averaged
        groups = {tuple(WINDOWS[window](query, key, size) for key in patches) for query in patches}
        copies = [
            then(attend(layer, name, x, None, [None, *(k for k, inside in zip(patches, group) if inside)]))
            for group in groups
        ]
        result[None] = x[None] + torch.stack(copies).mean(0)
    return result


def reference_class_token(model: TimesformerForVideoClassification, pixels: torch.Tensor) -> torch.Tensor:
    """The class token of one clip (num_frames, 3, height, width) after all blocks."""
    embeddings, attention_type = model.timesformer.embeddings, model.config.attention_type
    rows, columns = pixels.shape[2] // PATCH, pixels.shape[3] // PATCH
    x: dict[Token, torch.Tensor] = {None: (embeddings.cls_token + embeddings.position_embeddings[:, :1])[0, 0]}
    for row in range(rows):
        for column in range(columns):
            for frame in range(len(pixels)):
                y, x0 = row * PATCH, column * PATCH
                patch = pixels[frame, :, y : y + PATCH, x0 : x0 + PATCH]
                token = embeddings.patch_embeddings.projection(patch[None]).flatten()
                token = token + embeddings.position_embeddings[0, 1 + row * columns + column]
                if attention_type != "space_only":
                    token = token + embeddings.time_embeddings[0, frame]
                x[row, column, frame] = token
    for layer in model.timesformer.encoder.layer:
        for name, window in SCHEMES[attention_type]:
            x = step(layer, name, window, x, (rows, columns))
        x = {
            k: v + layer.output.dense(F.gelu(layer.intermediate.dense(layer.layernorm_after(v)))) for k, v in x.items()
        }
    return x[None]


def reference_logits(model: TimesformerForVideoClassification, pixels: torch.Tensor) -> torch.Tensor:
    if model.config.attention_type == "space_only":  # each frame alone, then the mean
        token = torch.stack([reference_class_token(model, frame[None]) for frame in pixels]).mean(0)
    else:
        token = reference_class_token(model, pixels)
    return model.classifier(model.timesformer.layernorm(token))


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_every_scheme_is_what_its_definition_says(attention_type: str) -> None:
    """On a grid of 4 x 3 patches (even and odd), 3 frames."""
    model = small_model(attention_type, image_size=[16, 12])
    pixels = clip(height=16, width=12)
    with torch.no_grad():
        expected = torch.stack([reference_logits(model, one) for one in pixels])
        torch.testing.assert_close(model(pixels).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_the_paper_counts_as_many_parameters(attention_type: str) -> None:
    with torch.device("meta"):
        model = TimesformerForVideoClassification(TimesformerConfig(attention_type=attention_type, num_labels=400))
    backbone = sum(weight.numel() for name, weight in model.named_parameters() if "classifier" not in name)
    assert backbone / 1e6 == pytest.approx(PAPER_PARAMETERS[attention_type], abs=0.15)


# --- clips of other sizes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
@pytest.mark.parametrize(("frames", "height", "width"), [(1, 16, 16), (7, 16, 16), (3, 20, 12), (2, 8, 32)])
def test_another_clip_size_equals_a_model_whose_embeddings_were_taken_from_the_nearest(
    attention_type: str, frames: int, height: int, width: int
) -> None:
    """At run time, by the shape of the grid, and after saving a model of that size."""
    model, pixels = small_model(attention_type), clip(frames, height, width)
    rows, columns = height // PATCH, width // PATCH
    state = model.state_dict()
    name = "timesformer.embeddings.position_embeddings"
    places = [1 + (row * 4 // rows) * 4 + column * 4 // columns for row in range(rows) for column in range(columns)]
    state[name] = state[name][:, [0, *places]]
    if attention_type != "space_only":
        name = "timesformer.embeddings.time_embeddings"
        state[name] = state[name][:, [frame * FRAMES // frames for frame in range(frames)]]
    other = TimesformerForVideoClassification(
        small_config(attention_type, image_size=[height, width], num_frames=frames)
    ).eval()
    other.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels).logits, other(pixels).logits)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 3, 16), r"shape \(2, 3, 3, 16\), expected \(batch, num_frames, 3, height, width\)"),
        ((2, 3, 1, 16, 16), "1 channels .*, expected 3"),
        ((2, 3, 8, 16, 16), r"8 channels .*Frames come before channels: transpose\(1, 2\)"),
        ((2, 3, 3, 18, 16), "3 frames of 18x16 pixels, expected whole patches of 4x4: 16x16 would fit"),
        ((2, 0, 3, 16, 16), "0 frames"),
    ],
)
def test_a_clip_that_does_not_fit_is_an_error_that_says_what_does(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_model("divided_space_time")(torch.zeros(shape))


# --- transformers' class -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention_type", ["divided_space_time", "joint_space_time"])
def test_checkpoints_of_either_class_load_in_the_other_with_equal_outputs(attention_type: str, tmp_path: Path) -> None:
    model = small_model(attention_type)
    assert isinstance(model, PlainTimesformer)
    model.save_pretrained(tmp_path / "ours")
    plain = AutoModelForVideoClassification.from_pretrained(tmp_path / "ours").eval()
    assert type(plain) is PlainTimesformer
    plain.save_pretrained(tmp_path / "plain")
    back = TimesformerForVideoClassification.from_pretrained(tmp_path / "plain").eval()
    pixels, asked = clip(), {"output_attentions": True, "output_hidden_states": True, "labels": torch.tensor([1, 4])}
    with torch.no_grad():
        ours, theirs = back(pixels, **asked), plain(pixels, **asked)
        torch.testing.assert_close(back(pixels).logits, theirs.logits, rtol=1e-5, atol=1e-5)
    for name in ("loss", "logits", "hidden_states", "attentions"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=2e-5)
    last = back.timesformer(pixels).last_hidden_state
    torch.testing.assert_close(last, plain.timesformer(pixels).last_hidden_state, rtol=1e-5, atol=2e-5)


def test_what_plain_transformers_does_not_have_it_refuses_to_build(tmp_path: Path) -> None:
    """A scheme of ours never becomes another model in silence."""
    small_model("axial").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Unknown attention type"):
        AutoModelForVideoClassification.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="expected one of space_only, joint_space_time"):
        TimesformerForVideoClassification(small_config("nonsense"))


@pytest.mark.parametrize(
    ("attention_type", "image_size"),
    [
        ("divided_space_time", 16),
        ("joint_space_time", 16),
        ("space_only", 16),
        ("axial", 16),
        ("divided_space_time", [16, 24]),
    ],
)
def test_where_transformers_alone_is_said_to_be_enough_it_is_and_elsewhere_it_is_not(
    attention_type: str, image_size: int | list[int], tmp_path: Path
) -> None:
    model = small_model(attention_type, image_size=image_size)
    model.save_pretrained(tmp_path)
    pixels = clip(width=image_size[1]) if isinstance(image_size, list) else clip()
    try:
        logits = AutoModelForVideoClassification.from_pretrained(tmp_path).eval()(pixels).logits
        same = logits.shape == (2, 5) and torch.allclose(logits, model(pixels).logits, atol=1e-5)
    except (ValueError, TypeError, RuntimeError):
        same = False
    assert same == is_plain(model.config)


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_a_rectangular_model_survives_saving(attention_type: str, tmp_path: Path) -> None:
    model = small_model(attention_type, image_size=[8, 24], num_frames=5)
    model.save_pretrained(tmp_path)
    again = TimesformerForVideoClassification.from_pretrained(tmp_path).eval()
    pixels = clip(5, 8, 24)
    torch.testing.assert_close(again(pixels).logits, model(pixels).logits)


# --- training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_every_weight_of_every_scheme_is_trained_with_and_without_activation_checkpointing(
    attention_type: str, use_reentrant: bool
) -> None:
    """Equal gradients, none missing and none zero; the last block's patches reach the class token through attention."""
    gradients = []
    for checkpointed in (False, True):
        model = small_model(attention_type).train()
        if checkpointed:
            # Its new name is known from transformers 5.18 on.
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": use_reentrant})
        model(clip().requires_grad_(), labels=torch.tensor([0, 3])).loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})
    for name, gradient in gradients[0].items():
        if not name.endswith("qkv.bias"):  # a bias of the keys changes nothing
            assert gradient is not None and gradient.abs().max() > 0, name
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_what_is_computed_again_for_the_backward_pass_draws_the_same_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also dropout that an adapter brought in, as LoRA's, which the model knows nothing of."""

    class Dropping(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(F.dropout(x, 0.5))

    gradients = []
    for again in (True, False):
        model = small_model("divided_space_time").train()
        for layer in model.timesformer.encoder.layer:
            layer.output.dense.__class__ = Dropping
        if not again:
            monkeypatch.setattr("finetune.model.layer.checkpoint", lambda function, x, use_reentrant: function(x))
        torch.manual_seed(0)
        model(clip(), labels=torch.tensor([0, 1])).loss.backward()
        gradients.append(model.timesformer.encoder.layer[0].intermediate.dense.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_dropout_of_embeddings_is_drawn_for_each_clip() -> None:
    embeddings = small_model("divided_space_time", hidden_dropout_prob=0.5).train().timesformer.embeddings
    _, class_token = embeddings(torch.zeros(8, FRAMES, 3, 16, 16))
    assert len({tuple(row) for row in (class_token[:, 0] == 0).tolist()}) > 1


@pytest.mark.parametrize("attention_type", ["divided_space_time", "joint_space_time"])
def test_gradients_equal_those_of_transformers(attention_type: str) -> None:
    """Merged maps, the class token alone in the last block and the recomputed activation change none."""
    model = small_model(attention_type).train()
    plain = PlainTimesformer(small_config(attention_type)).train()
    plain.load_state_dict(model.state_dict())
    for one in (model, plain):
        one(clip(), labels=torch.tensor([2, 3])).loss.backward()
    theirs = dict(plain.named_parameters())
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, theirs[name].grad, rtol=1e-4, atol=1e-5)


def test_two_accumulated_batches_are_one_of_twice_the_size(tmp_path: Path) -> None:
    """Trainer divides their losses: transformers' class promises to do it, and does not."""
    rows = [{"pixel_values": one, "labels": i % 5} for i, one in enumerate(clip(batch=4))]
    updates = []
    for accumulated in (1, 2):
        model = small_model("divided_space_time")
        arguments = TrainingArguments(
            str(tmp_path), per_device_train_batch_size=4 // accumulated, gradient_accumulation_steps=accumulated, use_cpu=True,
            max_steps=1, optim="sgd", learning_rate=0.1, max_grad_norm=0, report_to="none", remove_unused_columns=False,
            dataloader_pin_memory=False, disable_tqdm=True, lr_scheduler_type="constant", save_strategy="no",
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=rows).train()
        updates.append(model.classifier.weight.detach().clone())
    torch.testing.assert_close(updates[1], updates[0])


def test_a_new_model_starts_as_the_authors_do() -> None:
    """Times and the maps after temporal attention at zero: nothing of time yet, so that a start from images stays whole."""
    model = TimesformerForVideoClassification(small_config("axial"))
    zero = {name for name, weight in model.named_parameters() if weight.dim() > 1 and not weight.any()}
    expected = {f"timesformer.encoder.layer.{i}.{step}_dense.weight" for i in (0, 1) for step in ("temporal", "width")}
    assert zero == {"timesformer.embeddings.time_embeddings", *expected}
    assert all(torch.isfinite(weight).all() for weight in model.parameters())


def test_a_missing_time_embedding_is_zero_never_memory_that_happened_to_be_there(tmp_path: Path) -> None:
    small_model("space_only").save_pretrained(tmp_path)
    model = TimesformerForVideoClassification.from_pretrained(tmp_path, attention_type="divided_space_time")
    assert not model.timesformer.embeddings.time_embeddings.any()


def test_stochastic_depth_leaves_out_branches_in_training_only() -> None:
    model = small_model("divided_space_time", num_hidden_layers=3)
    model.regularize(drop_path_rate=0.5, head_dropout=0.0)
    rates = [layer.drop_path.rate for layer in model.timesformer.encoder.layer]
    assert rates == [0.0, 0.25, 0.5]
    pixels, plain = clip(), small_model("divided_space_time", num_hidden_layers=3)
    assert torch.equal(model(pixels).logits, plain(pixels).logits)
    model.train()
    torch.manual_seed(0)
    first, second = model(pixels).logits, model(pixels).logits
    assert not torch.equal(first, second)
    factors = model.timesformer.encoder.layer[2].drop_path.draw(pixels, 4000)
    assert set(factors.unique().tolist()) == {0.0, 2.0}
    assert factors.mean() == pytest.approx(1.0, abs=0.1)
    assert "drop_path" not in "".join(model.state_dict())


def test_a_left_out_window_adds_the_bias_after_it_and_nothing_else() -> None:
    """As in the authors' code, where stochastic depth stands before the linear map that follows temporal attention."""
    model = small_model("divided_space_time", num_hidden_layers=1).train()
    layer = model.timesformer.encoder.layer[0]
    layer.drop_path.rate = 0.999999
    torch.manual_seed(0)
    patches, class_token = torch.randn(2, 4, 4, FRAMES, 16), torch.randn(2, 1, 16)
    new_patches, new_class, _ = layer(patches, class_token)
    torch.testing.assert_close(new_patches, patches + layer.temporal_dense.bias)
    torch.testing.assert_close(new_class, class_token)


def test_head_dropout_is_of_training_only() -> None:
    model = small_model("space_only")
    model.regularize(drop_path_rate=0.0, head_dropout=0.5)
    assert torch.equal(model(clip()).logits, model(clip()).logits)
    model.train()
    assert not torch.equal(model(clip()).logits, model(clip()).logits)


def test_names_for_weight_decay_and_layer_wise_rates() -> None:
    model = small_model("divided_space_time")
    assert {name.rpartition(".")[2] for name in model.no_weight_decay()} == {"cls_token", "position_embeddings", "time_embeddings"}  # fmt: skip
    ids = {name: model.layer_id(name) for name, _ in model.named_parameters()}
    assert set(ids.values()) == {0, 1, 2, 3}
    assert ids["timesformer.embeddings.patch_embeddings.projection.weight"] == 0
    assert ids["timesformer.encoder.layer.1.temporal_dense.bias"] == 2
    assert ids["classifier.weight"] == ids["timesformer.layernorm.weight"] == 3


# --- how attention is computed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_the_fused_kernel_and_the_written_out_attention_agree(
    attention_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.model.attention._SHORT_ON_CPU", {})  # the fused kernel for short sequences too
    model = small_model(attention_type)
    assert model.config._attn_implementation == "sdpa"
    with torch.no_grad():
        fused = model(clip()).logits
        model.set_attn_implementation("eager")
        torch.testing.assert_close(model(clip()).logits, fused, rtol=1e-5, atol=1e-5)


def test_a_kernel_that_is_not_installed_is_refused_with_its_name() -> None:
    with pytest.raises((ImportError, ValueError), match=r"[Ff]lash"):
        small_model("divided_space_time").set_attn_implementation("flash_attention_2")


@pytest.mark.parametrize(
    ("attention_type", "shapes"),
    [
        ("space_only", {"attention": (6, 2, 17, 17)}),
        ("joint_space_time", {"attention": (2, 2, 49, 49)}),
        ("divided_space_time", {"temporal_attention": (32, 2, 3, 3), "attention": (6, 2, 17, 17)}),
        ("sparse_local_global", {"local_attention": (2, 2, 49, 49), "attention": (2, 2, 49, 49)}),
        (
            "axial",
            {"temporal_attention": (32, 2, 3, 3), "width_attention": (24, 2, 5, 5), "attention": (24, 2, 5, 5)},
        ),
    ],
)
def test_the_maps_of_every_attention_have_the_documented_shapes(
    attention_type: str, shapes: dict[str, tuple[int, ...]]
) -> None:
    model = small_model(attention_type)
    with torch.no_grad():
        output = model(clip(), output_attentions=True)
        assert model(clip()).step_attentions is None
    for maps, last in zip(output.step_attentions, output.attentions):
        assert {name: tuple(one.shape) for name, one in maps.items()} == shapes
        assert maps["attention"] is last
        for one in maps.values():
            torch.testing.assert_close(one.sum(-1), torch.ones(one.shape[:-1]))


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_half_precision_stays_close(attention_type: str) -> None:
    model = small_model(attention_type)
    with torch.no_grad():
        exact = model(clip()).logits
        for dtype in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", dtype):
                assert F.cosine_similarity(model(clip()).logits.float(), exact).min() > 0.99
        assert F.cosine_similarity(model.bfloat16()(clip()).logits.float(), exact).min() > 0.99


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_it_is_one_graph_to_the_compiler_and_to_export(attention_type: str) -> None:
    torch.compiler.reset()
    model = small_model(attention_type)
    pixels = clip()
    graph = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(graph(pixels).logits, model(pixels).logits)
    model.train()
    graph(pixels, labels=torch.tensor([0, 1])).loss.backward()
    program = torch.export.export(
        model.eval(), (pixels,), dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch", min=1, max=64)}}
    )
    torch.testing.assert_close(program.module()(clip(batch=5)).logits, model(clip(batch=5)).logits)


def test_one_exported_program_serves_every_number_of_frames() -> None:
    """Though a CPU computes attention one way for short sequences and another for long ones."""
    model = small_model("divided_space_time")
    # Not a named Dim: torch 2.11 would want a proof that 48 n is less than 192 n.
    dynamic = {"pixel_values": {1: torch.export.Dim.AUTO}}
    program = torch.export.export(model, (clip(6),), dynamic_shapes=dynamic).module()
    for frames in (4, 20):
        torch.testing.assert_close(program(clip(frames)).logits, model(clip(frames)).logits, rtol=1e-5, atol=1e-5)


def test_a_wrapped_patch_embedding_is_called_and_its_inputs_may_require_gradients() -> None:
    """As LoRA on the convolution does, and adapters under activation checkpointing."""
    model = small_model("divided_space_time")
    before = model(clip()).logits
    patches = model.timesformer.embeddings.patch_embeddings
    patches.projection.__class__ = type("Wrapped", (nn.Conv2d,), {})
    torch.testing.assert_close(model(clip()).logits, before, rtol=1e-5, atol=1e-5)
    model.requires_grad_(False)
    model.enable_input_require_grads()
    assert model(clip()).logits.requires_grad


def test_wrapped_linear_maps_are_used_as_wrapped() -> None:
    """What stands in the place of a linear map, as LoRA's layers do, is called, not merged away."""

    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    for name in ("temporal_dense", "temporal_attention.output.dense", "attention.attention.qkv"):
        model = small_model("divided_space_time")
        before = model(clip()).logits
        for layer in model.timesformer.encoder.layer:
            layer.get_submodule(name).__class__ = Doubled
        assert not torch.allclose(model(clip()).logits, before, atol=1e-3), name
