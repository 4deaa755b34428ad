"""Reading an event log into DuckDB, and everything that can be wrong with one.

Leaves two tables in the connection:

    events      sequence_id, position (1, 2, ...), and the features, each under its name `feature`;
                categories as text, numbers already under their log
    sequences   sequence_id, rank (order of the sequences), label, split, length
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from unrolled.data.cut_log import cut_sequences
from unrolled.data.label_log import check_classes, check_labels, join_labels, split_sequences
from unrolled.data.log import LogColumns
from unrolled.data.sql import Identifier, feature
from unrolled.data.tables import columns as table_columns
from unrolled.data.tables import first_line, one_row, require_column, scan
from unrolled.errors import UserError

_TEMPORAL = ("TIMESTAMP", "DATE")


def load_events(
    connection: duckdb.DuckDBPyConnection,
    columns: LogColumns,
    tables: dict[str, Path | pa.Table | None],
    *,
    labelled: bool,
    split: bool = True,
) -> dict[str, Any]:
    """Read, check, cut and split.

    Args:
        connection: Where the tables `events` and `sequences` are made.
        columns: What the columns mean.
        tables: `events` and `labels`.
        labelled: Whether every sequence needs a label.
        split: Whether every sequence needs a split; else all are `test`, in order of appearance.

    Returns:
        The account: events and sequences read, and what was dropped and why.

    Raises:
        UserError: For data that do not fit the description.
    """
    events, where = _relation(connection, "events", tables["events"])
    known = table_columns(connection, events, where)
    wanted = {}
    if labelled and columns.label is not None:
        wanted["label"] = columns.label
    if split and columns.split is not None:
        wanted["split"] = columns.split
    labels, labels_where = None, where
    if tables.get("labels") is not None and wanted:
        labels, labels_where = _relation(connection, "labels", tables["labels"])
    _check_columns(connection, columns, known, where, labels, labels_where, wanted)
    try:
        _read_events(connection, columns, events, known, where, {} if labels else wanted, split)
        account = cut_sequences(connection, columns, where, {} if labels else wanted)
        if labels is not None:
            join_labels(connection, columns, labels, labels_where, wanted)
    except duckdb.Error as error:
        raise UserError(f"{where}: {first_line(error)}") from error
    if labelled:
        check_labels(connection, columns, labels_where)
    split_sequences(connection, columns, labels_where, split)
    if split and labelled:
        check_classes(connection, columns, labels_where)
    return account


def _relation(
    connection: duckdb.DuckDBPyConnection, name: str, table: Path | pa.Table | None
) -> tuple[str, Path]:
    if isinstance(table, pa.Table):
        connection.register(f"given_{name}", table)
        return f"given_{name}", Path(f"<generated {name}>")
    assert table is not None
    return scan(table), table


def _check_columns(
    connection: duckdb.DuckDBPyConnection,
    columns: LogColumns,
    known: dict[str, str],
    where: Path,
    labels: str | None,
    labels_where: Path,
    wanted: dict[str, str],
) -> None:
    of_event = {
        "data.source.sequence": columns.sequence,
        "data.source.order": columns.order,
        "data.source.time": columns.time,
        "data.source.event_type": columns.event_type if columns.target_event else None,
    }
    pairs = [(key, name) for key, name in of_event.items() if name is not None]
    if columns.item is not None:
        pairs.append(("data.source.item", columns.item))
    pairs += [("data.source.categorical", name) for name in columns.categorical]
    pairs += [("data.source.numeric", name) for name in columns.numeric]
    per_sequence = [(f"data.source.{key}", name) for key, name in wanted.items()]
    problems = _missing(pairs if labels else pairs + per_sequence, known, where)
    if labels is not None:
        label_columns = table_columns(connection, labels, labels_where)
        per_sequence.append(("data.source.sequence", columns.sequence))
        problems += _missing(per_sequence, label_columns, labels_where)
    if problems:
        raise UserError(*problems)


def _missing(pairs: list[tuple[str, str]], known: dict[str, str], where: Path) -> list[str]:
    problems = []
    for key, name in pairs:
        try:
            require_column(name, known, where, key)
        except UserError as error:
            problems.append(str(error))
    return problems


def _read_events(
    connection: duckdb.DuckDBPyConnection,
    columns: LogColumns,
    events: str,
    known: dict[str, str],
    where: Path,
    wanted: dict[str, str],
    training: bool,
) -> None:
    if one_row(connection, f"SELECT NOT EXISTS (FROM {events})")[0]:
        raise UserError(f"{where}: the file has no rows")
    kinds = [columns.event_type] if columns.event_type and columns.target_event else []
    # New events may lack a value in all of their rows; what is trained on may not.
    for name in dict.fromkeys(
        [columns.sequence, *((*kinds, *columns.categories) if training else ())]
    ):
        _check_has_value(connection, events, where, name)
    select = [
        f"{Identifier(columns.sequence)} AS sequence_id",
        f"{_order(connection, columns, events, known)} AS event_order",
        "row_number() OVER () AS source_row",
    ]
    if columns.time is not None:
        seconds = _seconds(columns.time, known)
        _check_has_value(connection, events, where, columns.time)
        _check_convertible(connection, events, where, columns.time, seconds, "a time")
        select.append(f"{seconds} AS event_time")
    select += [f"{Identifier(name)}::VARCHAR AS event_type" for name in kinds]
    # As text: the same category in whatever type a file holds it.
    select += [f"{Identifier(name)}::VARCHAR AS {feature(name)}" for name in columns.categories]
    for name, transform in columns.numeric.items():
        number = f"TRY_CAST({Identifier(name)} AS DOUBLE)"
        finite = f"CASE WHEN isfinite({number}) THEN {number} END"
        if training:
            _check_has_value(connection, events, where, name)
        _check_convertible(connection, events, where, name, finite, "a finite number")
        if transform == "log":
            _check_not_negative(connection, events, where, name)
            finite = f"ln(1 + {finite})"
        select.append(f"{finite} AS {feature(name)}")
    select += [f"{Identifier(column)} AS {key}_value" for key, column in wanted.items()]
    connection.execute(f"CREATE TABLE read_events AS SELECT {', '.join(select)} FROM {events}")
    _check_filled(connection, where, columns.order, "event_order", "the events can't be ordered")
    if columns.time is not None:
        _check_filled(connection, where, columns.time, "event_time", "every event needs its time")


def _order(
    connection: duckdb.DuckDBPyConnection, columns: LogColumns, events: str, known: dict[str, str]
) -> str:
    """What the events are ordered by; text that holds numbers or times is ordered as such."""
    name = Identifier(columns.order)
    if known[columns.order] != "VARCHAR":
        return f"{name}"
    for kind in ("BIGINT", "DOUBLE", "TIMESTAMPTZ"):
        cast = f"TRY_CAST({name} AS {kind})"
        # 1.5 as BIGINT is 2: a number with a fraction is none.
        exact = f"AND NOT contains({name}, '.')" if kind == "BIGINT" else ""
        if one_row(
            connection, f"SELECT count({name}) = count(*) FILTER ({cast} IS NOT NULL {exact}) "
            f"FROM {events}"
        )[0]:  # fmt: skip
            return cast
    return f"{name}"


def _seconds(name: str, known: dict[str, str]) -> str:
    kind = known[name]
    column = f"{Identifier(name)}"
    if kind.startswith(_TEMPORAL):
        return f"epoch({column})"
    number = f"TRY_CAST({column} AS DOUBLE)"
    finite = f"CASE WHEN isfinite({number}) THEN {number} END"
    if kind == "VARCHAR":
        # Text may carry a zone ('... UTC'); a plain time is UTC, the connection's own zone.
        return f"coalesce({finite}, epoch(TRY_CAST({column} AS TIMESTAMPTZ)))"
    return finite


def _check_filled(
    connection: duckdb.DuckDBPyConnection, where: Path, name: str, column: str, why: str
) -> None:
    missing, first = one_row(
        connection, f"SELECT count(*), min(source_row) FROM read_events WHERE {column} IS NULL"
    )
    if missing:
        raise UserError(
            f"{where}: column '{name}' is empty in {missing:,} rows, first in row {first:,}; {why}"
        )


def _check_has_value(
    connection: duckdb.DuckDBPyConnection, events: str, where: Path, name: str
) -> None:
    if one_row(connection, f"SELECT count({Identifier(name)}) FROM {events}")[0] == 0:
        raise UserError(f"{where}: column '{name}' has no value in any row")


def _check_convertible(
    connection: duckdb.DuckDBPyConnection,
    events: str,
    where: Path,
    name: str,
    converted: str,
    what: str,
) -> None:
    count, example = one_row(
        connection,
        f"""
        SELECT count(*) FILTER (WHERE {converted} IS NULL AND {Identifier(name)} IS NOT NULL),
               any_value({Identifier(name)}::VARCHAR)
                   FILTER (WHERE {converted} IS NULL AND {Identifier(name)} IS NOT NULL)
        FROM {events}
        """,
    )
    if count:
        raise UserError(
            f"{where}: column '{name}' is not {what} in {count:,} rows, for example {example!r}"
        )


def _check_not_negative(
    connection: duckdb.DuckDBPyConnection, events: str, where: Path, name: str
) -> None:
    count, smallest = one_row(
        connection,
        f"SELECT count(*), min(x) FROM (SELECT TRY_CAST({Identifier(name)} AS DOUBLE) AS x "
        f"FROM {events}) WHERE x < 0",
    )
    if count:
        raise UserError(
            f"{where}: column '{name}' is negative in {count:,} rows (smallest {smallest:g}); "
            "the transform 'log' needs values >= 0; use 'standard'"
        )
