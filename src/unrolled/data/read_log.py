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

from unrolled.data.log import LogColumns
from unrolled.data.tables import columns as table_columns
from unrolled.data.tables import first_line, one_row, require_column, scan
from unrolled.errors import UserError

_TEMPORAL = ("TIMESTAMP", "DATE")


class Identifier(str):
    """A column's name, quoted for SQL when formatted."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return '"' + str(self).replace('"', '""') + '"'


def feature(name: str) -> Identifier:
    """The column of the feature `name` in the table `events`, apart from the table's own."""
    return Identifier(f"feature {name}")


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
        account = _cut_sequences(connection, columns, where, {} if labels else wanted)
        if labels is not None:
            _join_labels(connection, columns, labels, labels_where, wanted)
    except duckdb.Error as error:
        raise UserError(f"{where}: {first_line(error)}") from error
    if labelled:
        _check_labels(connection, columns, labels_where)
    _split(connection, columns, labels_where, split)
    if split and labelled:
        _check_classes(connection, columns, labels_where)
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
        [columns.sequence, *((*kinds, *columns.categorical) if training else ())]
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
    select += [f"{Identifier(name)}::VARCHAR AS {feature(name)}" for name in columns.categorical]
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


def _cut_sequences(
    connection: duckdb.DuckDBPyConnection,
    columns: LogColumns,
    where: Path,
    wanted: dict[str, str],
) -> dict[str, Any]:
    """Number the events, cut before the target, apply the lengths."""
    total, without_id, sequences = one_row(
        connection,
        "SELECT count(*), count(*) FILTER (WHERE sequence_id IS NULL), "
        "count(DISTINCT sequence_id) FROM read_events",
    )
    target = "NULL::BIGINT"
    if columns.target_event is not None:
        target = "min(CASE WHEN event_type = $target THEN position END) OVER per_sequence"
    # Of the whole sequence, also where only its last events are kept.
    start = "min(event_time)" if columns.time is not None else "min(source_row)"
    connection.execute(
        f"""
        CREATE TABLE numbered AS
        SELECT *, {target} AS first_target, {start} OVER per_sequence AS start,
               min(source_row) OVER per_sequence AS first_row FROM (
            SELECT *, row_number() OVER (PARTITION BY sequence_id
                                         ORDER BY event_order, source_row) AS position
            FROM read_events WHERE sequence_id IS NOT NULL)
        WINDOW per_sequence AS (PARTITION BY sequence_id)
        """,
        {"target": columns.target_event} if columns.target_event is not None else {},
    )
    gap = ""
    if columns.gap:
        gap = f""", ln(1 + coalesce(event_time - lag(event_time)
                  OVER (PARTITION BY sequence_id ORDER BY position), 0)) AS {feature("gap")}"""
        backwards = one_row(
            connection,
            """
            SELECT count(*), any_value(sequence_id::VARCHAR) FROM (
                SELECT sequence_id, event_time - lag(event_time) OVER
                    (PARTITION BY sequence_id ORDER BY position) AS step FROM numbered)
            WHERE step < 0
            """,
        )
        if backwards[0]:
            raise UserError(
                f"{where}: ordered by '{columns.order}', the time '{columns.time}' goes back "
                f"{backwards[0]:,} times, for example in sequence {backwards[1]}; "
                "set data.source.order to the time column"
            )
    kept = "first_target IS NULL OR position < first_target"
    longest = columns.max_length
    last_events = f"QUALIFY position > max(position) OVER per_sequence - {longest}"
    connection.execute(
        f"""
        CREATE TABLE events AS
        SELECT * EXCLUDE (event_order) {gap} FROM numbered
        WHERE {kept}
        WINDOW per_sequence AS (PARTITION BY sequence_id)
        {last_events if longest is not None else ""}
        """
    )
    label = "(max(first_target) IS NOT NULL)::INTEGER" if columns.target_event else "NULL::INTEGER"
    carried = "".join(
        f", min({key}_value) AS {key}_value, max({key}_value) AS {key}_value_max" for key in wanted
    )
    connection.execute(
        f"""
        CREATE TABLE sequences AS
        SELECT sequence_id, count(*) AS length, min(start) AS start, min(first_row) AS first_row,
               {label} AS label {carried}
        FROM events GROUP BY sequence_id HAVING count(*) >= {columns.min_length}
        """
    )
    left = one_row(connection, "SELECT count(*) FROM sequences")[0]
    if left == 0:
        raise UserError(
            f"{where}: no sequence is left of {sequences:,} after min_length={columns.min_length}"
            + (f" and the cut before '{columns.target_event}'" if columns.target_event else "")
        )
    return {
        "events": total,
        "sequences": sequences,
        "dropped": {
            f"events without {columns.sequence} dropped": without_id,
            "sequences without enough events dropped": sequences - left,
        },
    }


