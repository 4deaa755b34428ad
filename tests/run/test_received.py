"""A run directory that somebody else wrote makes no command read or write anything else."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from unrolled.errors import UserError
from unrolled.plain_files import to_append, written_beside
from unrolled.run.allowed import QUERY, allow, require_trusted_sources
from unrolled.run.directory import RunDirectory
from unrolled.run.evaluate import evaluate
from unrolled.run.metrics_csv import MetricsCSV
from unrolled.run.overrides import read_command_line
from unrolled.run.predict import predict, predict_one
from unrolled.run.session import train
from unrolled.sweep.folder import PLAN, SweepFolder


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


WITH_LINK = [
    "train.log", ".lock", "status.json", "metrics.csv", "metrics.json", "plots/learning_curves.png",
    "checkpoints/.last.ckpt.partial", "schema/store.json", "predictions/test.parquet",
    "wandb/run.json", ".failures/0.json",
]  # fmt: skip
COMMANDS: dict[str, Callable[[Path], object]] = {
    "evaluate": lambda run: evaluate(run, []),
    "predict": lambda run: predict_one(run, "01"),
    "resume": lambda run: train([f"resume={run}"], ""),
    "sweep": SweepFolder,
}


@pytest.fixture
def run_and_victim(tmp_path: Path) -> tuple[Path, Path]:
    """A run directory, and a file elsewhere that nobody may touch."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("trainer: {}\n")
    (tmp_path / "run" / PLAN).write_text("{}")
    (tmp_path / "victim").write_text("mine\n")
    return tmp_path / "run", tmp_path / "victim"


@pytest.mark.parametrize("name", WITH_LINK)
def test_a_link_out_of_a_run_is_refused_and_told(
    name: str, run_and_victim: tuple[Path, Path]
) -> None:
    run, victim = run_and_victim
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to("../victim" if "/" not in name else victim)
    for command in COMMANDS.values():
        with pytest.raises(UserError, match="lead out of it") as error:
            command(run)
        assert f"first {name} -> " in str(error.value)
    assert victim.read_text() == "mine\n"


def test_a_folder_that_is_a_link_and_a_pipe_are_refused(
    run_and_victim: tuple[Path, Path],
) -> None:
    run, victim = run_and_victim
    (run / "plots").symlink_to(victim.parent)
    os.mkfifo(run / "train.log")
    with pytest.raises(UserError, match="2 of its files lead out of it, first plots -> "):
        RunDirectory.open(run)


def test_links_from_one_file_of_a_run_to_another_are_no_harm(
    run_and_victim: tuple[Path, Path],
) -> None:
    run, _ = run_and_victim
    (run / "wandb" / "run-1").mkdir(parents=True)
    (run / "wandb" / "latest-run").symlink_to("run-1")
    linked = run.with_name("latest")
    linked.symlink_to(run)
    assert RunDirectory.open(linked).config() == {"trainer": {}}


def test_the_link_that_wandb_leaves_in_each_run_is_no_harm(
    run_and_victim: tuple[Path, Path],
) -> None:
    run, victim = run_and_victim
    logs = run / "wandb" / "offline-run-20261201_153802-e3a43f10" / "logs"
    logs.mkdir(parents=True)
    (logs / "debug-core.log").symlink_to(victim)
    RunDirectory.open(run)
    (logs / "debug-internal.log").symlink_to(victim)
    with pytest.raises(UserError, match="1 of its files lead out of it"):
        RunDirectory.open(run)


def test_a_file_that_is_shared_by_a_hard_link_is_not_written_through(
    run_and_victim: tuple[Path, Path],
) -> None:
    run, victim = run_and_victim
    for name in ("train.log", "status.json", "metrics.csv"):
        (run / name).hardlink_to(victim)
    with RunDirectory(run).log.open("a") as log:
        log.write("a line\n")
    RunDirectory(run).write("status.json", "{}")
    metrics = MetricsCSV(run)
    metrics.log_metrics({"loss": 1.0}, 0)
    metrics.save()
    assert victim.read_text() == "mine\n"
    assert (run / "train.log").read_text() == "mine\na line\n"
    assert (run / "status.json").read_text() == "{}"


def test_a_partial_file_that_is_a_link_is_replaced_and_not_followed(
    run_and_victim: tuple[Path, Path],
) -> None:
    run, victim = run_and_victim
    (run / ".weights.partial").symlink_to(victim)
    with written_beside(run / "weights", alone=True) as partial:
        assert partial.name == ".weights.partial"
        partial.write_text("new")
    assert victim.read_text() == "mine\n"
    assert sorted(f.name for f in run.iterdir()) == sorted(["config.yaml", PLAN, "weights"])
    (run / "train.log").symlink_to(victim)
    with pytest.raises(UserError, match="nothing is written there"):
        to_append(run / "train.log")


def test_what_can_not_be_written_leaves_the_file_before_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("before")
    with suppress(OSError), written_beside(tmp_path / "file") as partial:
        partial.write_text("half")
        raise OSError("full")
    assert [f.name for f in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "before"


@pytest.mark.parametrize(
    ("query", "allowed"),
    [("SELECT * FROM 'theirs.csv'", True), ("SELECT *, getenv('HOME') AS home FROM log", False)],
)
def test_a_query_needs_permission_for_new_files_only_where_it_is_run_on_them(
    query: str, allowed: bool, tmp_path: Path
) -> None:
    config = {"data": {"source": {"path": "new.csv", "query": query}}}
    if allowed:
        require_trusted_sources(tmp_path, config)
        return
    with pytest.raises(UserError, match=r"getenv.* --allow-query"):
        require_trusted_sources(tmp_path, config)


def test_prediction_by_a_received_query_needs_permission(tmp_path: Path) -> None:
    run = RunDirectory.create(
        {"data": {"source": {"path": "log.csv", "query": "SELECT * FROM log"}}},
        tmp_path / "run",
        "",
    )
    (tmp_path / "new.csv").write_text("a\n1\n")
    with pytest.raises(UserError, match="--allow-query"):
        predict(run.path, tmp_path / "new.csv", tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("text", [b"step,loss\n0,x\n", b"step,loss\n0,\xff\n", b"step\n0,1\n"])
def test_a_table_of_metrics_with_anything_but_numbers_is_told(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_bytes(text)
    with pytest.raises(UserError, match=r"metrics\.csv.*: is damaged"):
        MetricsCSV(tmp_path)
