"""How far a preparation is, and what it has done: for the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import rich.progress

from unrolled.data.files import LogFiles
from unrolled.data.log import EventLog, LogColumns, Table
from unrolled.data.times import as_date
from unrolled.terminal import Terminal, say


class Progress:
    """A bar for the stages of a preparation, on a terminal; nothing elsewhere."""

    def __init__(self) -> None:
        self._bar: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            self._bar = rich.progress.Progress(
                rich.progress.TextColumn("{task.description:9}", markup=False),
                rich.progress.BarColumn(),
                rich.progress.TaskProgressColumn(),
                rich.progress.TimeElapsedColumn(),
                console=Terminal(stderr=True),
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def stage(self, name: str, events: int | None = None) -> None:
        """Begin a stage, of so many events where that is known."""
        if self._bar is None:
            return
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(name, total=events)

    def advance(self, events: int) -> None:
        """So many events more are done."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, events)


def report(path: Path, meta: dict[str, Any], seconds: float | None = None) -> None:
    """Tell what was read, what was left out and why, and what there is now.

    Args:
        path: The store.
        meta: Its `store.json`.
        seconds: How long it took to make; None for one that was there.
    """
    read = meta["read"]
    what = f"Found {path}" if seconds is None else f"Prepared {path} in {seconds:.1f} s"
    lines = [f"{what}: {read['events']:,} events in {read['sequences']:,} sequences read"]
    lines += _told_of_events(read, meta["description"])
    lines += [
        f"  left out: {number:,} {what}" for what, number in read["dropped"].items() if number
    ]
    described, spelled = meta["description"], meta["time_unit"]
    if spelled is not None and "%" in spelled and described["time_unit"] == "auto":
        lines.append(
            f"  time: the digits of {described['time']} are read as dates in the format {spelled} "
            "(data.source.time_unit says otherwise)"
        )
    if read["copies"] and meta["description"]["duplicates"] == "keep":
        lines.append(
            f"  kept: {read['copies']:,} exact copies of an event (data.source.duplicates=drop "
            "leaves them out)"
        )
    for column, new in meta["unknown"].items():
        if new["values"]:
            lines.append(
                f"  unknown: {new['values']:,} values of {column} that training has not, in "
                f"{new['events']:,} events of val and test"
            )
        if new["empty"]:
            lines.append(f"  empty: {new['empty']:,} events without a value of {column}")
    # A store of an earlier version does not say.
    for column, events in meta.get("missing", {}).items():
        if events:
            fill = "median" if "quantiles" in meta["statistics"][column] else "mean"
            lines.append(
                f"  missing: {events:,} training events without a value of {column}, which count "
                f"as the {fill}"
            )
    for split, count in meta["counts"].items():
        line = f"  {split:5} {count['sequences']:>9,} sequences {count['events']:>11,} events"
        if meta["schema"]["num_classes"] is not None:
            line += f", {count['positive'] / max(count['sequences'], 1):.2%} positive"
        lines.append(line)
    lines += [f"  warning: {warning}" for warning in meta["warnings"]]
    say("\n".join(lines), stderr=True)


def _told_of_events(read: dict[str, Any], description: dict[str, Any]) -> list[str]:
    """From when to when they are and whose: shows wrong times, merged visitors and bots."""
    lines = []
    if read["times"] is not None:
        first, last = (as_date(seconds) for seconds in read["times"])
        lines.append(f"  times: {first} to {last} UTC")
    longest, largest = read["longest"], read["largest"]
    share = f"{largest['events'] / read['with_id']:.2%} of all"
    if description["session_gap"] is None:
        key = description["sequence"] or description["user"]
        lines.append(f"  longest: {key} {longest['id']!r}, {longest['events']:,} events, {share}")
    else:
        lines.append(
            f"  longest: session {longest['id']!r}, {longest['events']:,} events; most events: "
            f"{description['user']} {largest['id']!r}, {largest['events']:,}, {share}"
        )
    return lines