def _join_labels(
    connection: duckdb.DuckDBPyConnection,
    columns: LogColumns,
    labels: str,
    where: Path,
    wanted: dict[str, str],
) -> None:
    values = "".join(
        f", l.{Identifier(column)} AS {name}_value, l.{Identifier(column)} AS {name}_value_max"
        for name, column in wanted.items()
    )
    key = Identifier(columns.sequence)
    doubled = one_row(
        connection,
        f"SELECT count(*), any_value({key}::VARCHAR) FROM "
        f"(SELECT {key} FROM {labels} WHERE {key} IS NOT NULL GROUP BY 1 HAVING count(*) > 1)",
    )
    if doubled[0]:
        raise UserError(
            f"{where}: {doubled[0]:,} values of '{columns.sequence}' stand in more than one row, "
            f"for example {doubled[1]}"
        )
    missing = one_row(
        connection,
        f"SELECT count(*), any_value(sequence_id::VARCHAR) FROM sequences "
        f"WHERE sequence_id::VARCHAR NOT IN "
        f"(SELECT {key}::VARCHAR FROM {labels} WHERE {key} IS NOT NULL)",
    )
    if missing[0]:
        raise UserError(
            f"{where}: {missing[0]:,} sequences of the log have no row here, "
            f"for example {columns.sequence} {missing[1]}"
        )
    connection.execute(
        f"""
        CREATE OR REPLACE TABLE sequences AS
        SELECT s.* {values}
        FROM sequences AS s JOIN {labels} AS l ON l.{key}::VARCHAR = s.sequence_id::VARCHAR
        """
    )


def _check_labels(connection: duckdb.DuckDBPyConnection, columns: LogColumns, where: Path) -> None:
    if columns.label is None:
        return
    _check_words(
        connection, columns, where, "label", columns.label, ("0", "1"),
        ("0", "1", "0.0", "1.0", "true", "false"),
    )  # fmt: skip
    connection.execute(
        "UPDATE sequences SET label = (lower(label_value::VARCHAR) IN ('1', 'true', '1.0'))::INTEGER"
    )


def _check_words(
    connection: duckdb.DuckDBPyConnection,
    columns: LogColumns,
    where: Path,
    key: str,
    column: str,
    words: tuple[str, ...],
    spellings: tuple[str, ...],
) -> None:
    value, other = f"{key}_value::VARCHAR", f"{key}_value_max::VARCHAR"
    allowed = ", ".join(f"'{word}'" for word in spellings)
    odd = connection.execute(
        f"""
        SELECT sequence_id::VARCHAR, {value}, {other}, count(*) OVER () FROM sequences
        WHERE {value} IS NULL OR lower({value}) NOT IN ({allowed})
           OR {value} IS DISTINCT FROM {other}
        ORDER BY first_row LIMIT 1
        """
    ).fetchall()
    if not odd:
        return
    sequence, low, high, count = odd[0]
    shown = "no value" if low is None else repr(low) if low == high else f"{low!r} and {high!r}"
    raise UserError(
        f"{where}: column '{column}' must be {', '.join(words[:-1])} or {words[-1]}, one value a "
        f"sequence; {count:,} sequences are not so, for example {columns.sequence} {sequence} "
        f"with {shown}"
    )


def _split(
    connection: duckdb.DuckDBPyConnection, columns: LogColumns, where: Path, split: bool
) -> None:
    if not split:
        connection.execute("ALTER TABLE sequences ADD COLUMN split VARCHAR DEFAULT 'test'")
        order = "first_row"
    elif columns.split is not None:
        words = ("train", "val", "test")
        _check_words(connection, columns, where, "split", columns.split, words, words)
        connection.execute("ALTER TABLE sequences ADD COLUMN split VARCHAR")
        connection.execute("UPDATE sequences SET split = lower(split_value::VARCHAR)")
        order = "first_row"
    else:
        val_from = 1 - columns.val_fraction - columns.test_fraction
        connection.execute(
            f"""
            CREATE OR REPLACE TABLE sequences AS
            SELECT *, CASE WHEN place < {val_from} THEN 'train'
                           WHEN place < {1 - columns.test_fraction} THEN 'val'
                           ELSE 'test' END AS split
            FROM (SELECT *, (row_number() OVER (ORDER BY start, first_row) - 0.5)
                            / count(*) OVER () AS place FROM sequences)
            """
        )
        order = "start, first_row"
    connection.execute(
        f"""
        CREATE OR REPLACE TABLE sequences AS
        SELECT sequence_id, label, split, length,
               row_number() OVER (ORDER BY {order}) AS rank FROM sequences
        """
    )


def _check_classes(connection: duckdb.DuckDBPyConnection, columns: LogColumns, where: Path) -> None:
    counts = {
        name: (total, positive)
        for name, total, positive in connection.execute(
            "SELECT split, count(*), sum(label)::BIGINT FROM sequences GROUP BY 1"
        ).fetchall()
    }
    label = f"column '{columns.label}'" if columns.label else f"event '{columns.target_event}'"
    problems = []
    for name in ("train", "val", "test"):
        total, positive = counts.get(name, (0, 0))
        if total == 0:
            problems.append(f"{where}: the split '{name}' has no sequence")
        elif positive in (0, total):
            problems.append(
                f"{where}: the split '{name}' has one class only: all of its {total:,} sequences "
                f"have label {positive // total} ({label}); there is nothing to learn or to judge"
            )
    if problems:
        raise UserError(*problems)
