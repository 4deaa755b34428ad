"""Queries as a log: whether they read the table `log`, and what they give."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb

from unrolled.data.duck import connect
from unrolled.data.files import LogFiles
from unrolled.data.parts import Parts
from unrolled.data.tables import first_line, one_row, require_query, table_format
from unrolled.errors import UserError

LOG = "log"
"""The name by which a query reads the files of `data.source.path`, or new files in their place."""


def reads_log(query: str) -> bool:
    """Whether a query reads the table `log`.

    Raises:
        UserError: When it is not a single query.
    """
    require_query(query)
    with connect() as connection:
        text = one_row(connection, "SELECT json_serialize_sql($query)", {"query": query})[0]
    nodes = list(_nodes(json.loads(text)))
    # WITH log AS (...) is the query's own.
    own = {entry["key"].lower() for n in nodes if "cte_map" in n for entry in n["cte_map"]["map"]}
    read = {
        node["table_name"].lower()
        for node in nodes
        if node.get("type") == "BASE_TABLE" and not node["schema_name"]
    }
    return LOG in read - own


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def give_log(connection: duckdb.DuckDBPyConnection, files: LogFiles, folder: Path) -> None:
    """Make the table `log` of files.

    Args:
        connection: The connection that runs the query.
        files: Files in any format that a log can have.
        folder: Folder for the copy of a CSV that DuckDB can't read as it is.

    Raises:
        UserError: When they can't be read.
    """
    parts = Parts(connection, LOG, files, folder)
    names = [name for name, kind in parts.known().items() if not kind.startswith("Arrow's ")]
    scanned, _ = parts.select(names)
    # Arrow's batches can be read once, and a query may read its log twice.
    kind = "TABLE" if table_format(files.path) == "arrow" else "VIEW"
    connection.execute(f"CREATE TEMP {kind} {LOG} AS SELECT * FROM {scanned}")


def query_digest(query: str, files: LogFiles | None = None) -> str:
    """A hash of the rows that a query gives, whatever their order.

    Args:
        query: In DuckDB's SQL.
        files: The files that it reads as the table `log`.

    Raises:
        UserError: When the query can't be run, or is more than a query.
    """
    require_query(query)
    with connect() as connection, tempfile.TemporaryDirectory() as folder:
        try:
            if files is not None:
                give_log(connection, files, Path(folder))
            return str(
                one_row(connection, f"SELECT count(*), sum(hash(q)::HUGEINT) FROM ({query}) AS q")
            )
        except duckdb.Error as error:
            raise UserError(f"data.source.query: {first_line(error)}") from error
