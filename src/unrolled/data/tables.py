"""Tables that users hand in: Parquet and CSV, read by DuckDB."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from unrolled.data.duck import connect, missing_extension
from unrolled.data.files import TextFormat, matching_files, require_distinct
from unrolled.data.plain_csv import first_line as csv_first_line
from unrolled.data.plain_csv import is_plain, plain_copy
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


def scan(path: Path, text: TextFormat = TextFormat(), folder: Path | None = None) -> str:  # noqa: B008
    """DuckDB's table function that reads `path`, a file or a glob of Parquet or CSV.

    The values of a CSV are text, so that `0010` keeps its zeros and a column's type does not
    depend on the rows that happen to be in the file.

    Args:
        path: The files.
        text: How a CSV is written; by default with a header, which shows the separator.
        folder: Where a CSV is copied that DuckDB can't read as it is; None only looks at headers.

    Raises:
        UserError: When there is no such file, or no header that can be read.
    """
    kind = table_format(path)
    files = matching_files(path)
    if kind == "parquet":
        return scan_parquet(files)
    if kind == "arrow":
        raise UserError(f"{path}: an Arrow file is read as an event log only; use Parquet or CSV")
    groups = list(csv_files(files, text, folder))
    first, _, _, names = groups[0]
    for file, _, _, others in groups[1:]:
        if sorted(others) != sorted(names):
            raise UserError(f"{file}: has other columns than {first}")
    scans = [read_csv(plain, text, separator, names) for _, plain, separator, names in groups]
    if len(scans) == 1:
        return scans[0]
    listed = ", ".join(map(sql_name, names))
    return f"({' UNION ALL '.join(f'SELECT {listed} FROM {scan}' for scan in scans)})"


def csv_files(
    files: list[Path], text: TextFormat, folder: Path | None
) -> Iterator[tuple[Path, list[Path], str, list[str]]]:
    """CSV files that follow one another and have the same header.

    Yields:
        The first of them; all of them, or copies that DuckDB can read; the separator; the columns.

    Raises:
        UserError: When one has no header that can be read.
    """
    headers = [csv_header(file, text) for file in files]
    for _, group in groupby(zip(files, headers, strict=True), key=lambda pair: pair[1]):
        alike = list(group)
        plain = [
            file if folder is None or is_plain(file, text) else plain_copy(file, text, folder)
            for file, _ in alike
        ]
        yield alike[0][0], plain, *alike[0][1]


def read_csv(files: list[Path], text: TextFormat, separator: str, names: list[str]) -> str:
    """DuckDB's table function that reads CSV files of these columns, all of them as text."""
    types = ", ".join(f"{sql_literal(name)}: 'VARCHAR'" for name in names)
    listed = ", ".join(sql_literal(str(file)) for file in files)
    quote = sql_literal(text.quote)
    # Nothing is guessed: a guess makes one column of all where a single row is broken.
    return (
        f"read_csv([{listed}], auto_detect=false, header={text.names is None}, "
        f"delim={sql_literal(separator)}, quote={quote}, escape={quote}, columns={{{types}}}, "
        "hive_types_autocast=false)"
    )


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


def sql_literal(text: str) -> str:
    """A text, quoted for SQL."""
    return "'" + text.replace("'", "''") + "'"


def sql_name(name: str) -> str:
    """A name, quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def csv_header(path: Path, text: TextFormat) -> tuple[str, list[str]]:
    """Separator and names of the columns of a CSV file.

    Raises:
        UserError: When its first line can't be read.
    """
    try:
        line = csv_first_line(path, text)
        separator = text.separator or max(",\t;|", key=line.count)
        names = _values(line, separator, text.quote)
    except (OSError, UnicodeError, csv.Error) as error:
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
    require_distinct(names, path)
    return separator, names


def _values(line: str, separator: str, quote: str) -> list[str]:
    """The values of a line."""
    if len(separator) > 1:
        return line.rstrip("\r\n").split(separator)
    if not quote:
        return next(csv.reader([line], delimiter=separator, quoting=csv.QUOTE_NONE), [])
    if len(quote) > 1:
        raise UserError(f"data.source.quote={quote[:20]!r}: give one character, or none")
    return next(csv.reader([line], delimiter=separator, quotechar=quote), [])


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


def scan_parquet(files: Iterable[Path]) -> str:
    """DuckDB's table function that reads these Parquet files."""
    listed = ", ".join(sql_literal(str(file)) for file in files)
    # A folder `month=01` stays the text 01, whichever months are read.
    return f"read_parquet([{listed}], hive_types_autocast=false)"


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
    with connect() as connection, tempfile.TemporaryDirectory() as folder:
        try:
            scanned = scan(path, folder=Path(folder))
            return connection.sql(f"SELECT * FROM {scanned}").to_arrow_table()
        except duckdb.Error as error:
            raise UserError(f"{path}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """What a library's message says is wrong, in one line."""
    if (extension := missing_extension(error)) is not None:
        return extension
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if "state machine reached an invalid state" in lines[0]:
        return "a quote is not closed, or lines end in more than one way"
    if "CSV Error on Line" not in lines[0]:
        return lines[0]
    # The row follows, of one line or many; then the reason; then what DuckDB's options could do.
    reason = [line for line in str(error).partition("\nPossible ")[0].splitlines() if line]
    then = ""
    if "not utf-8 encoded" in reason[-1]:
        then = " data.source.encoding says which encoding it is, for example latin-1"
    return f"{lines[0]}: {reason[-1]}{then}"
