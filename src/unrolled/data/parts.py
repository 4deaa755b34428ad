"""The files of one table, joined by the names of their columns.

A column may have another type in another file, as when pandas has written a month without a missing
value as integers and the next as floats. Such a column gets the first type that holds each value of
each file; where there is none the files and their types are named, and nothing is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from unrolled.data.arrow_files import ArrowFile
from unrolled.data.files import LogFiles, matching_files, require_distinct
from unrolled.data.missing import is_nan, present, unless_text
from unrolled.data.sql import EXACT
from unrolled.data.tables import (
    columns,
    csv_files,
    first_line,
    read_csv,
    scan_parquet,
    sql_name,
    table_format,
)
from unrolled.errors import UserError

_INTEGERS = (
    "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT",
    "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT",
)  # fmt: skip
_FLOATS = ("FLOAT", "DOUBLE")
_STAMPS = ("DATE", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP", "TIMESTAMP_NS")
_ZONED = ("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ_NS")
NOTHING = '"NULL"'
"""The type of a column that has no value in a whole file."""


@dataclass(frozen=True)
class Part:
    """Files of one table whose columns have the same names and types.

    Args:
        first: The first of the files, by which messages name the part.
        types: DuckDB's type of each column, by name.
        scan: Gives what stands after FROM to read some of the columns, once.
    """

    first: Path
    types: dict[str, str]
    scan: Callable[[list[str]], str]


class Parts:
    """A table in files.

    Args:
        connection: The connection that reads them.
        name: Name under which Arrow files are registered.
        table: The files.
        folder: Folder for the copy of a CSV that DuckDB can't read as it is.

    Raises:
        UserError: When one is missing, or is not what its name says.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, name: str, table: LogFiles, folder: Path
    ) -> None:
        self._connection, self._table = connection, table
        kind = table_format(table.path)
        files = matching_files(table.path)
        if kind == "csv":
            self._parts = list(_csv_parts(connection, table, files, folder))
        elif kind == "arrow":
            self._parts = list(_arrow_parts(connection, name, files))
        else:
            self._parts = list(_parquet_parts(connection, files))

    def known(self) -> dict[str, str]:
        """The columns, each with its type, or one of its types where the values decide."""
        found: dict[str, str] = {}
        for part in self._parts:
            for name, kind in part.types.items():
                if found.get(name, NOTHING) == NOTHING:
                    found[name] = kind
        return found

    def select(self, names: list[str]) -> tuple[str, dict[str, str]]:
        """What stands after FROM to read columns, and the type of each.

        A column is FLOAT to its checks, though its values are held in 64 bits, where those of a
        part may have lost digits in 32.

        Raises:
            UserError: When a file lacks one, or no type holds its values in all files.
        """
        types = {name: self._type(name) for name in names}
        if len(self._parts) == 1 and not self._table.nulls:
            return self._parts[0].scan(names), types
        lossy = {name: "FLOAT" for name in names if types[name] == "DOUBLE" and self._lossy(name)}
        selects = []
        for part in self._parts:
            values = [
                f"{self._value(part, name, types[name])} AS {sql_name(name)}" for name in names
            ]
            selects.append(f"SELECT {', '.join(values)} FROM {part.scan(names)}")
        return f"({' UNION ALL '.join(selects)})", types | lossy

    def _value(self, part: Part, name: str, wanted: str) -> str:
        value = sql_name(name)
        if self._table.nulls and part.types[name] == "VARCHAR":
            value = unless_text(value, self._table.nulls)
        return value if part.types[name] == wanted else _cast(value, part.types[name], wanted)

    def _type(self, name: str) -> str:
        first = next(part for part in self._parts if name in part.types)
        for part in self._parts:
            if name not in part.types:
                raise UserError(f"{part.first}: no column '{name}', which {first.first} has")
            if part.types[name].startswith("Arrow's "):
                raise UserError(
                    f"{part.first}: column '{name}' is of {part.types[name]}, which can't be "
                    "read; write it as a number, a text or a timestamp"
                )
        kinds = list(dict.fromkeys(p.types[name] for p in self._parts))
        filled = [kind for kind in kinds if kind != NOTHING]
        if len(filled) > 1 and not _candidates(filled):
            # As pandas writes a column of texts in a month that has none: as floats, all NaN.
            filled = list(dict.fromkeys(p.types[name] for p in self._parts if self._any(p, name)))
        if len(filled) <= 1:
            return filled[0] if filled else NOTHING
        for wanted in _candidates(filled):
            if all(self._holds(part, name, wanted) for part in self._parts):
                return wanted
        first = next(part for part in self._parts if part.types[name] == filled[0])
        other = next(part for part in self._parts if part.types[name] == filled[1])
        raise UserError(
            f"{other.first}: column '{name}' is of the type {filled[1]}, and {filled[0]} in "
            f"{first.first}; no type holds the values of both: write it in one type"
        )

    def _holds(self, part: Part, name: str, wanted: str) -> bool:
        """Whether each value of the part comes back from the wanted type as it was."""
        kind, value = part.types[name], sql_name(name)
        if kind in (wanted, NOTHING):
            return True
        if kind == "FLOAT" and wanted != "DOUBLE" and self._lossy(name):
            return False
        back = _cast(value, kind, wanted, attempt="TRY_CAST")
        if kind == "TIMESTAMP_S":
            # DuckDB has no cast from nanoseconds to seconds.
            back = f"TRY_CAST({back} AS TIMESTAMP)"
        back = f"TRY_CAST({back} AS {kind})"
        there = f"NOT {is_nan(value)}" if kind in _FLOATS else f"{value} IS NOT NULL"
        return not self._count(part, name, f"{there} AND {back} IS DISTINCT FROM {value}")

    def _any(self, part: Part, name: str) -> bool:
        """Whether a part has a value in a column."""
        kind, value = part.types[name], sql_name(name)
        if kind in (NOTHING, *_FLOATS):
            return kind != NOTHING and self._count(part, name, f"NOT {is_nan(value)}") > 0
        return self._count(part, name, f"{value} IS NOT NULL") > 0

    def _lossy(self, name: str) -> bool:
        """Whether a column has numbers in 32 bits that can stand for several whole numbers."""
        lost = f"NOT {is_nan(sql_name(name))} AND abs({sql_name(name)}) >= {EXACT['FLOAT']}"
        return any(
            part.types[name] == "FLOAT" and self._count(part, name, lost) > 0
            for part in self._parts
        )

    def _count(self, part: Part, name: str, condition: str) -> int:
        """The number of rows of a part that meet a condition on one column."""
        query = f"SELECT count(*) FILTER (WHERE {condition}) FROM {part.scan([name])}"
        try:
            return int(self._connection.execute(query).fetchall()[0][0])
        except duckdb.Error as error:
            raise UserError(f"{part.first}: {first_line(error)}") from error


