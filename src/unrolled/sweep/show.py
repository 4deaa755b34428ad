"""What the terminal shows of a sweep: while it runs, when it is over, and by --status."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group as Stacked
from rich.table import Table

from unrolled.sweep.history import Histories
from unrolled.sweep.record import State, Trial
from unrolled.sweep.repeats import Group, groups, has_repeats
from unrolled.sweep.space import Sweep
from unrolled.sweep.typed import as_typed

MOST_ROWS = 40
MOST_LIVE = 5
"""Rows of the best trials while the sweep runs."""
LONGEST_ERROR = 160
"""Characters of an error; the rest is in the trial's status.json."""

RANK: tuple[State, ...] = ("finished", "pruned", "running", "waiting", "failed")
"""Of the states, in tables."""
OPEN: tuple[State, ...] = ("running", "waiting")
"""The states of trials that are not over; on those that wait nobody works."""


def headline(sweep: Sweep, trials: list[Trial], wanted: int, *, is_over: bool = False) -> str:
    """How many trials there are of each kind, the best so far, and the time that is left.

    Args:
        sweep: The sweep.
        trials: All of them.
        wanted: How many there are to be.
        is_over: Whether no further one comes, though there may be fewer than that.
    """
    count = Counter(trial.state for trial in trials)
    over = sum(trial.state not in OPEN for trial in trials)
    parts = [
        f"{over} of {wanted} trials",
        *(f"{count[s]} {s}" for s in ("finished", "pruned", "failed", *OPEN) if count[s]),
    ]
    parts += best_so_far(sweep, trials)
    left = seconds_left(trials, wanted)
    if left is not None and over < wanted and not is_over:
        parts.append(f"about {duration(left)} left")
    return ", ".join(parts)


def best_so_far(sweep: Sweep, trials: list[Trial]) -> list[str]:
    """The best trial, or the best configuration where seeds or folds are searched; once or never.

    The trial is the one whose command is told at the end.
    """
    if has_repeats(sweep):
        return [
            f"best mean {sweep.metric.name} {number(group.mean)} of {len(group.trials)} "
            f"({group.trials[0].id})"
            for group in groups(sweep, trials)[:1]
        ]
    return [
        f"best {sweep.metric.name} {number(trial.value)} ({trial.id})"
        for trial in ordered(sweep, trials)[:1]
        if trial.state == "finished"
    ]


def seconds_left(trials: list[Trial], wanted: int) -> float | None:
    """A guess from the trials that are over; None before the first."""
    over = [trial.seconds for trial in trials if trial.state not in OPEN]
    if not over:
        return None
    at_once = max(1, sum(trial.state == "running" for trial in trials))
    return statistics.median(over) * (wanted - len(over)) / at_once


def ordered(sweep: Sweep, trials: list[Trial]) -> list[Trial]:
    """The best finished trials first, then those that were stopped, then the others."""
    sign = 1 if sweep.metric.goal == "minimize" else -1

    def judged(trial: Trial) -> float:
        # Of those that were stopped none has a value where it is only measured at the end.
        return (trial.watched if trial.value is None else trial.value) or 0.0

    return sorted(trials, key=lambda t: (RANK.index(t.state), sign * judged(t), t.number))


def trials_table(sweep: Sweep, trials: list[Trial], histories: Histories | None = None) -> Table:
    """A row a trial."""
    searched = list(sweep.searched)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("trial", no_wrap=True)
    table.add_column("state", no_wrap=True)
    names = list(dict.fromkeys((sweep.metric.name, sweep.watched)))
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    for name in short_names(searched):
        table.add_column(name, overflow="fold")
    for trial in trials:
        watched = trial.watched
        if watched is None and histories is not None and (seen := histories.of(trial.id)):
            watched = seen[-1]
        value = trial.value
        if value is None and len(names) == 1:
            value = watched
        told = [number(value), number(watched)][: len(names)]
        cells = [shown(trial.values.get(key)) for key in searched]
        table.add_row(trial.id, trial.state, *told, duration(trial.seconds), *cells)
    return table


def short_names(keys: list[str]) -> list[str]:
    """The last part of each key, where no other key has the same."""
    last = [key.rpartition(".")[2] for key in keys]
    return [name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)]


def errors(trials: list[Trial]) -> list[str]:
    """A line for each failed trial, with the first of its error's lines."""
    return [
        f"{trial.id} failed: {(trial.error or '').partition(chr(10))[0][:LONGEST_ERROR]}"
        for trial in trials
        if trial.state == "failed"
    ]


def live(sweep: Sweep, trials: list[Trial], wanted: int, histories: Histories) -> Stacked:
    """What changes while the sweep runs: the running trials and the best ones."""
    running = [trial for trial in trials if trial.state == "running"]
    best = [t for t in ordered(sweep, trials) if t.state == "finished"][:MOST_LIVE]
    return Stacked(
        headline(sweep, trials, wanted), trials_table(sweep, [*running, *best], histories)
    )


def line(sweep: Sweep, trial: Trial) -> str:
    """A trial that has changed its state, in one line, where there is no terminal."""
    values = " ".join(f"{key}={shown(trial.values.get(key))}" for key in sweep.searched)
    told = {
        "finished": f"{sweep.metric.name} {number(trial.value)}",
        "pruned": f"{sweep.watched} {number(trial.watched)}",
        "failed": (trial.error or "").partition("\n")[0][:LONGEST_ERROR],
    }.get(trial.state, "")
    return f"{trial.id} {trial.state}{' ' if told else ''}{told}  {values}"


def groups_table(sweep: Sweep, found: list[Group]) -> Table:
    """A row a configuration: the mean over its seeds and folds, and how sure that is."""
    searched = [key for key in sweep.searched if found and key in found[0].values]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for header in (f"mean {sweep.metric.name}", "deviation", "95 % interval", "repeats"):
        table.add_column(header, justify="right")
    for name in short_names(searched):
        table.add_column(name, overflow="fold")
    for group in found[:MOST_ROWS]:
        half = group.interval
        interval = "-" if half is None else (
            f"{number(group.mean - half)} to {number(group.mean + half)}"
        )  # fmt: skip
        cells = [shown(group.values[key]) for key in searched]
        table.add_row(
            number(group.mean), number(group.deviation), interval,
            f"{len(group.trials)} of {group.wanted}", *cells,
        )  # fmt: skip
    if len(found) > MOST_ROWS:
        table.caption = f"... and {len(found) - MOST_ROWS} more"
    return table


def number(value: float | None) -> str:
    """Five digits."""
    return "-" if value is None else f"{value:.5g}"


def shown(value: Any) -> str:
    """A value of a parameter: a text as it is, a number with five digits, others as typed."""
    if isinstance(value, str):
        return value
    return number(value) if isinstance(value, float) else as_typed(value)


def duration(seconds: float) -> str:
    """12 s, 3 min, 1 h 5 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
