"""The logarithmic score: equal to scikit-learn's, finite for a certain mistake."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from unrolled.metrics.log_loss import LogLoss

law = settings(max_examples=25, deadline=None)
pairs = st.lists(st.tuples(st.floats(1e-7, 1 - 1e-7), st.integers(0, 1)), min_size=1, max_size=8)
batches = st.lists(pairs, min_size=1, max_size=5)


def update(metric: LogLoss, batch: list[tuple[float, int]]) -> None:
    probabilities = torch.tensor([p for p, _ in batch], dtype=torch.float64)
    metric.update(probabilities, torch.tensor([t for _, t in batch]))


@law
@given(batches)
def test_log_loss_equals_scikit_learns_over_all_batches(
    data: list[list[tuple[float, int]]],
) -> None:
    metric = LogLoss()
    for batch in data:
        update(metric, batch)
    probabilities, targets = zip(*(pair for batch in data for pair in batch), strict=True)
    expected = log_loss(targets, probabilities, labels=[0, 1])
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@law
@given(batches, batches)
def test_log_loss_starts_afresh_after_a_reset(
    first: list[list[tuple[float, int]]], second: list[list[tuple[float, int]]]
) -> None:
    used, fresh = LogLoss(), LogLoss()
    for batch in first:
        update(used, batch)
    used.reset()
    for batch in second:
        update(used, batch)
        update(fresh, batch)
    assert float(used.compute()) == float(fresh.compute())


@law
@given(batches, batches)
def test_merging_two_halves_equals_the_score_of_all(
    first: list[list[tuple[float, int]]], second: list[list[tuple[float, int]]]
) -> None:
    one, other, whole = LogLoss(), LogLoss(), LogLoss()
    for batch in first:
        update(one, batch)
        update(whole, batch)
    for batch in second:
        update(other, batch)
        update(whole, batch)
    one.merge_state(other)
    assert float(one.compute()) == pytest.approx(float(whole.compute()), rel=1e-12)


@pytest.mark.parametrize(("probability", "target"), [(0.0, 1), (1.0, 0)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_certain_mistake_costs_the_logarithm_of_ten_millionths(
    probability: float, target: int, dtype: torch.dtype
) -> None:
    metric = LogLoss()
    metric.update(torch.tensor([probability], dtype=dtype), torch.tensor([target]))
    assert float(metric.compute()) == pytest.approx(-math.log(1e-7), rel=1e-6)


def test_a_certain_hit_costs_almost_nothing_but_not_less() -> None:
    metric = LogLoss()
    metric.update(torch.tensor([0.0, 1.0]), torch.tensor([0, 1]))
    assert float(metric.compute()) == pytest.approx(1e-7, rel=1e-6)


def test_the_sum_of_many_small_costs_does_not_drift() -> None:
    metric = LogLoss()
    n = 2_000_000
    probability = torch.tensor([0.999], dtype=torch.float64)
    for _ in range(2):
        metric.update(probability.expand(n), torch.ones(1, dtype=torch.int64).expand(n))
    assert float(metric.compute()) == pytest.approx(-math.log(0.999), rel=1e-10)


def test_less_log_loss_is_better() -> None:
    assert LogLoss().higher_is_better is False