_EXAMPLES = 3
_MOSTLY = 0.5
"""Above this share of unknown values a column is of no use to a model."""


def tell_unknown(
    where: str,
    column: str,
    words: pa.Array,
    counts: npt.NDArray[np.int64],
    unknown: npt.NDArray[np.bool_],
    known: pa.Array,
    meta: dict[str, Any],
) -> None:
    """Tell how many values of new events the vocabulary of a run has not, where some are so.

    Args:
        where: Name of the log in messages.
        column: The categorical column.
        words: The text of each of its codes, in order.
        counts: `[code + 1]`: the number of events that have it, and at last of those without.
        unknown: `[code + 1]`: whether the vocabulary lacks it.
        known: The vocabulary, its most frequent words first.
        meta: What `store.json` says of the log that was trained on.
    """
    total, new = int(counts[:-1].sum()), int(counts[:-1][unknown[:-1]].sum())
    if not new:
        return
    most = np.argsort(-np.where(unknown, counts, 0)[:-1], kind="stable")[:_EXAMPLES]
    examples = [words[int(code)].as_py() for code in most if unknown[code] and counts[code]]
    line = (
        f"{where}: {new:,} of {total:,} values of '{column}' ({new / total:.1%}) are unknown, "
        f"training has none like {_listed(examples)}"
    )
    held_out = sum(meta["counts"][split]["events"] for split in ("val", "test"))
    usual = meta["unknown"][column]["events"] / max(held_out, 1)
    if new / total > max(_MOSTLY, 2 * usual):
        line += (
            f"; its most frequent values are {_listed(known[:_EXAMPLES].to_pylist())}. "
            "Predictions can't use this column: is it another one, or written in another way?"
        )
    say(line, stderr=True)


def tell_missing(where: str, column: str, missing: int, events: int, usual: float) -> None:
    """Tell of a column that most of the new events lack, where training had it.

    Args:
        where: Name of the log in messages.
        column: The categorical or numeric column.
        missing: Number of events without a value of it.
        events: Number of all events.
        usual: Share of events without a value in the log that was trained on.
    """
    if missing > max(_MOSTLY, 2 * usual) * events:
        say(
            f"{where}: {missing:,} of {events:,} events ({missing / events:.1%}) have no value of "
            f"'{column}', and {usual:.1%} in training: predictions can't use this column",
            stderr=True,
        )


def tell_without_id(where: str, column: str, without: int, events: int) -> None:
    """Tell how many of the new events belong to no sequence, where some do not."""
    if without:
        say(
            f"{where}: {without:,} of {events:,} events are left out: they have no value in column "
            f"'{column}'",
            stderr=True,
        )


def _listed(words: list[str]) -> str:
    return ", ".join(map(repr, words))


def tell_left_out(where: str, columns: LogColumns, read: int, kept: int) -> None:
    """Tell how many sequences of new events are left out, where some are.

    Args:
        where: Name of the log in messages.
        columns: What its columns mean.
        read: Number of sequences read.
        kept: Number of those that are encoded.
    """
    if kept == read:
        return
    before = f" before the first '{columns.target_event}'" if columns.target_event else ""
    before += f" before the moment of asking, '{columns.asked_at}'" if columns.asked_at else ""
    say(
        f"{where}: {read - kept:,} of {read:,} sequences are left out: they have fewer than "
        f"{columns.min_length} events{before}",
        stderr=True,
    )


def tell_of_query(log: EventLog, events: Table | None) -> None:
    """Tell that new files stand for the result of a query that can't be applied to them.

    Args:
        log: The log that was trained on.
        events: The events that are read instead of it.
    """
    if log.query is not None and isinstance(events, LogFiles):
        say(
            f"{events}: stands for the result of data.source.query, which names its files itself; "
            "its joins and filters are not applied. A query that reads FROM log, beside "
            "data.source.path, is applied to new files",
            stderr=True,
        )
