"""Seeds and folds: mean, deviation and interval, beside scipy's; and which are best."""

from __future__ import annotations

import csv
import statistics
from pathlib import Path
from typing import Any

import pytest

from unrolled.sweep.points import is_repeat
from unrolled.sweep.record import Trial
from unrolled.sweep.repeats import advice, groups, has_repeats, t_quantile, write_configurations
from unrolled.sweep.show import headline
from unrolled.sweep.space import Sweep

CONTENT: dict[str, Any] = {
    "program": "train.py",
    "method": "grid",
    "metric": {"name": "val/auroc", "goal": "maximize"},
    "parameters": {
        "model": {"values": ["lstm", "gru", "rnn"]},
        "seed": {"values": [1, 2, 3]},
        "data.source.fold": {"values": [0, 1]},
    },
}
SWEEP = Sweep(Path("x.yaml"), CONTENT)


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


def test_a_lucky_seed_is_no_better_than_a_configuration_with_all_of_them(tmp_path: Path) -> None:
    repeats = [(seed, fold) for seed in (1, 2, 3) for fold in (0, 1)]
    # All others of the first failed.
    trials = [trial(n, "lstm", *at, 0.9 if n == 0 else None) for n, at in enumerate(repeats)]
    trials += [trial(10 + n, "gru", *at, 0.75) for n, at in enumerate(repeats)]
    found = groups(SWEEP, trials)
    told = [(g.values["model"], len(g.trials), g.wanted) for g in found]
    assert told == [("gru", 6, 6), ("lstm", 1, 6)]
    # What is told while it runs is what is told at the end.
    assert "best mean val/auroc 0.75 of 6 (10)" in headline(SWEEP, trials, 18)
    write_configurations(SWEEP, found, tmp_path / "configurations.csv")
    with (tmp_path / "configurations.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["model"], r["mean"], r["repeats"], r["wanted"]) for r in rows] == [
        ("gru", "0.75", "6", "6"), ("lstm", "0.9", "1", "6")
    ]  # fmt: skip
    assert rows[0]["trials"] == "10 11 12 13 14 15"
    # Where chance deals out the seeds, what was tried of a configuration is all there is of it.
    by_chance = Sweep(Path("x.yaml"), {**CONTENT, "method": "random"})
    assert groups(by_chance, trials[:1])[0].is_complete
    assert not groups(by_chance, trials[:2])[0].is_complete


def test_that_chance_deals_out_seeds_is_told_before_the_first_trial() -> None:
    assert advice(SWEEP) == []
    told = advice(Sweep(Path("x.yaml"), {**CONTENT, "method": "bayes"}))
    assert [text.partition(":")[0] for text in told] == [
        "parameters.seed", "parameters.data.source.fold"
    ]  # fmt: skip
    assert "for means over all of them take method: grid" in told[0]
    one_seed = {**CONTENT, "parameters": {"model": {"values": ["a", "b"]}, "seed": {"value": 1}}}
    assert not has_repeats(Sweep(Path("x.yaml"), one_seed))


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
