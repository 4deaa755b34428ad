"""What reads a log: an engine opens its files, runs the statements of `sql`, delivers the result.

DuckDB is here and the default; Spark, for logs beyond one machine, is in `spark_engine`. Both give
the same stream, and so the same store to the byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import duckdb
import pyarrow as pa

from unrolled.data.duck import connect
from unrolled.data.files import LogFiles, LogQuery
from unrolled.data.log import Table
from unrolled.data.missing import Kind, present
from unrolled.data.parts import Parts
from unrolled.data.queries import give_log
from unrolled.data.sql import Column, query_option, quoted
from unrolled.data.tables import columns as table_columns
from unrolled.data.tables import first_line, one_row, require_query
from unrolled.errors import UserError

EngineName: TypeAlias = Literal["duckdb", "spark"]

VIEWS = {"events": "given", "labels": "given_labels"}
"""The view that each table of a log stands in."""

Names: TypeAlias = Mapping[str, bool]

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

    def store(self, name: str, names: Names) -> dict[str, Column]:
        """Make the view of an opened table: these columns of it, and `source_row`.

        Args:
            name: `events` or `labels`.
            names: The columns, the first of them the sequence's or the user's; and whether the
                texts of `missing.NULL_TEXTS` are missing values there.

        Raises:
            UserError: For a column that does not hold one value a row.
        """
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
        where: Name of the log in messages.
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
        folder: Folder for the copy of a CSV that DuckDB can't read as it is.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
        self._connection, self._folder = connection, folder
        self._scanned: dict[str, str] = {}
        self._known: dict[str, dict[str, str]] = {}
        self._parts: dict[str, Parts] = {}
        self._where: dict[str, str] = {}

    def open(self, name: str, table: Table) -> tuple[dict[str, str], str]:
        """Look at a table; files, a query, or Arrow data."""
        if isinstance(table, Path | LogFiles):
            files = LogFiles(table) if isinstance(table, Path) else table
            self._parts[name] = Parts(self._connection, name, files, self._folder)
            self._known[name], self._where[name] = self._parts[name].known(), str(files)
            return self._known[name], self._where[name]
        if isinstance(table, LogQuery):
            require_query(table.text)
            if table.files is not None:
                give_log(self._connection, table.files, self._folder)
            self._scanned[name], where = f"({table.text})", str(table)
        else:
            self._connection.register(f"given {name}", table)
            self._scanned[name], where = f'"given {name}"', f"<generated {name}>"
        self._known[name] = table_columns(self._connection, self._scanned[name], Path(where))
        self._where[name] = where
        return self._known[name], where

    def store(self, name: str, names: Names) -> dict[str, Column]:
        """Read the columns that are used, each once, and number the rows as the files have them."""
        if name in self._parts:
            self._scanned[name], types = self._parts[name].select(list(names))
            self._known[name] |= types
        columns = view_columns(name, names, self._known[name], self._where[name])
        select = []
        for column in columns.values():
            value = quoted(column.name)
            if column.kind == "text":
                # Decimals, enumerations, UUIDs and integers beyond 64 bits: exact as text.
                text = f"{value}::VARCHAR"
                # Text that a program has written without saying so.
                value = f"coalesce(TRY(decode({value})), {text})" if column.type == "BLOB" else text
            value = present(value, column.kind, null_texts=names[column.name])
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


def view_columns(name: str, names: Names, known: dict[str, str], where: str) -> dict[str, Column]:
    """The columns of a view, by their name in the table.

    Args:
        name: `events` or `labels`.
        names: The columns that are used.
        known: The types of the table's columns, in DuckDB's words.
        where: Name of the table in messages.

    Raises:
        UserError: For a column that does not hold one value a row.
    """
    problems = [_of_many_values(column, known[column], where) for column in names]
    if found := [problem for problem in problems if problem]:
        raise UserError(*found)
    prefix = "c" if name == "events" else "l"
    return {
        column: Column(column, f"{prefix}{index}", _kind(known[column]), known[column])
        for index, column in enumerate(names)
    }


def _of_many_values(column: str, kind: str, where: str) -> str | None:
    """Why a column of lists or the like can't be used, and how to make it one that can."""
    if kind.startswith("ENUM"):
        return None
    name = quoted(column)
    if kind.endswith("]"):
        what, select = "a list", f"SELECT * REPLACE (unnest({name}) AS {name})"
        then = "make a row of each of its values"
    elif kind.startswith("STRUCT"):
        found = re.match(r'STRUCT\(("[^"]*"|[^ ]*)', kind)
        field = found[1] if found else "FIELD"
        what, select = "a struct", f"SELECT * REPLACE ({name}.{field} AS {name})"
        then = "take one of its fields"
    elif kind.startswith("MAP"):
        what, select = "a map", f"SELECT * REPLACE ({name}['KEY'] AS {name})"
        then = "take the value of one of its keys"
    elif kind.startswith(("UNION", "VARIANT")):
        what, select = "of several types", f"SELECT * REPLACE ({name}::VARCHAR AS {name})"
        then = "write it in one type"
    else:
        return None
    return (
        f"{where}: column '{column}' is of the type {kind}, {what}, which is no value of an event; "
        f"{then}, for example with {query_option(f'{select} FROM log')}"
    )


def _kind(kind: str) -> Kind:
    if kind in _INTEGERS:
        return "integer"
    if kind in ("FLOAT", "DOUBLE"):
        return "float"
    if kind.startswith(("TIMESTAMP", "DATE")):
        return "timestamp"
    return "boolean" if kind == "BOOLEAN" else "text"
