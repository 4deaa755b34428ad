"""DuckDB installs nothing, and no query changes how it works."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from unrolled.data.duck import connect
from unrolled.data.queries import query_digest
from unrolled.errors import UserError


def test_an_extension_is_never_installed_unasked() -> None:
    with connect() as connection:
        settings = dict(connection.execute("SELECT name, value FROM duckdb_settings()").fetchall())
    assert settings["autoinstall_known_extensions"] == "false"
    assert settings["allow_community_extensions"] == "false"
    assert settings["allow_unsigned_extensions"] == "false"


@pytest.mark.parametrize(
    ("query", "extension"),
    [
        ("SELECT * FROM 's3://bucket/log.parquet'", "httpfs"),
        ("SELECT * FROM read_csv('https://example.org/log.csv')", "httpfs"),
        ("SELECT * FROM sqlite_scan('log.db', 'log')", "sqlite_scanner"),
    ],
)
def test_a_query_that_needs_an_extension_says_how_to_install_it(query: str, extension: str) -> None:
    with pytest.raises(UserError, match=rf"needs DuckDB's extension {extension}.*INSTALL"):
        query_digest(query)


def test_what_is_built_in_goes_on_working(tmp_path: Path) -> None:
    (tmp_path / "log.json").write_text('{"a": 1}\n')
    with connect({"threads": 1, "TimeZone": "UTC"}) as connection:
        connection.execute(f"COPY (SELECT 2 AS a) TO '{tmp_path}/log.parquet' (FORMAT parquet)")
        rows = connection.execute(
            f"SELECT a FROM '{tmp_path}/log.parquet' UNION ALL SELECT a FROM "
            f"'{tmp_path}/log.json' ORDER BY a"
        ).fetchall()
        zone = "SELECT timezone('Europe/Berlin', TIMESTAMPTZ '2024-07-01 00:00:00+00')::VARCHAR"
        assert rows == [(1,), (2,)]
        assert connection.execute(zone).fetchall() == [("2024-07-01 02:00:00",)]


def test_settings_can_not_be_changed_and_our_variables_are_no_tables() -> None:
    secret = [1, 2, 3]
    with connect() as connection:
        with pytest.raises(duckdb.Error, match="locked"):
            connection.execute("SET autoinstall_known_extensions = true")
        with pytest.raises(duckdb.Error, match="secret does not exist"):
            connection.execute("SELECT * FROM secret")
    assert secret
