"""What learns, how fast, and in which order videos come."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from transformers import TimesformerConfig

from data_prep.errors import UserError
from finetune.model.modeling import TimesformerForVideoClassification
from finetune.settings.learning import LearningArguments, check_learning
from finetune.training.adapters import choose_what_learns, merge_lora
from finetune.training.ema import MovingAverage
from finetune.training.optimizer import accumulation_for, milestone_schedule, parameter_groups
from finetune.training.sampler import VideoSampler


@pytest.fixture
def model() -> TimesformerForVideoClassification:
    torch.manual_seed(0)
    config = TimesformerConfig(
        image_size=16, patch_size=8, num_frames=2, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=32, num_labels=2,
    )  # fmt: skip
    return TimesformerForVideoClassification(config)


def names_of(model: TimesformerForVideoClassification, groups: list[dict]) -> list[tuple[set[str], float, float]]:
    name_of = {id(weight): name for name, weight in model.named_parameters()}
    return [
        ({name_of[id(weight)] for weight in group["params"]}, group["lr"], group["weight_decay"]) for group in groups
    ]


def test_every_weight_is_in_one_group_and_layers_decay_from_the_head_down(
    model: TimesformerForVideoClassification,
) -> None:
    groups = names_of(model, parameter_groups(model, 1.0, 0.1, "matrices", 0.5))
    assert sorted(name for names, *_ in groups for name in names) == sorted(
        name for name, _ in model.named_parameters()
    )
    rate = {name: lr for names, lr, _ in groups for name in names}
    assert groups[0][1] == rate["classifier.weight"] == rate["timesformer.layernorm.weight"] == 1
    blocks = [rate[f"timesformer.encoder.layer.{i}.output.dense.weight"] for i in range(3)]
    assert blocks == [0.125, 0.25, 0.5] and rate["timesformer.embeddings.cls_token"] == 0.0625


@pytest.mark.parametrize(
    ("decay_on", "token", "bias", "norm"),
    [("all", True, True, True), ("all_but_embeddings", False, True, True), ("all_but_norms", True, False, False), ("matrices", False, False, False)],
)  # fmt: skip
def test_weight_decay_pulls_where_it_is_asked_to(
    model: TimesformerForVideoClassification, decay_on: str, token: bool, bias: bool, norm: bool
) -> None:
    decayed = {
        name
        for names, _, decay in names_of(model, parameter_groups(model, 1, 0.1, decay_on, 1))
        for name in names
        if decay
    }
    assert "classifier.weight" in decayed
    assert ("timesformer.embeddings.time_embeddings" in decayed) is token
    assert ("classifier.bias" in decayed) is bias
    assert ("timesformer.encoder.layer.0.temporal_layernorm.weight" in decayed) is norm


def test_milestones_are_those_of_the_authors() -> None:
    """15 epochs of 100 steps, a tenth at 11 and again at 14; with a warm-up from the first step on."""
    multiplier = milestone_schedule([11, 14], 0.1, 15, 1500, 0)
    assert [multiplier(step) for step in (0, 1099, 1100, 1399, 1400)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    assert milestone_schedule([11], 0.1, 15, 1500, 10)(4) == pytest.approx(0.5)


def test_the_accumulation_makes_exactly_the_step_that_is_asked_for() -> None:
    assert accumulation_for(64, 8, 2) == 4
    with pytest.raises(UserError, match="48 is not a multiple of 32"):
        accumulation_for(48, 16, 2)


def test_the_average_is_what_is_evaluated_and_the_weights_come_back(model: TimesformerForVideoClassification) -> None:
    average = MovingAverage(model, 0.5)
    start = model.classifier.weight.detach().clone()
    with torch.no_grad():
        model.classifier.weight += 1
    average.update(step=100)
    own = model.classifier.weight.detach().clone()
    with average.in_place():
        assert torch.allclose(model.classifier.weight, start + 0.5)
        assert torch.equal(average.training_weights()["classifier.weight"], own)
    assert torch.equal(model.classifier.weight, own)
    average.update(step=0)  # the first steps move it almost all the way
    assert torch.allclose(average.weights["classifier.weight"], start + 0.95)


def test_frozen_blocks_and_low_rank_additions(model: TimesformerForVideoClassification) -> None:
    choose_what_learns(model, LearningArguments(freeze_blocks=2))
    learning = {model.layer_id(name) for name, weight in model.named_parameters() if weight.requires_grad}
    assert learning == {3, 4}
    with pytest.raises(UserError, match="has 3 blocks"):
        choose_what_learns(model, LearningArguments(freeze_blocks=4))


def test_a_share_of_the_blocks_is_frozen_whatever_their_number(model: TimesformerForVideoClassification) -> None:
    choose_what_learns(model, LearningArguments(freeze_blocks=0.67))
    assert {model.layer_id(name) for name, weight in model.named_parameters() if weight.requires_grad} == {3, 4}


@pytest.mark.extra("peft")
def test_merged_low_rank_additions_give_a_plain_model_with_the_same_logits(
    model: TimesformerForVideoClassification,
) -> None:
    names = set(model.state_dict())
    choose_what_learns(model, LearningArguments(lora_rank=2))
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert all("lora_" in name or "classifier" in name for name in learning) and len(learning) > 10
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    clip = torch.randn(2, 2, 3, 16, 16)
    model.eval()
    before = model(clip).logits
    merge_lora(model)
    assert set(model.state_dict()) == names
    assert torch.allclose(model(clip).logits, before, atol=1e-5)


def test_an_epoch_shows_every_video_and_orders_differ_by_epoch_alone() -> None:
    sampler = VideoSampler(10, seed=1, repeats=2)
    first = list(sampler)
    assert Counter(i % 10 for i in first) == dict.fromkeys(range(10), 2) and len(set(first)) == 20
    assert [i % 10 for i in first[::2]] == [i % 10 for i in first[1::2]], "copies side by side"
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(VideoSampler(10, seed=1, repeats=2)) == first


def test_a_balanced_epoch_shows_classes_alike_and_repeats_as_little_as_it_can() -> None:
    labels = [0] * 9 + [1] * 3
    drawn = list(VideoSampler(12, seed=0, labels=labels))
    counts = Counter(i % 12 for i in drawn)
    assert sum(counts[i] for i in range(9)) == sum(counts[i] for i in range(9, 12)) == 6
    assert {counts[i] for i in range(9, 12)} == {2} and max(counts[i] for i in range(9)) == 1
    assert len(set(drawn)) == 12, "a repeated video is augmented otherwise"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"layer_decay": 1.5}, "0 to 1"), ({"layer_decay": 0.0}, "expected more"), ({"lr_milestones": [14, 11]}, "epochs in order"), ({"target_batch_size": 0}, "at least 1"), ({"linear_probe": True, "lora_rank": 4}, "head alone"), ({"freeze_blocks": 2.5}, "a number of blocks")],
)  # fmt: skip
def test_settings_that_cannot_be_meant_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_learning(LearningArguments(**wrong))
