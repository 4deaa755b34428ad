"""Tables that users hand in and get back: Parquet and CSV, read and written by DuckDB."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from unrolled.data.log import matching_files
from unrolled.errors import UserError, did_you_mean

_FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
}


def table_format(path: Path) -> str:
    """`parquet` or `csv`, by the name of the file.

    Raises:
        UserError: For any other ending.
    """
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        raise UserError(
            f"{path}: unknown format '{path.suffix}'; use {', '.join(sorted(_FORMATS))}"
        ) from None


def scan(path: Path) -> str:
    """DuckDB's table function that reads `path`, a file or a glob.

    The values of a CSV are text, so that `0010` keeps its zeros and a column's type does not
    depend on the rows that happen to be in the file.

    Args:
        path: Parquet or CSV with a header; the separator of a CSV is the header's.

    Raises:
        UserError: When there is no such file, or no header that can be read.
    """
    kind = table_format(path)
    files = matching_files(path)
    listed = ", ".join(_literal(str(file)) for file in files)
    if kind == "parquet":
        return f"read_parquet([{listed}])"
    separator, names = _header(files[0])
    for file in files[1:]:
        if _header(file)[1] != names:
            raise UserError(f"{file}: has other columns than {files[0]}")
    types = ", ".join(f"{_literal(name)}: 'VARCHAR'" for name in names)
    # Nothing is guessed: a guess makes one column of all where a single row is broken.
    return (
        f"read_csv([{listed}], auto_detect=false, header=true, delim={_literal(separator)}, "
        f"quote='\"', escape='\"', columns={{{types}}})"
    )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _header(path: Path) -> tuple[str, list[str]]:
    """Separator and names of the columns of a CSV file."""
    try:
        with path.open("rb") as stream:
            line = stream.readline().decode("utf-8-sig")
        separator = max(",\t;|", key=line.count)
        names = next(csv.reader([line], delimiter=separator), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: can't be read as CSV: {first_line(error)}") from error
    if not any(names):
        raise UserError(f"{path}: the file is empty; the first line must name the columns")
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
    with duckdb.connect() as connection:
        try:
            return connection.sql(f"SELECT * FROM {scan(path)}").to_arrow_table()
        except duckdb.Error as error:
            raise UserError(f"{path}: {first_line(error)}") from error


def write_table(table: pa.Table, path: Path) -> None:
    """Write Parquet or CSV, by the name of the file; complete or not at all.

    Raises:
        UserError: When the folder can't be written.
    """
    kind = table_format(path)
    partial = path.with_name(f".{path.name}.partial")
    options = "FORMAT parquet" if kind == "parquet" else "FORMAT csv, HEADER"
    if path.suffix == ".tsv":
        options += ", DELIMITER '\t'"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with duckdb.connect() as connection:
            connection.register("output_rows", table)
            quoted = str(partial).replace("'", "''")
            connection.execute(f"COPY output_rows TO '{quoted}' ({options})")
        partial.replace(path)
    except (OSError, duckdb.IOException) as error:
        raise UserError(f"{path}: can't be written: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """What a library's message says is wrong, in one line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if "CSV Error on Line" not in lines[0]:
        return lines[0]
    # The row follows, of one line or many; then the reason; then what DuckDB's options could do.
    reason = [line for line in str(error).partition("\nPossible ")[0].splitlines() if line]
    return f"{lines[0]}: {reason[-1]}"
