"""Perplexity, the share of wrong top symbols and of numbers that are off, by their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.metrics.counting import OffRate
from unrolled.metrics.perplexity import Perplexity, TopErrorRate

law = settings(max_examples=25, deadline=None)


@law
@given(st.integers(2, 6), st.integers(1, 30), st.integers(0, 999))
def test_perplexity_is_the_exponential_of_the_mean_cost(classes: int, n: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    logs = torch.randn(n, classes, generator=random).mul(3).log_softmax(-1)
    targets = torch.randint(classes, (n,), generator=random)
    perplexity, errors = Perplexity(), TopErrorRate()
    for part, wanted in zip(logs.split(7), targets.split(7), strict=True):
        perplexity.update(part, wanted)
        errors.update(part, wanted)
    rows, asked = logs.tolist(), targets.tolist()
    costs = [-row[k] for row, k in zip(rows, asked, strict=True)]
    assert float(perplexity.compute()) == pytest.approx(math.exp(sum(costs) / n), rel=1e-5)
    wrong = sum(row.index(max(row)) != k for row, k in zip(rows, asked, strict=True))
    assert float(errors.compute()) == pytest.approx(wrong / n)


def test_perplexity_of_knowing_nothing_is_the_number_of_symbols() -> None:
    metric = Perplexity()
    metric.update(torch.full((5, 9), -math.log(9)), torch.arange(5))
    assert float(metric.compute()) == pytest.approx(9.0)
    assert Perplexity.higher_is_better is False


def test_one_symbol_that_was_all_but_impossible_leaves_the_perplexity_finite() -> None:
    metric = Perplexity()
    logs = torch.tensor([[0.0, -150.0]])
    metric.update(logs.expand(1_000, 2), torch.tensor([1] + [0] * 999))
    assert float(metric.compute()) == pytest.approx(math.exp(0.15))


def test_off_counts_what_is_the_tolerance_away_or_more_and_what_is_no_number() -> None:
    metric = OffRate(0.25)
    metric.update(torch.tensor([1.0, 1.25, 0.75]), torch.tensor([1.2, 1.0, 0.9]))
    metric.update(torch.tensor([float("nan"), float("inf")]), torch.tensor([0.0, 0.0]))
    assert float(metric.compute()) == pytest.approx(3 / 5)
