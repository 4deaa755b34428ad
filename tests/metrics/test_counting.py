"""Counting metrics: equal to a plain loop, and exact beyond what float32 can count."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics import MetricCollection

from unrolled.metrics.counting import ErrorRate, Mistakes, NumSequences

law = settings(max_examples=25, deadline=None)
pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=8)
batches = st.lists(pairs, min_size=1, max_size=5)


def update(metric: ErrorRate | MetricCollection, batch: list[tuple[int, int]]) -> None:
    predictions, targets = torch.tensor(batch).unbind(1)
    metric.update(predictions, targets)


@law
@given(batches)
def test_errors_equal_a_loop_over_the_predictions(data: list[list[tuple[int, int]]]) -> None:
    metrics = ErrorRate(), Mistakes(), NumSequences()
    for batch in data:
        for metric in metrics:
            update(metric, batch)
    wrong = sum(p != t for batch in data for p, t in batch)
    total = sum(map(len, data))
    rate, mistakes, sequences = (metric.compute() for metric in metrics)
    assert float(rate) == wrong / total
    assert int(mistakes) == wrong
    assert int(sequences) == total
    assert mistakes.dtype == sequences.dtype == torch.int64


@law
@given(batches, batches)
def test_metrics_in_one_collection_share_their_counts_and_forget_them_on_reset(
    first: list[list[tuple[int, int]]], second: list[list[tuple[int, int]]]
) -> None:
    collection = MetricCollection(
        {"error": ErrorRate(), "mistakes": Mistakes(), "sequences": NumSequences()}
    )
    for data in (first, second):
        for batch in data:
            update(collection, batch)
        wrong = sum(p != t for batch in data for p, t in batch)
        total = sum(map(len, data))
        values = {name: float(value) for name, value in collection.compute().items()}
        assert values == {"error": wrong / total, "mistakes": wrong, "sequences": total}
        collection.reset()


@law
@given(batches, batches)
@pytest.mark.parametrize("kind", [ErrorRate, Mistakes, NumSequences])
def test_merging_two_halves_equals_seeing_all(
    kind: type[ErrorRate],
    first: list[list[tuple[int, int]]],
    second: list[list[tuple[int, int]]],
) -> None:
    one, other, whole = kind(), kind(), kind()
    for batch in first:
        update(one, batch)
        update(whole, batch)
    for batch in second:
        update(other, batch)
        update(whole, batch)
    one.merge_state(other)
    assert float(one.compute()) == float(whole.compute())


def test_counts_are_exact_beyond_what_float32_can_count() -> None:
    n = 2**24 + 1
    metrics = ErrorRate(), Mistakes(), NumSequences()
    for size, target in ((n, 1), (1, 1), (1, 0), (1, 1)):
        # Expanded, so that sixteen million predictions take one number's memory.
        predictions = torch.zeros(1, dtype=torch.int64).expand(size)
        for metric in metrics:
            metric.update(predictions, torch.full((1,), target).expand(size))
    rate, mistakes, sequences = (metric.compute() for metric in metrics)
    assert int(mistakes) == n + 2 == 16_777_219
    assert int(sequences) == n + 3 == 16_777_220
    assert float(rate) == (n + 2) / (n + 3)


@pytest.mark.parametrize("kind", [ErrorRate, Mistakes, NumSequences])
def test_a_value_once_computed_does_not_change_with_later_updates(kind: type[ErrorRate]) -> None:
    metric = kind()
    metric.update(torch.tensor([0, 1]), torch.tensor([1, 1]))
    value = metric.compute()
    before = float(value)
    metric.update(torch.tensor([0, 1, 1]), torch.tensor([1, 0, 0]))
    assert float(value) == before
    assert float(metric.compute()) > before


def test_errors_are_better_when_fewer_and_the_number_of_sequences_has_no_better() -> None:
    assert ErrorRate().higher_is_better is False
    assert Mistakes().higher_is_better is False
    assert NumSequences().higher_is_better is None
