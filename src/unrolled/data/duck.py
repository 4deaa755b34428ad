"""DuckDB as it is used everywhere here: it installs nothing, and no statement changes its settings.

A query over `s3://` or a database would make DuckDB download an extension, which is a program, and
run it. An extension that the user has installed is loaded where a query asks for it; Parquet, JSON
and time zones are built in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import duckdb

_SAFE: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "allow_community_extensions": False,
    # A name after FROM is a table, never one of our Python variables.
    "python_enable_replacements": False,
}
_NEEDED = re.compile(r"required extension '(\w+)")


def connect(settings: Mapping[str, object] | None = None) -> duckdb.DuckDBPyConnection:
    """A database in memory.

    Args:
        settings: Further settings of DuckDB; none can be changed afterwards.
    """
    connection = duckdb.connect(config=_SAFE)
    for name, value in (settings or {}).items():
        connection.execute(f"SET {name} = $value", {"value": value})
    connection.execute("SET lock_configuration = true")
    return connection


def missing_extension(error: BaseException) -> str | None:
    """What to do about an extension that is not installed; None for any other error."""
    needed = _NEEDED.search(str(error))
    if needed is None:
        return None
    return (
        f"needs DuckDB's extension {needed[1]}, which is not installed; nothing is installed "
        f"unasked: python -c \"import duckdb; duckdb.sql('INSTALL {needed[1]}')\""
    )
