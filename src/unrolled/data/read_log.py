"""A log in an engine: opened, checked, its values coded, its events delivered in canonical order.

Everything after that is done to the ordered stream, in numpy, so that each engine gives the same
store to the byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unrolled.data.check_log import (
    check_label_table,
    checks,
    look,
    look_at_moment,
    moment_checks,
)
from unrolled.data.check_time import date_checks
from unrolled.data.engines import Engine, EngineName, start_engine
from unrolled.data.log import LogColumns, Table
from unrolled.data.sql import (
    Clock,
    Column,
    Given,
    distinct_query,
    ordered_query,
    other_types_query,
    value_query,
)
from unrolled.data.tables import require_column
from unrolled.data.words import ValueType, value_type, words_of
from unrolled.errors import UserError


class OpenedLog:
    """A log that has passed its checks.

    Args:
        engine: Where it stands in the view `given`.
        columns: The meaning of the columns.
        given: What stands in the views.
        clock: How time and order are read.
        words: The values of each column that became codes, `category_<i>`, `type`, `label` and
            `split`, in the order of their codes, as text.
        types: The type of the values of each of these columns.
        rows: Number of events read, those without an id among them.
        without_id: Number of events without an id.
        other_types: Number of events that `keep_types` leaves out.
        where: Name of the log in messages.
        labels_where: What they call the table of the labels.
    """

    def __init__(
        self,
        engine: Engine,
        columns: LogColumns,
        given: Given,
        clock: Clock,
        rows: int,
        without_id: int,
        where: str,
        labels_where: str,
    ) -> None:
        self.engine, self.columns, self.given, self.clock = engine, columns, given, clock
        self.rows, self.without_id = rows, without_id
        self.where, self.labels_where = where, labels_where
        self.words: dict[str, pa.Array] = {}
        self.types: dict[str, ValueType] = {}
        self.other_types = 0

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The events in canonical order; see `sql.ordered_query` for the columns."""
        return self.engine.batches(ordered_query(self.columns, self.given, self.clock))


@contextmanager
def open_log(
    columns: LogColumns,
    tables: Mapping[str, Table | None],
    folder: Path,
    *,
    memory_limit: str,
    threads: int,
    labelled: bool,
    split: bool,
    unit: str | None = None,
    asked_unit: str | None = None,
    engine: EngineName = "duckdb",
) -> Iterator[OpenedLog]:
    """Read and check a log.

    Args:
        columns: The meaning of the columns.
        tables: `events` and `labels`.
        folder: Where the engine puts what does not fit into memory.
        memory_limit: Of the engine, for example `2GB`.
        threads: Of DuckDB; the stream is the same with any number.
        labelled: Whether every sequence needs a label.
        split: Whether the sequences are to be split and trained on.
        unit: How times were written in the log that was trained on, as `Clock.spelling`.
        asked_unit: How its moments of asking were written.
        engine: What reads the log; the stream is the same with either.

    Raises:
        UserError: For data that do not fit the description.
    """
    where = _name(tables["events"])
    if engine == "spark" and columns.time_zone != "UTC":
        raise UserError(
            "data.engine=spark reads times in UTC; write them so, or use data.engine=duckdb for "
            f"data.source.time_zone={columns.time_zone}"
        )
    with start_engine(engine, folder, memory_limit, threads, where) as started:
        wanted = {
            role: name
            for role, name, needed in (
                ("label", columns.label, labelled),
                ("split", columns.split, split),
            )
            if name is not None and needed
        }
        log = _open(started, columns, tables, wanted, split, unit, asked_unit)
        _code(log, wanted)
        yield log


def _name(table: Table | None) -> str:
    return (
        "<generated events>" if isinstance(table, pa.Table | pa.RecordBatchReader) else str(table)
    )


def _open(
    engine: Engine,
    columns: LogColumns,
    tables: Mapping[str, Table | None],
    wanted: dict[str, str],
    training: bool,
    unit: str | None,
    asked_unit: str | None,
) -> OpenedLog:
    events = tables["events"]
    assert events is not None
    known, where = engine.open("events", events)
    labels = tables.get("labels") if wanted or columns.asked_at is not None else None
    labels_where, known_labels = where, None
    if labels is not None:
        known_labels, labels_where = engine.open("labels", labels)
    moment = [] if columns.asked_at is None else [columns.asked_at]
    in_log = ([*wanted.values()], moment) if labels is None else ([], [])
    _require(columns, known, where, known_labels, labels_where, wanted)
    given = Given(engine.store("events", _used(columns, *in_log)))
    if known_labels is not None:
        stored = engine.store(
            "labels",
            dict.fromkeys(wanted.values(), False) | dict.fromkeys([columns.key, *moment], True),
        )
        given = Given(given.columns, stored)
        check_label_table(stored[columns.key], engine.row, labels_where)
    counts = _ask(engine, checks(columns, given), "given")
    if columns.time is not None:
        dates = date_checks(given.columns[columns.time], columns, counts, unit)
        counts |= _ask(engine, dates, "given")

    def example(column: Column, row: int) -> str:
        return str(engine.row(value_query(column, row))[0])

    clock = look(columns, given, counts, where, example, training=training, unit=unit)
    if columns.asked_at is not None:
        asked_clock = _asked_clock(engine, columns, given, labels_where, asked_unit)
        clock = replace(clock, asked=asked_clock)
    without_id = counts["rows"] - counts[f"filled {columns.key}"]
    log = OpenedLog(engine, columns, given, clock, counts["rows"], without_id, where, labels_where)
    if columns.keep_types:
        log.other_types = engine.row(other_types_query(columns, given))[0]
        if log.other_types == counts[f"filled {columns.key}"]:
            raise UserError(
                f"{where}: column '{columns.event_type}' has none of data.source.keep_types, "
                f"{', '.join(map(str, columns.keep_types))}"
            )
    return log


