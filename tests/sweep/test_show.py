"""What is told of a sweep: the headline, the table, the summary."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

from rich.console import Console

from unrolled.sweep.points import random_raw, values_of
from unrolled.sweep.record import Trial
from unrolled.sweep.repeats import Group
from unrolled.sweep.show import (
    duration,
    errors,
    groups_table,
    headline,
    line,
    ordered,
    short_names,
    trials_table,
)
from unrolled.sweep.space import Sweep
from unrolled.sweep.summary import importances, write_plots, write_table


def sweep(goal: str = "minimize") -> Sweep:
    return Sweep(
        Path("x.yaml"),
        {
            "program": "train.py",
            "method": "random",
            "metric": {"name": "val/loss", "goal": goal},
            "parameters": {
                "task": {"value": "bitcount"},
                "model": {"values": ["lstm", "gru"]},
                "optimizer.lr": {"distribution": "log_uniform_values", "min": 0.001, "max": 0.1},
                "seed": {"min": 0, "max": 9},
            },
        },
    )


def trial(number: int, state: Any, value: float | None = None, **more: Any) -> Trial:
    values = {"task": "bitcount", "model": "gru", "optimizer.lr": 0.0123456, "seed": number}
    return Trial(number, f"id{number}", values, state, value, seconds=30.0, **more)


TRIALS = [
    trial(0, "finished", 0.5),
    trial(1, "finished", 0.25),
    trial(2, "pruned", 0.1),
    trial(3, "failed", error="RuntimeError: out of memory\nmore"),
    trial(4, "running"),
    trial(5, "running"),
]


def printed(what: Any) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(what)
    return console.export_text()


def test_the_headline_counts_and_guesses_the_time_left() -> None:
    # 6 of 10 are to come, two at a time, of 30 s each.
    assert headline(sweep(), TRIALS, 10) == (
        "4 of 10 trials, 2 finished, 1 pruned, 1 failed, 2 running, best val/loss 0.25 (id1), "
        "about 90 s left"
    )
    assert headline(sweep(), [], 10) == "0 of 10 trials"


def test_no_time_is_left_when_no_further_trial_comes() -> None:
    # Of a space that is exhausted, or of a target that was reached.
    told = headline(sweep(), TRIALS[:2], 10, is_over=True)
    assert told == "2 of 10 trials, 2 finished, best val/loss 0.25 (id1)"


def test_those_that_wait_are_neither_over_nor_at_work() -> None:
    # 1 of 2 is over, of 30 s; the other one is alone.
    told = headline(sweep(), [trial(0, "finished", 0.5), trial(1, "waiting")], 2)
    assert told == (
        "1 of 2 trials, 1 finished, 1 waiting, best val/loss 0.5 (id0), about 30 s left"
    )


def test_the_best_come_first_whichever_way_is_better() -> None:
    assert [t.id for t in ordered(sweep(), TRIALS)] == ["id1", "id0", "id2", "id4", "id5", "id3"]
    assert [t.id for t in ordered(sweep("maximize"), TRIALS)][:2] == ["id0", "id1"]


def test_a_row_has_the_values_that_are_searched() -> None:
    rows = printed(trials_table(sweep(), TRIALS)).splitlines()
    assert rows[1].split() == ["trial", "state", "val/loss", "time", "model", "lr", "seed"]
    assert rows[3].split() == ["id0", "finished", "0.5", "30", "s", "gru", "0.012346", "0"]
    assert errors(TRIALS) == ["id3 failed: RuntimeError: out of memory"]
    assert line(sweep(), TRIALS[0]) == (
        "id0 finished val/loss 0.5  model=gru optimizer.lr=0.012346 seed=0"
    )


def test_names_that_are_the_same_stay_whole() -> None:
    keys = ["model.size", "embedding.size", "optimizer.lr"]
    assert short_names(keys) == ["model.size", "embedding.size", "lr"]


def test_a_configuration_has_its_mean_and_interval() -> None:
    values = {"task": "bitcount", "model": "gru", "optimizer.lr": 0.01}
    group = Group(values, [trial(i, "finished", v) for i, v in enumerate([1.0, 2.0, 3.0])])
    rows = printed(groups_table(sweep(), [group])).splitlines()
    assert rows[3].split() == ["2", "1", "-0.48434", "to", "4.4843", "3", "gru", "0.01"]


def test_times_are_told_as_people_do() -> None:
    assert [duration(s) for s in (3.4, 99, 150, 3900)] == ["3 s", "99 s", "2 min", "1 h 5 min"]


def many() -> list[Trial]:
    """Trials whose loss depends on the learning rate alone."""
    found = []
    for number in range(40):
        values = values_of(sweep(), random_raw(sweep(), 0, number))
        loss = abs(math.log10(values["optimizer.lr"]) + 2)
        found.append(Trial(number, f"id{number}", values, "finished", loss))
    return found


def test_what_makes_the_difference_is_found_and_seeds_are_not_named() -> None:
    shares = importances(sweep(), many())
    assert next(iter(shares)) == "optimizer.lr"
    assert shares["optimizer.lr"] > 0.6
    assert "seed" not in shares
    assert importances(sweep(), many()[:5]) == {}


def test_the_summary_is_written(tmp_path: Path) -> None:
    write_table(sweep(), TRIALS, tmp_path / "trials.csv")
    with (tmp_path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == [t.state for t in TRIALS]
    assert rows[3]["error"] == "RuntimeError: out of memory\nmore"
    assert rows[0]["optimizer.lr"] == "0.0123456"
    names = {path.name for path in write_plots(sweep(), many(), tmp_path)}
    assert names == {f"{n}.{kind}" for n in ("slices", "parallel_coordinates")
                     for kind in ("png", "html")}  # fmt: skip
    page = (tmp_path / "slices.html").read_text()
    assert "optimizer.lr" in page
    # The pages need no network.
    assert 'src="plotly.min.js"' in page
    assert (tmp_path / "plotly.min.js").is_file()
    assert write_plots(sweep(), TRIALS[3:], tmp_path) == []
