"""The head for real numbers: its scale, its limits, its loss."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from unrolled.models.real_head import RealHead

OUTPUTS = torch.tensor([[-3.0], [-0.5], [0.0], [2.0]])


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("limit", ["none", "tanh", "hardtanh"])
@pytest.mark.parametrize("loss_scale", ["none", "variance"])
def test_outputs_are_limited_then_scaled_then_compared(
    standardize: bool, limit: Any, loss_scale: Any
) -> None:
    head = RealHead(3, 5.0, 2.0, standardize, limit, loss_scale)
    cut = {"none": float, "tanh": math.tanh, "hardtanh": lambda v: max(-1.0, min(1.0, v))}[limit]
    numbers = [cut(v) for v in OUTPUTS[:, 0].tolist()]
    if standardize:
        numbers = [5.0 + 2.0 * v for v in numbers]
    assert head.predict(OUTPUTS).tolist() == pytest.approx(numbers, abs=1e-6)
    assert head.expectation(OUTPUTS).tolist() == pytest.approx(numbers, abs=1e-6)
    factor = 0.25 if loss_scale == "variance" else 1.0
    losses = head.loss(OUTPUTS, torch.full((4,), 4.0)).tolist()
    assert losses == pytest.approx([factor * (v - 4.0) ** 2 for v in numbers], abs=1e-6)


def test_predicting_the_mean_costs_one_on_the_scale_of_the_variance() -> None:
    torch.manual_seed(0)
    targets = 7 + 3 * torch.randn(50_000)
    head = RealHead(1, 7.0, 3.0, loss_scale="variance")
    losses = head.loss(torch.zeros(50_000, 1), targets)
    assert float(losses.mean()) == pytest.approx(1.0, abs=0.02)


def test_it_serves_a_vector_for_each_step_too() -> None:
    head = RealHead(3, 0.0, 1.0)
    outputs = head(torch.randn(2, 4, 3))
    assert outputs.shape == (2, 4, 1)
    assert head.loss(outputs, torch.zeros(2, 4)).shape == (2, 4)