def _asked_clock(
    engine: Engine, columns: LogColumns, given: Given, where: str, unit: str | None
) -> Clock:
    """How the moments of asking are read, from the table in which they stand."""
    assert columns.asked_at is not None
    view, known = ("given", given.columns) if given.labels is None else (
        "given_labels", given.labels
    )  # fmt: skip
    column = known[columns.asked_at]
    counts = _ask(engine, moment_checks(columns, column), view)
    counts |= _ask(engine, date_checks(column, columns, counts, unit), view)

    def example(column: Column, row: int) -> str:
        return str(engine.row(value_query(column, row, view))[0])

    return look_at_moment(columns, column, counts, where, example, unit)


def _ask(engine: Engine, asked: Mapping[str, str], view: str) -> dict[str, Any]:
    """The values of aggregates over a view, by name."""
    if not asked:
        return {}
    values = engine.row(f"SELECT {', '.join(asked.values())} FROM {view}")
    return dict(zip(asked, values, strict=True))


def _used(columns: LogColumns, of_sequence: list[str], moment: list[str]) -> dict[str, bool]:
    """The columns to read, the key first; and whether the texts for no value are none there."""
    measured = (columns.key, columns.time, columns.own_order, *columns.numeric, *moment)
    words = (columns.used_type, *columns.categories, *of_sequence)
    used = dict.fromkeys((name for name in measured if name is not None), True)
    return used | dict.fromkeys((n for n in words if n is not None and n not in used), False)


_NEEDS_MOMENT = (
    "it says when the label is asked, one value a sequence: in the label table if there is one, "
    "else in the log, and in any new events that are to be predicted"
)


def _require(
    columns: LogColumns,
    known: dict[str, str],
    where: str,
    known_labels: dict[str, str] | None,
    labels_where: str,
    wanted: dict[str, str],
) -> None:
    """Refuse files that lack columns, all of them at once."""
    pairs = [
        (columns.key_option, columns.key),
        ("order", columns.order),
        ("time", columns.time),
        ("event_type", columns.used_type),
        ("item", columns.item),
        *(("categorical", name) for name in columns.categorical),
        *(("numeric", name) for name in columns.numeric),
    ]
    asked = [(known, where, key, name) for key, name in pairs]
    of_sequence = [*wanted.items()]
    if columns.asked_at is not None:
        of_sequence.append(("asked_at", columns.asked_at))
    if known_labels is None:
        asked += [(known, where, key, name) for key, name in of_sequence]
    else:
        of_sequence.append(("sequence", columns.key))
        asked += [(known_labels, labels_where, key, name) for key, name in of_sequence]
    problems = []
    for table, file, key, name in asked:
        try:
            if name is not None:
                require_column(name, table, Path(file), f"data.source.{key}")
        except UserError as error:
            then = f"; {_NEEDS_MOMENT}" if key == "asked_at" else ""
            problems.append(f"{error}{then}")
    if problems:
        raise UserError(*problems)


def _code(log: OpenedLog, wanted: dict[str, str]) -> None:
    """Number the values of the columns that become codes, in the order of their text."""
    columns, given = log.columns, log.given
    coded = {f"category_{i}": ("given", given.columns[n]) for i, n in enumerate(columns.categories)}
    if columns.compared_type is not None:
        coded["type"] = ("given", given.columns[columns.compared_type])
    table, where = ("given", given.columns) if given.labels is None else (
        "given_labels", given.labels
    )  # fmt: skip
    coded |= {role: (table, where[name]) for role, name in wanted.items()}
    for name, (table, column) in coded.items():
        values = log.engine.values(distinct_query(table, column))
        log.types[name] = value_type(column.type)
        words = words_of(values, log.types[name])
        order = pc.sort_indices(words)
        codes = np.empty(len(words), np.int32)
        codes[order.to_numpy()] = np.arange(len(words), dtype=np.int32)
        log.words[name] = words.take(order)
        rows = pa.table({"value": values, "code": codes})
        log.engine.register(f"codes_{name.removeprefix('category_')}", rows)
