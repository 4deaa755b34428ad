"""The focal loss and class weights: by their formulas, with finite gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from unrolled.models.focal import FocalHead
from unrolled.models.head import BinaryHead

law = settings(max_examples=50, deadline=None)
logits = st.floats(-30, 30)


@law
@given(logits, st.integers(0, 1), st.floats(0, 5), st.floats(0.01, 0.99))
def test_the_focal_loss_is_equation_5_of_lin_et_al(
    logit: float, target: int, gamma: float, alpha: float
) -> None:
    head = FocalHead(3, gamma=gamma, alpha=alpha)
    outputs = torch.tensor([[logit]], dtype=torch.float64)
    of_truth = logit if target else -logit
    probability, other = 1 / (1 + math.exp(-of_truth)), 1 / (1 + math.exp(of_truth))
    weight = alpha if target else 1 - alpha
    expected = -weight * other**gamma * math.log(probability)
    loss = float(head.loss(outputs, torch.tensor([target])))
    assert loss == pytest.approx(expected, rel=1e-6, abs=1e-15)


@law
@given(st.lists(logits, min_size=1, max_size=5))
def test_without_gamma_and_alpha_it_is_the_cross_entropy(values: list[float]) -> None:
    outputs = torch.tensor(values, dtype=torch.float64).unsqueeze(-1)
    targets = torch.arange(len(values)) % 2
    focal = FocalHead(3, gamma=0.0, alpha=None)
    torch.testing.assert_close(focal.loss(outputs, targets), BinaryHead(3).loss(outputs, targets))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_gradient_stays_finite_where_the_model_is_certain(gamma: float) -> None:
    outputs = torch.tensor([[200.0], [-200.0], [200.0], [0.0]], requires_grad=True)
    FocalHead(3, gamma=gamma).loss(outputs, torch.tensor([1, 0, 0, 1])).sum().backward()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()


def test_the_focal_loss_is_given_for_every_step_too() -> None:
    head = FocalHead(3)
    outputs, targets = torch.randn(2, 4, 1), torch.randint(0, 2, (2, 4))
    losses = head.loss(outputs, targets)
    assert losses.shape == (2, 4)
    torch.testing.assert_close(losses[1], head.loss(outputs[1], targets[1]))


def test_the_focal_loss_refuses_more_than_two_classes() -> None:
    with pytest.raises(ValueError, match="of two classes; there are 3"):
        FocalHead(3, 3)


@law
@given(st.lists(logits, min_size=1, max_size=5), st.floats(0.1, 20))
def test_a_positive_weight_multiplies_the_losses_of_the_ones(
    values: list[float], weight: float
) -> None:
    outputs = torch.tensor(values, dtype=torch.float64).unsqueeze(-1)
    head, plain = BinaryHead(3, positive_weight=weight).double(), BinaryHead(3)
    ones, zeros = torch.ones(len(values)).long(), torch.zeros(len(values)).long()
    torch.testing.assert_close(head.loss(outputs, zeros), plain.loss(outputs, zeros))
    expected = torch.tensor(weight).double() * plain.loss(outputs, ones)
    torch.testing.assert_close(head.loss(outputs, ones), expected)


def test_balanced_makes_both_classes_count_alike() -> None:
    head = BinaryHead(3, positive_weight="balanced", class_counts=torch.tensor([90, 30]))
    targets = torch.tensor([0] * 90 + [1] * 30)
    losses = head.loss(torch.zeros(120, 1), targets)
    assert float(losses[targets == 1].sum()) == pytest.approx(float(losses[targets == 0].sum()))
    assert float(losses[0]) == pytest.approx(math.log(2))


def test_a_balanced_weight_goes_with_the_other_weights() -> None:
    trained = BinaryHead(3, positive_weight="balanced", class_counts=torch.tensor([90, 30]))
    loaded = BinaryHead(3, positive_weight="balanced")
    loaded.load_state_dict(trained.state_dict())
    outputs, targets = torch.randn(4, 1), torch.tensor([0, 1, 1, 0])
    torch.testing.assert_close(loaded.loss(outputs, targets), trained.loss(outputs, targets))
    assert "positive_weight" not in BinaryHead(3).state_dict()


@pytest.mark.parametrize(
    ("num_classes", "counts", "message"),
    [
        (3, [1, 1, 1], "positive_weight=balanced weighs two classes; there are 3"),
        (2, [5, 0], "positive_weight=balanced: the training targets are 5 zeros and 0 ones"),
    ],
)
def test_balanced_needs_two_classes_that_occur(
    num_classes: int, counts: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        BinaryHead(3, num_classes, "balanced", torch.tensor(counts))


def test_weighted_losses_have_a_gradient_by_the_weight() -> None:
    outputs = torch.zeros(2, 1, requires_grad=True)
    losses = BinaryHead(3, positive_weight=3.0).loss(outputs, torch.tensor([1, 0]))
    losses.sum().backward()
    assert outputs.grad is not None
    assert outputs.grad.flatten().tolist() == pytest.approx([-1.5, 0.5])
    cross_entropy = F.binary_cross_entropy_with_logits(
        outputs.squeeze(-1), torch.tensor([1.0, 0.0]), reduction="none"
    )
    assert losses.tolist() == pytest.approx((cross_entropy * torch.tensor([3.0, 1.0])).tolist())
