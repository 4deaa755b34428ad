"""A log in DuckDB: opened, checked, its values coded, its events delivered in canonical order.

This is what an engine has to do; everything after it is done to the ordered stream, in numpy, so
that another engine gives the same store to the byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unrolled.data.check_log import checks, look
from unrolled.data.log import LogColumns, Table
from unrolled.data.sql import (
    Clock,
    Column,
    Given,
    Kind,
    distinct_query,
    doubled_labels_query,
    ordered_query,
    other_types_query,
    quoted,
    value_query,
)
from unrolled.data.tables import columns as table_columns
from unrolled.data.tables import first_line, one_row, relation, require_column
from unrolled.data.words import as_text
from unrolled.errors import UserError

_BATCH = 1 << 18  # Events of a record batch of the stream.


class OpenedLog:
    """A log that has passed its checks.

    Args:
        connection: Where it stands in the view `given`.
        columns: What the columns mean.
        given: What stands in the views.
        clock: How time and order are read.
        words: The values of each column that became codes, `category_<i>`, `label` and `split`, in
            the order of their codes, as text.
        rows: Number of events read, those without an id among them.
        without_id: Number of events without an id.
        other_types: Number of events that `keep_types` leaves out.
        where: What messages call the log.
        labels_where: What they call the table of the labels.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        columns: LogColumns,
        given: Given,
        clock: Clock,
        rows: int,
        without_id: int,
        where: str,
        labels_where: str,
    ) -> None:
        self.connection, self.columns, self.given, self.clock = connection, columns, given, clock
        self.rows, self.without_id = rows, without_id
        self.where, self.labels_where = where, labels_where
        self.words: dict[str, pa.Array] = {}
        self.other_types = 0

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The events in canonical order; see `sql.ordered_query` for the columns."""
        query = ordered_query(self.columns, self.given, self.clock)
        yield from self.connection.sql(query).to_arrow_reader(_BATCH)


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
) -> Iterator[OpenedLog]:
    """Read and check a log.

    Args:
        columns: What the columns mean.
        tables: `events` and `labels`.
        folder: Where DuckDB puts what does not fit into memory.
        memory_limit: Of DuckDB, for example `2GB`.
        threads: Of DuckDB; the stream is the same with any number.
        labelled: Whether every sequence needs a label.
        split: Whether the sequences are to be split and trained on.
        unit: The unit of time that was found when the log was trained on.

    Raises:
        UserError: For data that do not fit the description.
    """
    where = _name(tables["events"])
    try:
        with duckdb.connect() as connection:
            settings = {
                "threads": threads,
                "memory_limit": memory_limit,
                "temp_directory": str(folder / "spill"),
                # A time without a zone means the same wherever it is read.
                "TimeZone": "UTC",
                "enable_progress_bar": False,
            }
            for name, value in settings.items():
                connection.execute(f"SET {name} = $value", {"value": value})
            wanted = {
                role: name
                for role, name, needed in (
                    ("label", columns.label, labelled),
                    ("split", columns.split, split),
                )
                if name is not None and needed
            }
            log = _open(connection, columns, tables, wanted, split, unit)
            _code(log, wanted)
            yield log
    except duckdb.OutOfMemoryException as error:
        raise UserError(
            f"{where}: {first_line(error)}; data.memory_limit={memory_limit} and "
            f"data.threads={threads}: give more memory, or fewer threads, which take less"
        ) from error
    except duckdb.Error as error:
        raise UserError(f"{where}: {first_line(error)}") from error


def _name(table: Table | None) -> str:
    return (
        "<generated events>" if isinstance(table, pa.Table | pa.RecordBatchReader) else str(table)
    )


def _open(
    connection: duckdb.DuckDBPyConnection,
    columns: LogColumns,
    tables: Mapping[str, Table | None],
    wanted: dict[str, str],
    training: bool,
    unit: str | None,
) -> OpenedLog:
    events = tables["events"]
    assert events is not None
    scanned, where = relation(connection, "events", events)
    known = table_columns(connection, scanned, Path(where))
    labels = tables.get("labels") if wanted else None
    labels_where, scanned_labels, known_labels = where, "", None
    if labels is not None:
        scanned_labels, labels_where = relation(connection, "labels", labels)
        known_labels = table_columns(connection, scanned_labels, Path(labels_where))
    in_log = {} if labels is not None else wanted
    _require(columns, known, where, known_labels, labels_where, wanted)
    names = [
        columns.key,
        *(n for n in (columns.time, columns.own_order, columns.used_type) if n is not None),
        *columns.categories,
        *columns.numeric,
        *in_log.values(),
    ]
    given = Given(_store(connection, "given", scanned, names, known))
    if known_labels is not None:
        of_sequence = [columns.key, *wanted.values()]
        stored = _store(connection, "given_labels", scanned_labels, of_sequence, known_labels)
        given = Given(given.columns, stored)
        doubled, first = one_row(connection, doubled_labels_query(stored[columns.key]))
        if doubled:
            raise UserError(
                f"{labels_where}: {doubled:,} values of '{columns.key}' stand in more than one "
                f"row, for example {first}"
            )
    asked = checks(columns, given)
    values = one_row(connection, f"SELECT {', '.join(asked.values())} FROM given")
    counts = dict(zip(asked, values, strict=True))

    def example(column: Column, row: int) -> str:
        return str(one_row(connection, value_query(column, row))[0])

    clock = look(columns, given, counts, where, example, training=training, unit=unit)
    without_id = counts["rows"] - counts[f"filled {columns.key}"]
    log = OpenedLog(
        connection, columns, given, clock, counts["rows"], without_id, where, labels_where
    )
    if columns.keep_types:
        log.other_types = one_row(connection, other_types_query(columns, given))[0]
        if log.other_types == counts[f"filled {columns.key}"]:
            raise UserError(
                f"{where}: column '{columns.event_type}' has none of data.source.keep_types, "
                f"{', '.join(columns.keep_types)}"
            )
    return log


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
            problems.append(str(error))
    if problems:
        raise UserError(*problems)


def _store(
    connection: duckdb.DuckDBPyConnection,
    view: str,
    scanned: str,
    names: list[str],
    known: dict[str, str],
) -> dict[str, Column]:
    """Read the columns that are used, each once, and number the rows as the files have them."""
    columns = {}
    select = []
    for index, name in enumerate(dict.fromkeys(names)):
        kind = _kind(known[name])
        at = f"{'c' if view == 'given' else 'l'}{index}"
        columns[name] = Column(name, at, kind)
        # Decimals, enumerations, UUIDs and integers beyond 64 bits: exact as text.
        value = f"{quoted(name)}::VARCHAR" if kind == "text" else quoted(name)
        select.append(f"{value} AS {at}")
    connection.execute(f"CREATE TABLE stored_{view} AS SELECT {', '.join(select)} FROM {scanned}")
    # A table keeps the order of the rows that made it, and so does its rowid.
    connection.execute(f"CREATE VIEW {view} AS SELECT rowid AS source_row, * FROM stored_{view}")
    return columns


_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")


def _kind(kind: str) -> Kind:
    if kind in _INTEGERS:
        return "integer"
    if kind in ("FLOAT", "DOUBLE"):
        return "float"
    if kind.startswith(("TIMESTAMP", "DATE")):
        return "timestamp"
    return "boolean" if kind == "BOOLEAN" else "text"


def _code(log: OpenedLog, wanted: dict[str, str]) -> None:
    """Number the values of the columns that become codes, in the order of their text."""
    columns, given = log.columns, log.given
    coded = {f"category_{i}": ("given", given.columns[n]) for i, n in enumerate(columns.categories)}
    table, where = ("given", given.columns) if given.labels is None else (
        "given_labels", given.labels
    )  # fmt: skip
    coded |= {role: (table, where[name]) for role, name in wanted.items()}
    for name, (table, column) in coded.items():
        values = log.connection.sql(distinct_query(table, column)).to_arrow_table()["value"]
        words = as_text(values)
        order = pc.sort_indices(words)
        codes = np.empty(len(words), np.int32)
        codes[order.to_numpy()] = np.arange(len(words), dtype=np.int32)
        log.words[name] = words.take(order)
        rows = pa.table({"value": values, "code": codes})
        log.connection.register(f"codes_{name.removeprefix('category_')}", rows)
