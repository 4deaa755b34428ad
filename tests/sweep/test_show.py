"""What is told of a sweep: the headline, the table, the summary."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from unrolled.sweep.history import Histories
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
from unrolled.terminal import Terminal


def sweep(goal: str = "minimize", metric: str = "val/loss") -> Sweep:
    return Sweep(
        Path("x.yaml"),
        {
            "program": "train.py",
            "method": "random",
            "metric": {"name": metric, "goal": goal},
            "parameters": {
                "task": {"value": "bitcount"},
                "model": {"values": ["lstm", "gru"]},
                "optimizer.lr": {"distribution": "log_uniform_values", "min": 0.001, "max": 0.1},
                "data.batch_size": {"min": 0, "max": 9},
            },
        },
    )


def trial(number: int, state: Any, value: float | None = None, **more: Any) -> Trial:
    values = {"task": "bitcount", "model": "gru", "optimizer.lr": 0.0123456}
    values["data.batch_size"] = number
    return Trial(number, f"id{number}", values, state, value, seconds=30.0, **more)


TRIALS = [
    trial(0, "finished", 0.5),
    trial(1, "finished", 0.25),
    trial(2, "pruned", 0.1, watched=0.1),
    trial(3, "failed", error="RuntimeError: out of memory\nmore"),
    trial(4, "running"),
    trial(5, "running"),
]


def printed(what: Any) -> str:
    console = Terminal(width=120, record=True, file=io.StringIO())
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
    assert rows[1].split() == ["trial", "state", "val/loss", "time", "model", "lr", "batch_size"]
    assert rows[3].split() == ["id0", "finished", "0.5", "30", "s", "gru", "0.012346", "0"]
    assert errors(TRIALS) == ["id3 failed: RuntimeError: out of memory"]
    assert line(sweep(), TRIALS[0]) == (
        "id0 finished val/loss 0.5  model=gru optimizer.lr=0.012346 data.batch_size=0"
    )


def test_what_is_judged_once_and_what_is_watched_are_two_columns(tmp_path: Path) -> None:
    apart = sweep("maximize", "hpo_val/auroc")
    trials = [
        trial(0, "finished", 0.7, watched=0.71),
        trial(1, "pruned", watched=0.6),
        trial(2, "finished", 0.8, watched=0.9),
        # Better than all values, but of the validation.
        trial(3, "pruned", watched=0.99),
        trial(4, "running"),
    ]
    best_first = ordered(apart, trials)
    assert [t.id for t in best_first] == ["id2", "id0", "id3", "id1", "id4"]
    (tmp_path / "id4").mkdir()
    (tmp_path / "id4" / "metrics.csv").write_text("step,val/auroc\n1,0.5\n2,0.55\n")
    table = printed(trials_table(apart, best_first, Histories(tmp_path, apart.watched)))
    cells = [row.split()[:4] for row in table.splitlines() if row.strip(" ─")]
    assert cells == [
        ["trial", "state", "hpo_val/auroc", "val/auroc"],
        ["id2", "finished", "0.8", "0.9"],
        ["id0", "finished", "0.7", "0.71"],
        ["id3", "pruned", "-", "0.99"],
        ["id1", "pruned", "-", "0.6"],
        ["id4", "running", "-", "0.55"],
    ]
    assert line(apart, trials[1]).startswith("id1 pruned val/auroc 0.6 ")
    assert "best hpo_val/auroc 0.8 (id2)" in headline(apart, trials, 5)
    write_table(apart, best_first, tmp_path / "trials.csv")
    with (tmp_path / "trials.csv").open(newline="") as file:
        told = [(r["hpo_val/auroc"], r["val/auroc"]) for r in csv.DictReader(file)]
    assert told == [("0.8", "0.9"), ("0.7", "0.71"), ("", "0.99"), ("", "0.6"), ("", "")]


def test_names_that_are_the_same_stay_whole() -> None:
    keys = ["model.size", "embedding.size", "optimizer.lr"]
    assert short_names(keys) == ["model.size", "embedding.size", "lr"]


def test_a_configuration_has_its_mean_and_interval() -> None:
    values = {"task": "bitcount", "model": "gru", "optimizer.lr": 0.01}
    repeats = [trial(i, "finished", v) for i, v in enumerate([1.0, 2.0, 3.0])]
    group = Group(values, repeats, wanted=4)
    rows = printed(groups_table(sweep(), [group])).splitlines()
    assert rows[3].split() == ["2", "1", "-0.48434", "to", "4.4843", "3", "of", "4", "gru", "0.01"]


def test_times_are_told_as_people_do() -> None:
    assert [duration(s) for s in (3.4, 99, 150, 3900)] == ["3 s", "99 s", "2 min", "1 h 5 min"]


def many(space: Sweep) -> list[Trial]:
    """Trials whose loss depends on the learning rate alone."""
    found = []
    for number in range(40):
        values = values_of(space, random_raw(space, 0, number))
        loss = abs(math.log10(values["optimizer.lr"]) + 2)
        found.append(Trial(number, f"id{number}", values, "finished", loss))
    return found


def test_what_makes_the_difference_is_found_and_seeds_are_not_named() -> None:
    space = sweep()
    space.parameters["seed"] = space.parameters.pop("data.batch_size")
    shares = importances(space, many(space))
    assert next(iter(shares)) == "optimizer.lr"
    assert shares["optimizer.lr"] > 0.6
    assert "seed" not in shares
    assert importances(space, many(space)[:5]) == {}


def test_what_was_stopped_counts_among_the_worse() -> None:
    space = sweep()
    trials = [
        replace(t, state="pruned", value=None) if t.values["model"] == "gru" else t
        for t in many(space)
    ]
    assert "model" not in importances(space, [t for t in trials if t.state == "finished"])
    assert importances(space, trials)["model"] > 0.04


def test_what_was_the_same_in_all_trials_made_no_difference() -> None:
    trials = [t for t in many(sweep()) if t.values["model"] == "gru"]
    shares = importances(sweep(), trials)
    assert set(shares) == {"optimizer.lr", "data.batch_size"}
    # Of one parameter there is nothing to tell: its share is always 1.
    only = [replace(t, values={**t.values, "data.batch_size": 3}) for t in trials]
    assert importances(sweep(), only) == {}


def test_the_summary_is_written(tmp_path: Path) -> None:
    write_table(sweep(), TRIALS, tmp_path / "trials.csv")
    with (tmp_path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == [t.state for t in TRIALS]
    assert rows[3]["error"] == "RuntimeError: out of memory\nmore"
    assert rows[0]["optimizer.lr"] == "0.0123456"
    names = {path.name for path in write_plots(sweep(), many(sweep()), tmp_path)}
    assert names == {f"{n}.{kind}" for n in ("slices", "parallel_coordinates")
                     for kind in ("png", "html")}  # fmt: skip
    page = (tmp_path / "slices.html").read_text()
    assert "optimizer.lr" in page
    # The pages need no network.
    assert 'src="plotly.min.js"' in page
    assert (tmp_path / "plotly.min.js").is_file()
    assert write_plots(sweep(), TRIALS[3:], tmp_path) == []


def test_texts_of_any_kind_are_shown_as_they_are_in_tables_lines_and_pictures(
    tmp_path: Path,
) -> None:
    texts = ["[bold]", "[/a]", r"$\foo$", "<b>x</b>", ":warning:", "\x1b[31mred"]
    values = [*texts, ["a", "[b]"], None, True, 0.1234567]
    content = {
        "program": "train.py", "method": "random", "metric": {"name": "val/loss"},
        "parameters": {"name": {"values": values}},
    }  # fmt: skip
    space = Sweep(Path("x.yaml"), content)
    trials = [
        Trial(i, f"id{i}", {"name": value}, "finished", 0.5 + i, error="[/b]")
        for i, value in enumerate(values)
    ]
    seen = [*texts[:-1], r"\x1b[31mred", "[a,'[b]']", "null", "true", "0.12346"]
    rows = printed(trials_table(space, trials)).splitlines()
    assert [row.split(" s ")[1].strip() for row in rows[3:] if row.strip()] == seen
    assert line(space, trials[1]).endswith("name=[/a]")
    write_plots(space, trials, tmp_path)
    page = (tmp_path / "slices.html").read_text()
    assert "&lt;b&gt;x" in page
    assert "u003cb" not in page
