"""finetune.training.losses and finetune.training.mixing: numbers a reader can check, and torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from finetune.clips.clip import IGNORED
from finetune.training.losses import Loss, as_targets, balanced_weights
from finetune.training.mixing import Mixing, paste

LOGITS = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 0.0], [1.0, 1.0, 3.0], [-2.0, 0.0, 1.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 0])


def test_it_is_torchs_cross_entropy_with_smoothing_and_with_soft_targets() -> None:
    for smoothing in (0.0, 0.1):
        ours = Loss(label_smoothing=smoothing)(LOGITS, as_targets(LABELS, 3), 4)
        theirs = F.cross_entropy(LOGITS.float(), LABELS, label_smoothing=smoothing)
        assert float(ours) == pytest.approx(float(theirs), abs=1e-6)
    soft = torch.tensor([[0.7, 0.3, 0.0]]).repeat(4, 1)
    assert float(Loss()(LOGITS, soft, 4)) == pytest.approx(float(F.cross_entropy(LOGITS.float(), soft)), abs=1e-6)


def test_several_labels_are_torchs_binary_cross_entropy() -> None:
    targets = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    ours = Loss(multi_label=True)(LOGITS, targets, targets.numel())
    assert float(ours) == pytest.approx(float(F.binary_cross_entropy_with_logits(LOGITS.float(), targets)), abs=1e-6)


def test_a_video_that_could_not_be_read_changes_nothing() -> None:
    for multi_label in (False, True):
        targets = as_targets(LABELS, 3)
        without = Loss(multi_label)(LOGITS[:3], targets[:3], 3)
        targets[3] = IGNORED
        assert float(Loss(multi_label)(LOGITS, targets, 3)) == pytest.approx(float(without))
    assert as_targets(torch.tensor([1, IGNORED]), 2).tolist() == [[0, 1], [IGNORED, IGNORED]]


def test_focal_loss_takes_away_from_what_is_already_right() -> None:
    logits, target = torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    p = float(logits.softmax(-1)[0, 0])
    assert float(Loss(focal_gamma=2)(logits, target, 1)) == pytest.approx(-((1 - p) ** 2) * np.log(p), rel=1e-5)
    sure, unsure = (float(Loss(True, focal_gamma=2)(torch.tensor([[x]]), torch.ones(1, 1), 1)) for x in (3.0, -3.0))
    plain = [float(F.softplus(torch.tensor(-x))) for x in (3.0, -3.0)]
    assert sure / plain[0] < 0.01 and unsure / plain[1] > 0.9


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("margin", [0.0, 1.0, 10.0, 18.0, 40.0, 120.0])
def test_focal_loss_and_its_gradient_are_right_up_to_certainty(gamma: float, margin: float) -> None:
    """Against the formula in float64, its 1 - p summed over the other classes; in float32 p is 1 from a margin of 17 on."""
    logits = torch.tensor([[margin, 0.0, -1.0], [0.0, margin, 0.5]], requires_grad=True)
    targets = torch.tensor([[0.9, 0.1, 0.0], [0.0, 1.0, 0.0]])
    Loss(focal_gamma=gamma)(logits, targets, 2).backward()
    exact = logits.detach().double().requires_grad_()
    log_p = exact.log_softmax(-1)
    others = [log_p[:, [j for j in range(3) if j != i]].logsumexp(-1) for i in range(3)]
    (-targets * log_p * (gamma * torch.stack(others, -1)).exp()).sum().div(2).backward()
    assert exact.grad is not None and exact.grad.isfinite().all()
    torch.testing.assert_close(logits.grad, exact.grad.float(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("margin", [0.0, 10.0, 90.0, 120.0, -120.0])
def test_focal_loss_of_several_labels_has_a_gradient_up_to_certainty(margin: float) -> None:
    logits, targets = torch.tensor([[margin, -margin]], requires_grad=True), torch.tensor([[1.0, 0.0]])
    Loss(True, focal_gamma=0.5)(logits, targets, 2).backward()
    exact = logits.detach().double().requires_grad_()
    (F.softplus(exact * torch.tensor([-1, 1])) * (0.5 * -F.softplus(exact * torch.tensor([1, -1]))).exp()).sum().div(2).backward()  # fmt: skip
    torch.testing.assert_close(logits.grad, exact.grad.float(), rtol=1e-4, atol=1e-7)


def test_focal_loss_of_one_class_is_nothing() -> None:
    logits = torch.zeros(2, 1, requires_grad=True)
    Loss(focal_gamma=0.5)(logits, torch.ones(2, 1), 2).backward()
    assert logits.grad is not None and not logits.grad.any()


def test_balanced_weights_are_scikit_learns() -> None:
    weights = balanced_weights([0, 0, 0, 2], 3)
    assert weights.tolist() == pytest.approx([4 / (2 * 3), 0, 4 / (2 * 1)])
    assert weights[torch.tensor([0, 0, 0, 2])].mean() == pytest.approx(1)


def clips(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1, 1).expand(-1, 2, 3, 8, 8).clone()


@pytest.mark.parametrize("mixing", [Mixing(mixup_alpha=0.8), Mixing(cutmix_alpha=1.0), Mixing(0.8, 1.0)])
def test_a_mixed_clip_holds_its_classes_in_the_shares_its_target_says(mixing: Mixing) -> None:
    """Clips of one value each: their mean is the share of the class with that value, whatever was done."""
    seen = set()
    for seed in range(20):
        pixels, targets = mixing(
            clips([0, 1, 0, 1]), as_targets(torch.tensor([0, 1, 0, 1]), 2), np.random.default_rng(seed)
        )
        assert pixels.mean((1, 2, 3, 4)).tolist() == pytest.approx(targets[:, 1].tolist(), abs=1e-6)
        assert targets.sum(-1).tolist() == pytest.approx([1] * 4)
        assert (pixels[:, 0] == pixels[:, 1]).all(), "the same in all frames"
        seen.add(round(float(targets[0, 0]), 3))
    assert len(seen) > 5
    again = mixing(clips([0, 1, 0, 1]), as_targets(torch.tensor([0, 1, 0, 1]), 2), np.random.default_rng(19))
    assert torch.equal(again[0], pixels), "a function of its random numbers"


def test_a_pasted_rectangle_at_the_edge_counts_what_is_left_of_it() -> None:
    for seed in range(30):
        mixed, share = paste(clips([0.0]), clips([1.0]), 0.5, np.random.default_rng(seed))
        assert float(1 - mixed.mean()) == pytest.approx(share)
        assert share >= 0.5 - 0.1


def test_a_negative_label_is_no_class() -> None:
    assert as_targets(torch.tensor([1, IGNORED]), 2).tolist() == [[0, 1], [IGNORED, IGNORED]]
    with pytest.raises(RuntimeError, match="non-negative"):
        as_targets(torch.tensor([1, -1]), 2)
