"""Tables that users hand in: Parquet and CSV, read by DuckDB."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from unrolled.data.duck import connect, missing_extension
from unrolled.data.files import LogFiles, LogQuery, TextFormat, matching_files
from unrolled.errors import UserError, did_you_mean

_FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".dat": "csv",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}


def table_format(path: Path) -> str:
    """`parquet`, `csv` or `arrow`, by the name of the file; a CSV may be compressed by gzip.

    Raises:
        UserError: For any other ending.
    """
    name = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    try:
        kind = _FORMATS[name.suffix.lower()]
        if name != path and kind != "csv":
            raise UserError(f"{path}: only CSV is read from .gz")
        return kind
    except KeyError:
        raise UserError(
            f"{path}: unknown format '{path.suffix}'; use {', '.join(sorted(_FORMATS))}"
        ) from None


def scan(path: Path, text: TextFormat = TextFormat()) -> str:  # noqa: B008
    """DuckDB's table function that reads `path`, a file or a glob of Parquet or CSV.

    The values of a CSV are text, so that `0010` keeps its zeros and a column's type does not
    depend on the rows that happen to be in the file.

    Args:
        path: The files.
        text: How a CSV is written; by default with a header, which shows the separator.

    Raises:
        UserError: When there is no such file, or no header that can be read.
    """
    kind = table_format(path)
    files = matching_files(path)
    if kind == "parquet":
        return scan_parquet(files)
    if kind == "arrow":
        raise UserError(f"{path}: an Arrow file is read as an event log only; use Parquet or CSV")
    separator, names = csv_header(files[0], text)
    for file in files[1:]:
        if csv_header(file, text)[1] != names:
            raise UserError(f"{file}: has other columns than {files[0]}")
    types = ", ".join(f"{_literal(name)}: 'VARCHAR'" for name in names)
    listed = ", ".join(_literal(str(file)) for file in files)
    # Nothing is guessed: a guess makes one column of all where a single row is broken.
    return (
        f"read_csv([{listed}], auto_detect=false, header={text.names is None}, "
        f"delim={_literal(separator)}, quote='\"', escape='\"', columns={{{types}}})"
    )


def arrow_reader(path: Path) -> pa.RecordBatchReader:
    """The rows of Arrow IPC (Feather) files, one file after the other, memory-mapped.

    Raises:
        UserError: When a file is missing or no Arrow file.
    """
    files = matching_files(path)
    schema = _arrow_file(files[0]).schema

    def batches() -> Iterator[pa.RecordBatch]:
        for file in files:
            opened = _arrow_file(file)
            if opened.schema.names != schema.names:
                raise UserError(f"{file}: has other columns than {files[0]}")
            for index in range(opened.num_record_batches):
                yield opened.get_batch(index).cast(schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def _arrow_file(file: Path) -> pa.ipc.RecordBatchFileReader:
    try:
        return pa.ipc.open_file(pa.memory_map(str(file)))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: can't be read as an Arrow file: {first_line(error)}") from error


def relation(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    table: Path | LogFiles | LogQuery | pa.Table | pa.RecordBatchReader,
) -> tuple[str, str]:
    """What stands after FROM for `table`, and what messages call it.

    Args:
        connection: Where Arrow data are registered.
        name: Under which name.
        table: Files, a query, or Arrow data; a reader can be read once.

    Raises:
        UserError: When there is no such file, or it is not what its name says.
    """
    if isinstance(table, LogQuery):
        require_query(table.text)
        return f"({table.text})", str(table)
    if isinstance(table, Path | LogFiles):
        files = LogFiles(table) if isinstance(table, Path) else table
        if table_format(files.path) != "arrow":
            return scan(files.path, files.text), str(files)
        connection.register(f"given {name}", arrow_reader(files.path))
        return f'"given {name}"', str(files)
    connection.register(f"given {name}", table)
    return f'"given {name}"', f"<generated {name}>"


def query_digest(query: str) -> str:
    """A hash of the rows that a query gives, whatever their order.

    Raises:
        UserError: When the query can't be run, or is more than a query.
    """
    require_query(query)
    with connect() as connection:
        try:
            return str(
                one_row(connection, f"SELECT count(*), sum(hash(q)::HUGEINT) FROM ({query}) AS q")
            )
        except duckdb.Error as error:
            raise UserError(f"data.source.query: {first_line(error)}") from error


def require_query(query: str) -> None:
    """Refuse SQL that does anything but read.

    It comes from a config, which another may have written: `COPY ... TO` would overwrite files,
    and an extension can start programs.

    Raises:
        UserError: When it is not a single query.
    """
    try:
        statements = duckdb.extract_statements(query)
    except duckdb.Error as error:
        raise UserError(f"data.source.query: {first_line(error)}") from error
    if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
        kinds = ", ".join(statement.type.name for statement in statements)
        raise UserError(f"data.source.query must be a single SELECT; it is {kinds or 'empty'}")


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def csv_header(path: Path, text: TextFormat) -> tuple[str, list[str]]:
    """Separator and names of the columns of a CSV file.

    Raises:
        UserError: When its first line can't be read.
    """
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
            line = stream.readline().decode("utf-8-sig")
        separator = text.separator or max(",\t;|", key=line.count)
        names = next(csv.reader([line], delimiter=separator), []) if len(separator) == 1 else None
        if names is None:
            names = line.rstrip("\r\n").split(separator)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: can't be read as CSV: {first_line(error)}") from error
    if not any(names):
        missing = "" if text.names is not None else "; the first line must name the columns"
        raise UserError(f"{path}: the file is empty{missing}")
    if text.names is not None:
        if len(names) != len(text.names):
            raise UserError(
                f"{path}: the first line has {len(names)} values separated by {separator!r}, and "
                f"data.source.names names {len(text.names)} columns"
            )
        names = list(text.names)
    names = [name or f"column{index}" for index, name in enumerate(names)]
    for name in names:
        if [n.lower() for n in names].count(name.lower()) > 1:
            raise UserError(f"{path}: more than one column is called '{name}'")
    return separator, names


def columns(connection: duckdb.DuckDBPyConnection, relation: str, where: Path) -> dict[str, str]:
    """Names and DuckDB types of the columns of `relation`.

    Raises:
        UserError: When the file can't be read as what its name says.
    """
    try:
        rows = connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    except duckdb.Error as error:
        raise UserError(f"{where}: {first_line(error)}") from error
    return {row[0]: row[1] for row in rows}


def require_one_type(
    connection: duckdb.DuckDBPyConnection, table: LogFiles, names: Iterable[str]
) -> None:
    """Check that columns have the same type in all Parquet files of a glob.

    DuckDB would read all by the type of the first: 2.4 as 2 where that has integers.

    Raises:
        UserError: When one has not.
    """
    if table_format(table.path) != "parquet":
        return
    first, *others = matching_files(table.path)
    wanted = columns(connection, scan_parquet([first]), first) if others else {}
    for file in others:
        known = columns(connection, scan_parquet([file]), file)
        for name in names:
            if name in known and name in wanted and known[name] != wanted[name]:
                raise UserError(
                    f"{file}: column '{name}' is of the type {known[name]}, and {wanted[name]} in "
                    f"{first}; write it in one type"
                )


def scan_parquet(files: Iterable[Path]) -> str:
    """DuckDB's table function that reads these Parquet files."""
    return f"read_parquet([{', '.join(_literal(str(file)) for file in files)}])"


