"""Seeds and folds: mean, deviation and interval, beside scipy's."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from unrolled.sweep.record import Trial
from unrolled.sweep.repeats import groups, is_repeat, t_quantile
from unrolled.sweep.space import Sweep

SWEEP = Sweep(
    Path("x.yaml"),
    {
        "program": "train.py",
        "method": "grid",
        "metric": {"name": "val/auroc", "goal": "maximize"},
        "parameters": {
            "model": {"values": ["lstm", "gru", "rnn"]},
            "seed": {"values": [1, 2, 3]},
            "data.source.fold": {"values": [0, 1]},
        },
    },
)


def trial(number: int, model: str, seed: int, fold: int, value: float | None) -> Trial:
    values = {"model": model, "seed": seed, "data.source.fold": fold}
    return Trial(number, str(number), values, "failed" if value is None else "finished", value)


def test_repeats_are_summed_up_and_the_best_mean_is_first() -> None:
    scores = [0.7, 0.9, 0.8, 0.85]
    trials = [trial(i, "lstm", i, 0, score) for i, score in enumerate(scores)]
    trials += [
        trial(9, "gru", 1, 0, 0.95),
        trial(10, "gru", 2, 1, 0.5),
        trial(11, "rnn", 1, 0, None),
    ]
    first, second = groups(SWEEP, trials)
    assert (first.values, second.values) == ({"model": "lstm"}, {"model": "gru"})
    assert first.mean == pytest.approx(0.8125)
    assert first.deviation == pytest.approx(statistics.stdev(scores))
    # scipy.stats.t.interval(0.95, 3, 0.8125, sem) is 0.6766 to 0.9484.
    assert first.interval == pytest.approx(0.13589, abs=1e-4)
    assert len(second.scores) == 2


def test_one_repeat_has_no_deviation() -> None:
    (only,) = groups(SWEEP, [trial(0, "lstm", 1, 0, 0.7)])
    assert (only.deviation, only.interval) == (None, None)


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.706), (9, 2.262), (30, 2.042), (40, 2.021), (120, 1.980)]
)
def test_the_quantiles_are_students(degrees: int, quantile: float) -> None:
    assert t_quantile(degrees) == pytest.approx(quantile, abs=1.5e-3)


def test_a_seed_of_any_part_is_a_repeat() -> None:
    assert is_repeat("seed")
    assert is_repeat("data.source.fold")
    assert not is_repeat("model.hidden_size")
