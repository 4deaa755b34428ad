"""Files that a user asks for by name: they hold what their name says, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import duckdb
import pyarrow as pa
from pyarrow import feather

from unrolled.data.duck import connect
from unrolled.data.files import matching_files
from unrolled.data.tables import first_line
from unrolled.errors import UserError
from unrolled.plain_files import written_beside

Writer = Callable[[pa.Table, Path], object]
"""Writes a table to a file, whatever the name of that is."""


def require_output(path: Path, endings: Iterable[str], inputs: Iterable[Path] = ()) -> None:
    """Check the name of a file that is to be written, before there is anything to write.

    Args:
        path: The file.
        endings: Possible ends of its name.
        inputs: Files or globs of the user's, that must not be overwritten.

    Raises:
        UserError: When its name promises another format, it is one of the inputs (by whatever link
            or spelling), or its folder can't be written.
    """
    if not path.name.lower().endswith(tuple(endings)):
        told = f"a file named *{''.join(path.suffixes[-2:])}" if path.suffix else "such a file"
        raise UserError(f"{path}: {told} can't be written; use {', '.join(sorted(endings))}")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file in it")
    for file in _existing(inputs) if path.exists() else ():
        if path.samefile(file):
            same = "is read" if path == file else f"is the same file as {file}, which is read"
            raise UserError(f"{path}: {same}; name another file to write to")
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{path}: can't be written: the folder {folder} is read-only")


def _existing(patterns: Iterable[Path]) -> Iterator[Path]:
    for pattern in patterns:
        with suppress(UserError):
            yield from matching_files(pattern)


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table as what the name of the file says: Parquet, CSV, Arrow or Feather.

    Raises:
        UserError: For any other name, and when the file can't be written.
    """
    require_output(path, TABLES)
    ending = max((e for e in TABLES if path.name.lower().endswith(e)), key=len)

    write_whole(path, lambda partial: TABLES[ending](table, partial))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place and put it there when it is complete.

    Args:
        path: The file; its folder is made.
        write: Writes to the path that it is given.

    Raises:
        UserError: When the file can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(path) as partial:
            write(partial)
    except (OSError, duckdb.IOException, pa.ArrowException) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UserError(f"{path}: can't be written: {reason or first_line(error)}") from error


def _by_duckdb(options: str) -> Writer:
    def write(table: pa.Table, path: Path) -> None:
        with connect() as connection:
            connection.register("output_rows", table)
            quoted = str(path.absolute()).replace("'", "''")
            connection.execute(f"COPY output_rows TO '{quoted}' ({options})")

    return write


def _arrow(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _feather(table: pa.Table, path: Path) -> None:
    feather.write_feather(table, str(path))


# By default DuckDB writes beside its file once more.
_CSV = "FORMAT csv, HEADER, USE_TMP_FILE false, COMPRESSION none"
TABLES: dict[str, Writer] = {
    ".parquet": _by_duckdb("FORMAT parquet, USE_TMP_FILE false"),
    ".pq": _by_duckdb("FORMAT parquet, USE_TMP_FILE false"),
    ".csv": _by_duckdb(_CSV),
    ".csv.gz": _by_duckdb(_CSV.replace("none", "gzip")),
    ".tsv": _by_duckdb(f"{_CSV}, DELIMITER '\t'"),
    ".tsv.gz": _by_duckdb(f"{_CSV.replace('none', 'gzip')}, DELIMITER '\t'"),
    ".arrow": _arrow,
    ".ipc": _arrow,
    ".feather": _feather,
}
"""How a table is written, by the ending of its file's name."""
