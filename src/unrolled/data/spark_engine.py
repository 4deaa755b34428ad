"""Apache Spark as the engine that reads a log, for logs beyond one machine.

Spark reads, checks, joins and sorts; the ordered events come to the driver one partition after the
other. Files must be where driver and executors can open them by the same path.

The row of an event, which decides between events of the same time, is its place in the files: in
Parquet the row that the file itself has (`_metadata.row_index`); a CSV file is read by one task from
its beginning to its end, so Spark's increasing ids are in the order of its rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from unrolled.data.engines import VIEWS, ZONED_NANOSECONDS, view_columns
from unrolled.data.files import LogFiles, matching_files
from unrolled.data.log import Table
from unrolled.data.sql import Column
from unrolled.data.tables import columns as table_columns
from unrolled.data.tables import csv_header, first_line, relation, table_format
from unrolled.errors import UserError

try:
    from py4j.protocol import Py4JError, Py4JJavaError
    from pyspark import StorageLevel
    from pyspark.errors import PySparkException
    from pyspark.sql import DataFrame, SparkSession

    from unrolled.data.spark_session import spark_session
    from unrolled.data.spark_sql import microseconds_of_nanoseconds, to_spark
except ImportError as error:
    raise UserError(
        f"data.engine=spark needs {error.name}, which is not installed: "
        "pip install 'unrolled[spark]'"
    ) from error

_EVENTS = 1 << 18  # Of a partition of the stream, about.
_BROKEN = "broken row"


@contextmanager
def start_spark(folder: Path, memory_limit: str, where: str) -> Iterator[Spark]:
    """Spark as an engine; see `engines.start_engine`."""
    try:
        with (
            spark_session(folder / "spark", memory_limit) as session,
            duckdb.connect() as files,
        ):
            engine = Spark(session, files)
            try:
                yield engine
            finally:
                engine.release()
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
        scanned, where = relation(self._files, name, files)
        known = table_columns(self._files, scanned, Path(where))
        self._schemas[name] = (
            self._files.sql(f"SELECT * FROM {scanned} LIMIT 0").to_arrow_table().schema
        )
        self._tables[name], self._where[name], self._known[name] = files, where, known
        return known, where

    def store(self, name: str, names: list[str]) -> dict[str, Column]:
        """Make the view of the columns that are used."""
        columns, known = view_columns(name, names, self._known[name]), self._known[name]
        for column in columns.values():
            self._require_type(name, column.name, known[column.name])
            self._types[column.at] = known[column.name]
        table = self._tables[name]
        if table_format(table.path) == "parquet":
            rows = self._parquet(name, list(columns))
        else:
            rows = self._csv(name, columns)
        select = []
        for column in columns.values():
            value = _quoted(column.name)
            if column.kind == "text":
                value = f"CAST({value} AS STRING)"
            elif known[column.name] == ZONED_NANOSECONDS:
                value = f"TIMESTAMP_MICROS({microseconds_of_nanoseconds(value)})"
                self._types[column.at] = "TIMESTAMP WITH TIME ZONE"
            select.append(f"{value} AS {column.at}")
        rows.selectExpr("source_row", *select).createOrReplaceTempView(VIEWS[name])
        if name == "events":
            self._key = self._arrow_type(columns[names[0]], self._schemas[name])
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

    def _parquet(self, name: str, names: list[str]) -> DataFrame:
        files = matching_files(self._tables[name].path)
        schema, counts = None, []
        for file in files:
            try:
                with pq.ParquetFile(file) as opened:
                    kinds = opened.schema_arrow
                    counts.append(opened.metadata.num_rows)
            except (pa.ArrowException, OSError) as error:
                raise UserError(f"{file}: {first_line(error)}") from error
            missing = [n for n in names if n not in kinds.names]
            if missing:
                raise UserError(f"{file}: no column '{missing[0]}'; data.engine=spark reads only "
                                "what stands in the files themselves")  # fmt: skip
            schema = schema or kinds
            for n in names:
                if kinds.field(n).type != schema.field(n).type:
                    raise UserError(
                        f"{file}: column '{n}' is of the type {kinds.field(n).type}, and "
                        f"{schema.field(n).type} in {files[0]}; write it in one type"
                    )
        reader = self._session.read
        paths = [_path(file) for file in files]
        rows = reader.schema(reader.parquet(paths[0]).schema).parquet(*paths)
        wanted = [_quoted(n) for n in dict.fromkeys(names)]
        self._partition(sum(counts))
        if len(files) == 1:
            return rows.selectExpr(*wanted, "_metadata.row_index AS source_row")
        rows = rows.selectExpr(
            *wanted, "_metadata.row_index AS number", "_metadata.file_path AS file"
        )
        before = {str(f.resolve()): n for f, n in zip(files, accumulate(counts, initial=0))}
        found = rows.select("file").distinct().collect()
        return self._numbered(rows, {r.file: before[_local(r.file)] for r in found})

    def _numbered(self, rows: DataFrame, starts: dict[str, int]) -> DataFrame:
        """Rows with `source_row`.

        Args:
            rows: With `file`, a URI, and `number`.
            starts: By file, what has to be added to the number.
        """
        table = pa.table({"file": pa.array(list(starts), pa.string()),
                          "start": pa.array(list(starts.values()), pa.int64())})  # fmt: skip
        start = self._session.createDataFrame(table).hint("broadcast")
        return rows.join(start, "file").selectExpr("*", "start + number AS source_row")

    def _csv(self, name: str, columns: dict[str, Column]) -> DataFrame:
        table, where = self._tables[name], self._where[name]
        files = matching_files(table.path)
        separator, names = csv_header(files[0], table.text)
        broken = _BROKEN + "".join("_" for _ in names)  # A name that no column has.
        schema = ", ".join(f"{_quoted(n)} STRING" for n in [*names, broken])
        rows = self._session.read.csv(
            [_path(file) for file in files],
            schema=schema,
            sep=separator,
            header=table.text.names is None,
            quote='"',
            escape='"',
            # A value may hold line ends, so a file can't be cut where one is.
            multiLine=True,
            mode="PERMISSIVE",
            columnNameOfCorruptRecord=broken,
        )
        used = [f"NULLIF({_quoted(n)}, '') AS {_quoted(n)}" for n in columns]
        rows = self._hold(
            rows.selectExpr(
                *used,
                f"{_quoted(broken)} AS broken",
                "monotonically_increasing_id() AS number",
                "_metadata.file_path AS file",
            )
        )
        found = rows.groupBy("file").agg({"number": "min", "*": "count"}).collect()
        of = {_local(row.file): row for row in found}
        count, starts = 0, {}
        for file in files:
            row = of.get(str(file.resolve()))
            if row is not None:  # An empty file has no rows.
                starts[row.file] = count - row["min(number)"]
                count += row["count(1)"]
        self._partition(count)
        rows = self._numbered(rows, starts)
        bad, first, text = (
            rows.where("broken IS NOT NULL")
            .selectExpr("count(*)", "min(source_row)", "min_by(broken, source_row)")
            .collect()[0]
        )
        if bad:
            raise UserError(
                f"{where}: {bad:,} rows have more or fewer values than the {len(names)} columns, "
                f"for example row {first + 1:,}: {text[:200]}"
            )
        return rows

    def _partition(self, events: int) -> None:
        least = self._session.sparkContext.defaultParallelism
        wanted = max(least, -(-events // _EVENTS))
        self._session.conf.set("spark.sql.shuffle.partitions", str(wanted))


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


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _path(file: Path) -> str:
    """A file of this machine, or one that is mounted on all, whatever signs its name has."""
    name = "".join("\\" + sign if sign in "\\{}[]*?" else sign for sign in str(file.resolve()))
    return f"file://{name}"


def _local(uri: str) -> str:
    return "/" + unquote(uri.removeprefix("file:")).lstrip("/")


def _reason(error: Exception) -> str:
    """What is wrong, without Java's stack."""
    if isinstance(error, Py4JJavaError):
        cause = error.java_exception
        while cause.getCause() is not None:
            cause = cause.getCause()
        return str(cause.toString()).partition("\n")[0]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
