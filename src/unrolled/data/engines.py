"""What reads a log: an engine opens its files, runs the statements of `sql`, delivers the result.

DuckDB is here and the default; Spark, for logs beyond one machine, is in `spark_engine`. Both give
the same stream, and so the same store to the byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import duckdb
import pyarrow as pa

from unrolled.data.duck import connect
from unrolled.data.files import LogFiles, LogQuery
from unrolled.data.log import Table
from unrolled.data.parts import Parts
from unrolled.data.queries import give_log
from unrolled.data.sql import Column, Kind, quoted
from unrolled.data.tables import columns as table_columns
from unrolled.data.tables import first_line, one_row, require_query
from unrolled.errors import UserError

EngineName: TypeAlias = Literal["duckdb", "spark"]

VIEWS = {"events": "given", "labels": "given_labels"}
"""The view that each table of a log stands in."""

ZONED_NANOSECONDS = "TIMESTAMPTZ_NS"
"""A type, pandas' own, that DuckDB can't count microseconds of; it stands in the view as such."""

_BATCH = 1 << 18  # Events of a record batch of the stream.
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")


class Engine(Protocol):
    """Reads a log. Queries are those of `sql`, in DuckDB's dialect."""

    def open(self, name: str, table: Table) -> tuple[dict[str, str], str]:
        """Look at the table `events` or `labels`.

        Returns:
            The columns, each with its type in DuckDB's words; and what messages call the table.

        Raises:
            UserError: When it can't be read.
        """
        ...

    def store(self, name: str, names: list[str]) -> dict[str, Column]:
        """Make the view of an opened table: these columns of it, and `source_row`."""
        ...

    def row(self, query: str) -> tuple[Any, ...]:
        """The only row of a result."""
        ...

    def values(self, query: str) -> pa.ChunkedArray:
        """The only column of a result."""
        ...

    def register(self, view: str, table: pa.Table) -> None:
        """Make a view of a table in memory."""
        ...

    def batches(self, query: str) -> Iterator[pa.RecordBatch]:
        """The rows of a result in their order, never all of them at once."""
        ...


def start_engine(
    name: EngineName, folder: Path, memory_limit: str, threads: int, where: str
) -> AbstractContextManager[Engine]:
    """An engine; what goes wrong in it while it is open is a UserError.

    Args:
        name: Of the engine.
        folder: Where it puts what does not fit into memory.
        memory_limit: For example `2GB`.
        threads: Of DuckDB. Spark takes what its master says, all cores by default.
        where: What messages call the log.
    """
    if name == "spark":
        # pyspark and sqlglot come with the extra `spark`.
        from unrolled.data.spark_engine import start_spark

        return start_spark(folder, memory_limit, where)
    return _start_duckdb(folder, memory_limit, threads, where)


@contextmanager
def _start_duckdb(folder: Path, memory_limit: str, threads: int, where: str) -> Iterator[DuckDB]:
    settings = {
        "threads": threads,
        "memory_limit": memory_limit,
        "temp_directory": str(folder / "spill"),
        # A time without a zone means the same wherever it is read.
        "TimeZone": "UTC",
        "enable_progress_bar": False,
    }
    try:
        with connect(settings) as connection:
            yield DuckDB(connection, folder)
    except duckdb.OutOfMemoryException as error:
        raise UserError(
            f"{where}: {first_line(error)}; data.memory_limit={memory_limit} and "
            f"data.threads={threads}: give more memory, or fewer threads, which take less"
        ) from error
    except duckdb.Error as error:
        raise UserError(f"{where}: {first_line(error)}") from error


class DuckDB:
    """The engine on one machine; what does not fit into memory is spilled.

    Args:
        connection: To a database of its own.
        folder: Where a CSV is copied that DuckDB can't read as it is.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
        self._connection, self._folder = connection, folder
        self._scanned: dict[str, str] = {}
        self._known: dict[str, dict[str, str]] = {}
        self._parts: dict[str, Parts] = {}

    def open(self, name: str, table: Table) -> tuple[dict[str, str], str]:
        """Look at a table; files, a query, or Arrow data."""
        if isinstance(table, Path | LogFiles):
            files = LogFiles(table) if isinstance(table, Path) else table
            self._parts[name] = Parts(self._connection, name, files, self._folder)
            self._known[name] = self._parts[name].known()
            return self._known[name], str(files)
        if isinstance(table, LogQuery):
            require_query(table.text)
            if table.files is not None:
                give_log(self._connection, table.files, self._folder)
            self._scanned[name], where = f"({table.text})", str(table)
        else:
            self._connection.register(f"given {name}", table)
            self._scanned[name], where = f'"given {name}"', f"<generated {name}>"
        self._known[name] = table_columns(self._connection, self._scanned[name], Path(where))
        return self._known[name], where

    def store(self, name: str, names: list[str]) -> dict[str, Column]:
        """Read the columns that are used, each once, and number the rows as the files have them."""
        if name in self._parts:
            used = list(dict.fromkeys(names))
            self._scanned[name], types = self._parts[name].select(used)
            self._known[name] |= types
        columns = view_columns(name, names, self._known[name])
        select = []
        for column in columns.values():
            value = quoted(column.name)
            if column.kind == "text":
                # Decimals, enumerations, UUIDs and integers beyond 64 bits: exact as text.
                value += "::VARCHAR"
            elif self._known[name][column.name] == ZONED_NANOSECONDS:
                value += "::TIMESTAMPTZ"
            select.append(f"{value} AS {column.at}")
        view, scanned = VIEWS[name], self._scanned[name]
        self._connection.execute(
            f"CREATE TABLE stored_{view} AS SELECT {', '.join(select)} FROM {scanned}"
        )
        # A table keeps the order of the rows that made it, and so does its rowid.
        self._connection.execute(
            f"CREATE VIEW {view} AS SELECT rowid AS source_row, * FROM stored_{view}"
        )
        return columns

    def row(self, query: str) -> tuple[Any, ...]:
        """The only row of a result."""
        return one_row(self._connection, query)

    def values(self, query: str) -> pa.ChunkedArray:
        """The only column of a result."""
        return self._connection.sql(query).to_arrow_table().column(0)

    def register(self, view: str, table: pa.Table) -> None:
        """Make a view of a table in memory."""
        self._connection.register(view, table)

    def batches(self, query: str) -> Iterator[pa.RecordBatch]:
        """The rows of a result in their order."""
        yield from self._connection.sql(query).to_arrow_reader(_BATCH)


def view_columns(name: str, names: list[str], known: dict[str, str]) -> dict[str, Column]:
    """The columns of a view, by their name in the table.

    Args:
        name: `events` or `labels`.
        names: Of the columns that are used, some more than once.
        known: The types of the table's columns, in DuckDB's words.
    """
    prefix = "c" if name == "events" else "l"
    return {
        column: Column(column, f"{prefix}{index}", _kind(known[column]))
        for index, column in enumerate(dict.fromkeys(names))
    }


def _kind(kind: str) -> Kind:
    if kind in _INTEGERS:
        return "integer"
    if kind in ("FLOAT", "DOUBLE"):
        return "float"
    if kind.startswith(("TIMESTAMP", "DATE")):
        return "timestamp"
    return "boolean" if kind == "BOOLEAN" else "text"
