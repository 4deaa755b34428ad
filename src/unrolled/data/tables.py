"""Tables that users hand in and get back: Parquet and CSV, read and written by DuckDB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

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


def scan(path: Path, *, text: bool = False) -> str:
    """DuckDB's table function that reads `path`, a file or a glob.

    Args:
        path: Parquet or CSV; the separator and the header of a CSV are detected.
        text: Leave the values of a CSV as text instead of detecting their types.

    Raises:
        UserError: When there is no such file.
    """
    kind = table_format(path)
    # A glob is the pattern's own parent and name; a plain path is its own only match.
    if not (path.is_file() or any(path.parent.glob(path.name))):
        raise UserError(f"{path}: no such file")
    quoted = str(path).replace("'", "''")
    if kind == "parquet":
        return f"read_parquet('{quoted}')"
    return f"read_csv('{quoted}'{', all_varchar=true' if text else ''})"


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
            return connection.sql(f"SELECT * FROM {scan(path, text=True)}").to_arrow_table()
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
    """The first line of a library's message, which says what is wrong."""
    return str(error).strip().partition("\n")[0]