def _cast(value: str, kind: str, wanted: str, attempt: str = "CAST") -> str:
    # NaN is how a float writes a missing value.
    if kind in _FLOATS and wanted not in _FLOATS:
        value = present(value, "float", null_texts=False)
    return f"{attempt}({value} AS {wanted})"


def _candidates(kinds: list[str]) -> list[str]:
    """Types that may hold the values of columns of several types, the plainest first."""
    decimals = [kind for kind in kinds if kind.startswith("DECIMAL")]
    numbers = [kind for kind in kinds if kind in (*_INTEGERS, *_FLOATS)]
    if len(decimals) + len(numbers) == len(kinds):
        scale = max((int(kind[:-1].split(",")[1]) for kind in decimals), default=0)
        found = ["BIGINT"] if numbers else []
        found += ["HUGEINT"] if not {"UBIGINT", "HUGEINT"}.isdisjoint(kinds) else []
        found += ["DOUBLE"] if not set(_FLOATS).isdisjoint(kinds) else []
        return found + ([f"DECIMAL(38,{scale})"] if decimals else [])
    if set(kinds) <= set(_STAMPS):
        return [*(["TIMESTAMP"] if "TIMESTAMP_NS" not in kinds else []), "TIMESTAMP_NS"]
    if set(kinds) <= set(_ZONED):
        return ["TIMESTAMPTZ_NS"]
    if all(kind == "VARCHAR" or kind.startswith("ENUM") for kind in kinds):
        return ["VARCHAR"]
    return []


def _parquet_parts(connection: duckdb.DuckDBPyConnection, files: list[Path]) -> Iterator[Part]:
    described = [(file, columns(connection, scan_parquet([file]), file)) for file in files]
    for file in files:
        # DuckDB would call the second one `name_1`.
        require_distinct(pq.read_schema(file).names, file)
    for _, group in groupby(described, key=lambda pair: sorted(pair[1].items())):
        of = list(group)
        scan = scan_parquet([file for file, _ in of])
        yield Part(of[0][0], of[0][1], lambda names, scan=scan: scan)  # type: ignore[misc]


def _csv_parts(
    connection: duckdb.DuckDBPyConnection, table: LogFiles, files: list[Path], folder: Path
) -> Iterator[Part]:
    for first, plain, separator, names in csv_files(files, table.text, folder):
        scan = read_csv(plain, table.text, separator, names)
        types = columns(connection, scan, first)
        yield Part(first, types, lambda names, scan=scan: scan)  # type: ignore[misc]


def _arrow_parts(
    connection: duckdb.DuckDBPyConnection, name: str, files: list[Path]
) -> Iterator[Part]:
    for index, file in enumerate(files):
        opened = ArrowFile(file)
        view = f"given {name} {index}"

        def scan(names: list[str], opened: ArrowFile = opened, view: str = view) -> str:
            connection.register(view, opened.reader(names))
            return sql_name(view)

        yield Part(file, opened.types(connection), scan)
