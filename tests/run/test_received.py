"""A run directory that somebody else wrote reads and writes nothing that its user did not ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from unrolled.errors import UserError
from unrolled.run.allowed import QUERY, allow, require_trusted_sources
from unrolled.run.evaluate import evaluate
from unrolled.run.overrides import read_command_line
from unrolled.run.session import train


@pytest.fixture
def with_query(tmp_path: Path) -> Path:
    """A run whose config asks for another's files."""
    source = {"_target_": "unrolled.data.log.EventLog", "query": "SELECT * FROM '/etc/passwd'"}
    config = {"data": {"source": source}, "trainer": {}}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "run"


def test_the_query_of_a_run_is_run_only_where_that_is_allowed(
    with_query: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(QUERY, raising=False)
    said = r"data\.source\.query would be run.*SELECT \* FROM '/etc/passwd'.*--allow-query"
    with pytest.raises(UserError, match=said):
        evaluate(with_query, [])
    with pytest.raises(UserError, match=said):
        train([f"resume={with_query}"], "")
    assert read_command_line(["--allow-query", f"resume={with_query}"]).allow_query
    monkeypatch.setenv(QUERY, "0")
    allow([], query=True)
    with pytest.raises(UserError, match="no checkpoint yet"):
        evaluate(with_query, [])


@pytest.mark.parametrize(
    "data",
    [
        {"source": {"path": "s3://bucket/log.parquet"}},
        {"source": {"path": "log.parquet", "labels": "https://example.org/labels.csv"}},
        {"parts": [{"source": {"query": "SELECT 1"}}]},
    ],
)
def test_remote_paths_are_like_queries(data: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--allow-query"):
        require_trusted_sources(tmp_path, {"data": data})


def test_files_need_no_permission(tmp_path: Path) -> None:
    require_trusted_sources(tmp_path, {"data": {"source": {"path": "a.csv", "query": None}}})
