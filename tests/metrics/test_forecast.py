"""Metrics of foretold events: by hand, and the same in parts as in one piece."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unrolled.metrics.forecast import (
    Forecast,
    MeanLogLikelihood,
    NumEvents,
    PerEvent,
    TimeMAE,
    TimeRMSE,
    TypeAccuracy,
)

FORECAST = Forecast(
    torch.tensor([-1.0, -2.5, 0.5]),
    torch.tensor([-0.5, -0.25, -1.0]),
    torch.tensor([2, 3, 2]),
    torch.tensor([1.0, 2.0, 3.0]),
    torch.tensor([2.0, 2.0, 7.0]),
)
TARGETS = torch.tensor([[2.0, 1.5], [2.0, 2.0], [2.0, 6.0]], dtype=torch.float64)
ALL: list[PerEvent] = [
    MeanLogLikelihood(), MeanLogLikelihood("time"), MeanLogLikelihood("type"), TypeAccuracy(),
    TimeMAE(), TimeRMSE(), NumEvents(),
]  # fmt: skip
EXPECTED = [-4.75 / 3, -1.0, -1.75 / 3, 2 / 3, 3.5 / 3, math.sqrt(1.25 / 3), 3]


@pytest.mark.parametrize(("metric", "expected"), list(zip(ALL, EXPECTED, strict=True)))
def test_the_value_is_that_by_hand(metric: PerEvent, expected: float) -> None:
    metric.reset()
    metric.update(FORECAST, TARGETS)
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-7)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=5), st.integers(0, 1000))
def test_in_parts_it_is_the_same(sizes: list[int], seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    total = sum(sizes) + 1
    values: list[Tensor] = [torch.randn(total, generator=random) for _ in range(4)]
    types = torch.randint(1, 4, (total,), generator=random)
    forecast = Forecast(values[0], values[1], types, values[2].abs(), values[3].abs())
    targets = torch.rand(total, 2, generator=random, dtype=torch.float64) * 3 + 1
    ends = [0, *torch.tensor([*sizes, 1]).cumsum(0).tolist()]
    for metric in ALL:
        metric.reset()
        metric.update(forecast, targets)
        whole = float(metric.compute())
        metric.reset()
        for start, end in itertools.pairwise(ends):
            metric.update(Forecast(*(v[start:end] for v in forecast)), targets[start:end])
        assert float(metric.compute()) == pytest.approx(whole, abs=1e-6)