def one_row(
    connection: duckdb.DuckDBPyConnection, query: str, parameters: dict[str, object] | None = None
) -> tuple[Any, ...]:
    """The only row of a query's result; fetched whole, so that the connection is free again."""
    rows = connection.execute(query, parameters or {}).fetchall()
    return tuple(rows[0])


def require_column(name: str, known: dict[str, str], where: Path, key: str) -> None:
    """Check that a file has the column that the config key `key` names.

    Raises:
        UserError: When it has not.
    """
    if name not in known:
        raise UserError(
            f"{where}: no column '{name}' (asked for by {key}); {did_you_mean(name, known)}"
        )


def read_text_columns(path: Path) -> pa.Table:
    """All columns of a Parquet or CSV file; a CSV's as text, so that `0010` keeps its zeros.

    Raises:
        UserError: When the file is missing or can't be read.
    """
    with connect() as connection:
        try:
            return connection.sql(f"SELECT * FROM {scan(path)}").to_arrow_table()
        except duckdb.Error as error:
            raise UserError(f"{path}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """What a library's message says is wrong, in one line."""
    if (extension := missing_extension(error)) is not None:
        return extension
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if "CSV Error on Line" not in lines[0]:
        return lines[0]
    # The row follows, of one line or many; then the reason; then what DuckDB's options could do.
    reason = [line for line in str(error).partition("\nPossible ")[0].splitlines() if line]
    return f"{lines[0]}: {reason[-1]}"
