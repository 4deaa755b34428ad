"""The generated Hawkes process: drawn from its law, with the likelihood of its law."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unrolled.data.events import EventData
from unrolled.synthetic.hawkes import HawkesLog, excitation, flat_events

SMALL = HawkesLog(sequences=300, types=3, min_events=5, max_events=40, seed=3)


def _flat(log: HawkesLog) -> tuple[Tensor, Tensor, Tensor]:
    """Types, gaps (infinite at starts) and sequence of each event, from the generated table."""
    table = log.generate()
    sequence = torch.from_numpy(table["sequence_id"].to_numpy().copy())
    times = torch.from_numpy(table["time"].to_numpy().copy())
    gaps = times.diff(prepend=times[:1])
    gaps[torch.cat([torch.tensor([True]), sequence.diff() != 0])] = torch.inf
    return torch.from_numpy(table["type"].to_numpy().copy()), gaps, sequence


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 100))
def test_sums_over_the_past_are_those_of_a_loop(lengths: list[int], seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    marks = torch.rand(total, 2, generator=random, dtype=torch.float64)
    gaps = torch.rand(total, generator=random, dtype=torch.float64)
    gaps[torch.tensor([0, *lengths[:-1]]).cumsum(0)] = torch.inf
    decays = torch.tensor([0.5, 3.0], dtype=torch.float64)
    expected = torch.zeros(total, 2, 2, dtype=torch.float64)
    before = torch.zeros(2, 2, dtype=torch.float64)
    for event in range(total):
        before = before * torch.exp(-decays * gaps[event]).unsqueeze(1) + marks[event]
        expected[event] = before
    sums = excitation(marks, gaps, decays, max(lengths))
    torch.testing.assert_close(sums, expected, rtol=1e-12, atol=1e-12)


def test_the_likelihood_is_that_of_the_double_sum() -> None:
    types, gaps, sequence = _flat(SMALL)
    time, kind = SMALL.log_likelihood(types, gaps, 40)
    beta, mu, a = SMALL.decay, SMALL.rates.tolist(), SMALL.offspring.tolist()
    step = 0
    for number in range(20):
        mine = (sequence == number).nonzero()[:, 0]
        at = gaps[mine].clone()
        at[0] = 0
        times, kinds = at.cumsum(0).tolist(), types[mine].tolist()
        for event in range(1, len(times)):
            past = range(event)
            rates = [
                mu[m]
                + sum(a[m][kinds[j]] * beta * math.exp(-beta * (times[event] - times[j]))
                      for j in past)
                for m in range(3)
            ]  # fmt: skip
            expected = sum(mu) * (times[event] - times[event - 1]) + sum(
                a[m][kinds[j]]
                * (math.exp(-beta * (times[event - 1] - times[j]))
                   - math.exp(-beta * (times[event] - times[j])))
                for m in range(3) for j in past
            )  # fmt: skip
            assert float(time[step]) == pytest.approx(math.log(sum(rates)) - expected, abs=1e-10)
            assert float(kind[step]) == pytest.approx(
                math.log(rates[kinds[event]] / sum(rates)), abs=1e-10
            )
            step += 1


def test_events_are_as_frequent_as_the_law_says() -> None:
    log = HawkesLog(sequences=400, types=3, min_events=600, max_events=600, seed=5)
    types, gaps, _ = _flat(log)
    # In the long run the rates are (1 - a)^-1 mu; the first events are still without a past.
    types, gaps = types.view(400, 600)[:, 300:], gaps.view(400, 600)[:, 300:]
    rates = torch.linalg.solve(torch.eye(3, dtype=torch.float64) - log.offspring, log.rates)
    length = gaps.sum(1)
    for kind in range(3):
        count = (types == kind).sum(1).double()
        # The ratio of two sums, its error by the delta method.
        rate = count.sum() / length.sum()
        error = (count - rate * length).std() / length.mean() / math.sqrt(400)
        assert abs(float(rate - rates[kind])) < 4 * float(error)


def test_in_its_own_time_the_process_is_a_poisson_process() -> None:
    # Time rescaling: the expected numbers of events between events are exponential (Papangelou).
    types, gaps, _ = _flat(SMALL)
    one = HawkesLog(sequences=300, types=1, min_events=5, max_events=40, seed=4)
    for log, (kinds, waits) in ((SMALL, (types, gaps)), (one, _flat(one)[:2])):
        time, kind = log.log_likelihood(kinds, waits, 40)
        intensity = torch.nn.functional.one_hot(kinds, log.types).double()
        caused = log.decay * excitation(
            intensity, waits, torch.tensor([log.decay], dtype=torch.float64), 40
        )[:, 0] @ log.offspring.T  # fmt: skip
        after = waits.isfinite().nonzero()[:, 0]
        total = log.rates.sum() + (
            caused[after - 1] * torch.exp(-log.decay * waits[after]).unsqueeze(1)
        ).sum(1)
        expected = (total.log() - time).sort().values
        n = len(expected)
        uniform = 1 - torch.exp(-expected)
        steps = torch.arange(1, n + 1, dtype=torch.float64) / n
        distance = float(torch.maximum(steps - uniform, uniform - steps + 1 / n).max())
        # Kolmogorov-Smirnov: exceeded once in 1,000 logs.
        assert distance < 1.95 / math.sqrt(n)
        assert kind.max() <= 0


def test_without_offspring_it_is_a_poisson_process() -> None:
    log = HawkesLog(sequences=200, types=2, branching=0.0, seed=1)
    types, gaps, _ = _flat(log)
    time, kind = log.log_likelihood(types, gaps, 100)
    waited = gaps[gaps.isfinite()]
    torch.testing.assert_close(time, math.log(0.01) - 0.01 * waited)
    assert float(waited.mean()) == pytest.approx(100, rel=4 / math.sqrt(len(waited)))
    shares = kind.exp().unique()
    assert [round(float(s), 6) for s in (shares.min(), shares.max())] == [0.333333, 0.666667]


def test_a_seed_is_a_log() -> None:
    assert SMALL.generate().equals(SMALL.generate())
    other = HawkesLog(sequences=300, types=3, min_events=5, max_events=40, seed=4)
    assert other.fingerprint() != SMALL.fingerprint()
    assert not other.generate().equals(SMALL.generate())
    lengths = np.unique(SMALL.generate()["sequence_id"].to_numpy(), return_counts=True)[1]
    assert (lengths.min(), lengths.max()) == (5, 40)


def test_the_best_value_is_the_laws_own_on_the_test_sequences(tmp_path: Path) -> None:
    data = EventData(SMALL, tmp_path, target="next_event")
    best = data.best_possible()
    test = data.source("test")
    # By the log itself: the test sequences are the last to begin.
    types, gaps, sequence = _flat(SMALL)
    time, kind = SMALL.log_likelihood(types, gaps, 40)
    of = sequence[gaps.isfinite()]
    ids = torch.tensor([int(i) for i in data.sequence_ids("test").to_pylist()])
    mine = torch.isin(of, ids)
    assert len(ids) == 30
    assert int(mine.sum()) == len(test.targets())
    assert best["test/log_likelihood"] == pytest.approx(float((time + kind)[mine].mean()), abs=1e-6)
    assert best["test/time_log_likelihood"] == pytest.approx(float(time[mine].mean()), abs=1e-6)
    assert best["test/type_log_likelihood"] == pytest.approx(float(kind[mine].mean()), abs=1e-6)
    test.target = "next_item"
    assert SMALL.best_possible(test, {}) == {}


def test_events_of_a_part_of_the_sequences(tmp_path: Path) -> None:
    source = EventData(SMALL, tmp_path, target="next_event").source("test")
    whole_ids, whole_gaps, _ = flat_events(source)
    first, second = flat_events(source, 0, 7), flat_events(source, 7)
    assert torch.cat([first[0], second[0]]).equal(whole_ids)
    assert torch.cat([first[1], second[1]]).equal(whole_gaps)
    assert int(whole_gaps.isinf().sum()) == len(source)
