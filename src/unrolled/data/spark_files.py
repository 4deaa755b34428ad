"""Parquet and CSV files in Spark, each row with the number that DuckDB would give it.

That number decides between events of the same time, so it has to be the place of the row in the
files, and Spark's rows have no order. In Parquet it is the row that the file itself has
(`_metadata.row_index`). A CSV file is read by one task from its beginning to its end, since a value
may hold line ends; so the increasing ids that Spark gives are in the order of the file's rows.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import expr

from unrolled.data.files import LogFiles, TextFormat, matching_files
from unrolled.data.plain_csv import is_plain
from unrolled.data.tables import csv_header, first_line, table_format
from unrolled.errors import UserError

_SHOWN = 200  # Characters of a broken row in a message.


def require_plain(table: LogFiles) -> None:
    """Refuse files that only DuckDB reads as they are described.

    Raises:
        UserError: When there are options that Spark reads otherwise, or CSV files of several kinds.
    """
    then = "which data.engine=spark does not read; use data.engine=duckdb"
    usual = TextFormat(table.text.names, table.text.separator)
    if table.nulls or table.text != usual:
        keys = [key for key in ("quote", "encoding")
                if getattr(table.text, key) != getattr(usual, key)]  # fmt: skip
        keys += ["nulls"] if table.nulls else []
        raise UserError(f"{table}: is described by data.source.{', '.join(keys)}, {then}")
    if table_format(table.path) != "csv":
        return
    files = matching_files(table.path)
    first = csv_header(files[0], table.text)
    for file in files:
        if csv_header(file, table.text) != first:
            raise UserError(f"{file}: has its columns in another order than {files[0]}, {then}")
        if not is_plain(file, table.text):
            raise UserError(f"{file}: ends its lines in more than one way, {then}")


def parquet_rows(session: SparkSession, table: LogFiles, names: list[str]) -> tuple[DataFrame, int]:
    """Columns of Parquet files and `source_row`; and the number of rows.

    Raises:
        UserError: When a file can't be read, or has other columns than the first.
    """
    files = matching_files(table.path)
    counts, first = [], None
    for file in files:
        try:
            with pq.ParquetFile(file) as opened:
                schema = opened.schema_arrow
                counts.append(opened.metadata.num_rows)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file}: {first_line(error)}") from error
        first = schema if first is None else first
        for name in names:
            # Spark would read a column that is missing as empty.
            _require_like(name, schema, first, file, files[0])
    paths = [_path(file) for file in files]
    types = session.read.parquet(paths[0]).schema
    rows = session.read.schema(types).parquet(*paths).selectExpr(
        *map(backquoted, names), "_metadata.row_index AS number", "_metadata.file_path AS file"
    )  # fmt: skip
    if len(files) == 1:
        return rows.withColumnRenamed("number", "source_row"), counts[0]
    starts = [0, *accumulate(counts[:-1])]
    before = {str(file.resolve()): start for file, start in zip(files, starts, strict=True)}
    found = rows.select("file").distinct().collect()
    return _numbered(session, rows, {row.file: before[_local(row.file)] for row in found}), sum(
        counts
    )


def _require_like(
    name: str, schema: pa.Schema, first: pa.Schema, file: Path, first_file: Path
) -> None:
    if name not in schema.names:
        raise UserError(
            f"{file}: no column '{name}'; data.engine=spark reads columns of the files alone, not "
            "of their folders' names"
        )
    kind, wanted = schema.field(name).type, first.field(name).type
    if kind != wanted:
        raise UserError(
            f"{file}: column '{name}' is of the type {kind}, and {wanted} in {first_file}; "
            "write it in one type"
        )


def csv_rows(
    session: SparkSession,
    table: LogFiles,
    names: list[str],
    hold: Callable[[DataFrame], DataFrame],
) -> tuple[DataFrame, int]:
    """Columns of CSV files, all text, and `source_row`; and the number of rows.

    Args:
        session: With the settings of `spark_session`.
        table: The files.
        names: Of the columns.
        hold: Keeps rows that are read, so that they are read once.

    Raises:
        UserError: For what DuckDB would refuse or read as something else.
    """
    files = matching_files(table.path)
    separator, header = csv_header(files[0], table.text)
    broken = "broken" + "_" * max(map(len, header))  # A name that no column has.
    schema = ", ".join(f"{backquoted(name)} STRING" for name in [*header, broken])
    read = session.read.csv(
        [_path(file) for file in files],
        schema=schema,
        sep=separator,
        header=table.text.names is None,
        quote='"',
        escape='"',
        unescapedQuoteHandling="RAISE_ERROR",
        multiLine=True,
        mode="PERMISSIVE",
        columnNameOfCorruptRecord=broken,
    )
    values = [f"NULLIF({backquoted(name)}, '') AS {backquoted(name)}" for name in names]
    more = [
        f"{backquoted(header[-1])} AS {broken}_last",
        "monotonically_increasing_id() AS number",
        "_metadata.file_path AS file",
    ]
    rows = hold(read.selectExpr(*values, broken, *more))
    found = rows.groupBy("file").agg(
        expr("min(number) AS first"), expr("count(*) AS rows"),
        expr(f"max_by({broken}_last, number) AS last"),
    ).collect()  # fmt: skip
    by_file = {_local(row.file): row for row in found}
    count, starts = 0, {}
    for file in files:
        row = by_file.get(str(file.resolve()))
        if row is not None:  # A file may have no rows.
            _require_closed(file, row.last)
            starts[row.file] = count - row.first
            count += row.rows
    rows = _numbered(session, rows, starts)
    _refuse(table, rows, header, names, broken)
    return rows, count


def _refuse(
    table: LogFiles, rows: DataFrame, header: list[str], names: list[str], broken: str
) -> None:
    """Refuse rows that DuckDB would refuse, or read as something else."""
    of = ", ".join(map(backquoted, names))
    checks = {
        f"more or fewer values than the {len(header)} columns": (f"{broken} IS NOT NULL", broken),
        "bytes that are not UTF-8": (f"contains(concat_ws(' ', {of}), '\ufffd')", None),
        "a blank before a quote, which data.engine=duckdb takes for a quoted value": (
            f"concat_ws('\\u0001', {of}) RLIKE '(^|\\u0001) +\"'", None
        ),
    }  # fmt: skip
    asked = []
    for condition, shown in checks.values():
        text = shown or f"concat_ws(' ', {of})"
        for value in ("count(*)", "min(source_row)", f"min_by({text}, source_row)"):
            asked.append(f"{value} FILTER (WHERE {condition})")
    values = list(rows.selectExpr(*asked).collect()[0])
    problems = [
        f"{table}: {count:,} rows have {said}, for example row {first + 1:,}: {text[:_SHOWN]}"
        for said, count, first, text in zip(
            checks, values[::3], values[1::3], values[2::3], strict=True
        )
        if count
    ]
    if problems:
        raise UserError(*problems)


def _require_closed(file: Path, last: str | None) -> None:
    """Refuse a file whose last value, as Spark reads it, is the rest of the file."""
    if last is None or "\n" not in last:
        return
    with gzip.open(file) if file.suffix.lower() == ".gz" else file.open("rb") as stream:
        end = b""
        while piece := stream.read(1 << 20):
            end = (end + piece)[-3:]
    if not end.rstrip(b"\r\n").endswith(b'"'):
        raise UserError(f"{file}: a quote is not closed before the end of the file")


def _numbered(session: SparkSession, rows: DataFrame, starts: dict[str, int]) -> DataFrame:
    """Rows with `source_row`.

    Args:
        session: Of the rows.
        rows: With `file`, a URI, and `number`.
        starts: By file, what has to be added to the number.
    """
    files, numbers = pa.array(list(starts), pa.string()), pa.array(starts.values(), pa.int64())
    table = session.createDataFrame(pa.table({"file": files, "start": numbers}))
    joined = rows.join(table.hint("broadcast"), "file")
    return joined.selectExpr("*", "start + number AS source_row")


def backquoted(name: str) -> str:
    """A name, quoted for Spark."""
    return "`" + name.replace("`", "``") + "`"


def _path(file: Path) -> str:
    """A file of this machine, or mounted on all, whatever signs its name has."""
    name = "".join("\\" + sign if sign in "\\{}[]*?" else sign for sign in str(file.resolve()))
    return f"file://{name}"


def _local(uri: str) -> str:
    """The file that Spark names."""
    return "/" + unquote(uri.removeprefix("file:")).lstrip("/")
