"""Apache Spark as the engine that reads a log, for logs beyond one machine.

Spark reads, checks, joins and sorts; the ordered events come to the driver one partition after the
other. Files must be where driver and executors can open them by the same path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from unrolled.data.duck import connect
from unrolled.data.engines import VIEWS, Names, view_columns
from unrolled.data.files import LogFiles
from unrolled.data.log import Table
from unrolled.data.missing import present
from unrolled.data.sql import Column
from unrolled.data.tables import columns as table_columns
from unrolled.data.tables import first_line, scan, table_format
from unrolled.errors import UserError

try:
    from py4j.protocol import Py4JError, Py4JJavaError, Py4JNetworkError
    from pyspark import StorageLevel
    from pyspark.errors import PySparkException
    from pyspark.sql import DataFrame, SparkSession

    from unrolled.data.spark_files import (
        backquoted,
        csv_rows,
        parquet_rows,
        require_plain,
    )
    from unrolled.data.spark_session import spark_session
    from unrolled.data.spark_sql import to_spark
except ImportError as error:
    raise UserError(
        f"data.engine=spark needs {error.name}, which is not installed: "
        "pip install 'unrolled[spark]'"
    ) from error

_EVENTS = 1 << 18  # Of a partition of the stream, about.
_SHOWN = 300  # Characters of an error of Spark.


@contextmanager
def start_spark(folder: Path, memory_limit: str, where: str) -> Iterator[Spark]:
    """Spark as an engine; see `engines.start_engine`."""
    try:
        with (
            spark_session(folder / "spark", memory_limit) as session,
            connect() as files,
        ):
            engine = Spark(session, files)
            try:
                yield engine
            finally:
                engine.release()
    except (Py4JNetworkError, ConnectionError) as error:
        if _interrupted(error):
            raise KeyboardInterrupt from error
        raise UserError(
            f"{where}: Spark has died, for lack of memory or killed from outside; "
            f"data.memory_limit={memory_limit}, the memory of its driver, can be raised"
        ) from error
    except (PySparkException, Py4JError) as error:
        raise UserError(f"{where}: Spark: {_reason(error)}") from error
    except duckdb.Error as error:
        raise UserError(f"{where}: {first_line(error)}") from error


class Spark:
    """The engine.

    Args:
        session: With the settings of `spark_session`.
        files: DuckDB, which looks at headers and schemas, so that columns have the same types and
            bad files the same messages with either engine.
    """

    def __init__(self, session: SparkSession, files: duckdb.DuckDBPyConnection) -> None:
        self._session, self._files = session, files
        self._tables: dict[str, LogFiles] = {}
        self._where: dict[str, str] = {}
        self._known: dict[str, dict[str, str]] = {}
        self._schemas: dict[str, pa.Schema] = {}
        self._types: dict[str, str] = {}
        self._key: pa.DataType = pa.string()
        self._held: list[DataFrame] = []

    def open(self, name: str, table: Table) -> tuple[dict[str, str], str]:
        """Look at Parquet or CSV files.

        Raises:
            UserError: For any other table.
        """
        files = LogFiles(table) if isinstance(table, Path) else table
        if not isinstance(files, LogFiles) or table_format(files.path) == "arrow":
            what = files if isinstance(files, LogFiles) else f"these {name}"
            raise UserError(
                f"data.engine=spark reads files of Parquet and CSV, which {what} are not; "
                "use data.engine=duckdb"
            )
        require_plain(files)
        where, scanned = str(files), scan(files.path, files.text)
        known = table_columns(self._files, scanned, Path(where))
        self._schemas[name] = (
            self._files.sql(f"SELECT * FROM {scanned} LIMIT 0").to_arrow_table().schema
        )
        self._tables[name], self._where[name], self._known[name] = files, where, known
        return known, where

    def store(self, name: str, names: Names) -> dict[str, Column]:
        """Make the view of the columns that are used."""
        known = self._known[name]
        columns = view_columns(name, names, known, self._where[name])
        for column in columns.values():
            self._require_type(name, column.name, known[column.name])
            self._types[column.at] = known[column.name]
        table = self._tables[name]
        if table_format(table.path) == "parquet":
            rows, events = parquet_rows(self._session, table, list(columns))
        else:
            rows, events = csv_rows(self._session, table, list(columns), self._hold)
        if name == "events":
            least = self._session.sparkContext.defaultParallelism
            partitions = max(least, -(-events // _EVENTS))
            self._session.conf.set("spark.sql.shuffle.partitions", str(partitions))
        select = []
        for column in columns.values():
            value = backquoted(column.name)
            if column.kind == "text":
                value = f"CAST({value} AS STRING)"
            value = present(value, column.kind, null_texts=names[column.name], spark=True)
            select.append(f"{value} AS {column.at}")
        rows.selectExpr("source_row", *select).createOrReplaceTempView(VIEWS[name])
        if name == "events":
            self._key = self._arrow_type(columns[next(iter(names))], self._schemas[name])
        return columns

    def _arrow_type(self, column: Column, schema: pa.Schema) -> pa.DataType:
        """As which DuckDB delivers a column."""
        if self._types[column.at] == "TIMESTAMP WITH TIME ZONE":
            return pa.timestamp("us", "UTC")
        return pa.string() if column.kind == "text" else schema.field(column.name).type

    def row(self, query: str) -> tuple[Any, ...]:
        """The only row of a result."""
        return tuple(self._sql(query).collect()[0])

    def values(self, query: str) -> pa.ChunkedArray:
        """The only column of a result."""
        return self._sql(query).toArrow().column(0)

    def register(self, view: str, table: pa.Table) -> None:
        """Make a view of a table in memory."""
        self._session.createDataFrame(table).createOrReplaceTempView(view)

    def batches(self, query: str) -> Iterator[pa.RecordBatch]:
        """The rows of a result in their order, a partition after the other."""
        partitions = self._hold(self._sql(query).mapInArrow(_messages(), "message binary"))
        # All partitions at once, by all executors; then they are fetched.
        partitions.count()
        for row in partitions.toLocalIterator(prefetchPartitions=True):
            for batch in pa.ipc.open_stream(row.message):
                at = batch.schema.get_field_index("sequence_key")
                key = batch.column(at).cast(self._key)
                yield batch.set_column(at, "sequence_key", key)

    def release(self) -> None:
        """Give back what executors hold."""
        # It may have died before: that is the error to tell of.
        with suppress(Py4JError, ConnectionError):
            for frame in self._held:
                frame.unpersist()

    def _sql(self, query: str) -> DataFrame:
        return self._session.sql(to_spark(query, self._types))

    def _hold(self, frame: DataFrame) -> DataFrame:
        self._held.append(frame.persist(StorageLevel.DISK_ONLY))
        return self._held[-1]

    def _require_type(self, name: str, column: str, kind: str) -> None:
        exact = ("DECIMAL", "VARCHAR", "UBIGINT", "TIMESTAMP", "DATE", "BOOLEAN", "FLOAT", "DOUBLE")
        integers = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
        if kind.endswith("]") or not kind.startswith((*exact, *integers)):
            raise UserError(
                f"{self._where[name]}: column '{column}' is of the type {kind}, which "
                "data.engine=spark does not read; use data.engine=duckdb, or write it as text"
            )


def _messages() -> Any:
    # A function inside a function travels to the executors as it is: they need no unrolled.
    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for batch in batches:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as stream:
                stream.write_batch(batch)
            message = pa.array([sink.getvalue().to_pybytes()], pa.binary())
            yield pa.RecordBatch.from_arrays([message], ["message"])

    return write


def _interrupted(error: BaseException) -> bool:
    """Whether Ctrl-C came first, and py4j stumbled over what it had left."""
    before: BaseException | None = error
    while before is not None and not isinstance(before, KeyboardInterrupt):
        before = before.__context__
    return before is not None


def _reason(error: Exception) -> str:
    """What is wrong, without Java's stack."""
    text = str(error)
    if isinstance(error, Py4JJavaError):
        cause = error.java_exception
        while cause.getCause() is not None:
            cause = cause.getCause()
        # Without the name of its class.
        text = re.sub(r"^[\w.$]+: ", "", str(cause.toString()))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:_SHOWN] if lines else type(error).__name__
