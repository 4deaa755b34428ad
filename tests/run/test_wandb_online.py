"""W&B's real client against a stand-in of its server: the history of a run that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unrolled.run.metrics_csv import MetricsCSV
from unrolled.run.wandb_files import last_step
from unrolled.run.wandb_logger import WandbLogger, wandb_logger
from wandb_server import WandbServer


def row_of(step: int) -> dict[str, float]:
    return {"train/loss": 1 / step} | ({"val/loss": 0.75} if step % 2 == 0 else {})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with WandbServer().running() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL", "1")
        for name in ("WANDB_RUN_ID", "WANDB_SWEEP_ID"):
            monkeypatch.delenv(name, raising=False)
        yield server
    assert "RunResumeStatus" not in server.unknown


def loggers_in(folder: Path, mode: str, **options: Any) -> list[Any]:
    logger = wandb_logger(folder, {"seed": 1, "model": {"size": 9.0}}, mode=mode, **options)  # type: ignore[arg-type]
    assert isinstance(logger, WandbLogger)
    return [MetricsCSV(folder), logger]


def log(loggers: list[Any], step: int) -> None:
    for logger in loggers:
        logger.log_metrics(row_of(step), step)


def part(folder: Path, mode: str, *, first: int, last: int, **options: Any) -> WandbLogger:
    """A part of a run that saves where it ends, except for its test."""
    loggers = loggers_in(folder, mode, **options)
    loggers[0].keep(first - 1)
    loggers[1].forget_after(first - 1)
    for step in range(first, last + 1):
        log(loggers, step)
    for logger in loggers:
        logger.finalize("success")
        logger.log_metrics({"test/loss": 0.5}, last)
    loggers[1].end()
    assert not loggers[1].broken
    return loggers[1]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def history(server: WandbServer, run: str) -> list[tuple[int, dict[str, float]]]:
    return [
        (row["_step"], {k: v for k, v in row.items() if k.startswith(("train/l", "val/"))})
        for row in server.runs[run].history
    ]


def rows(first: int, last: int) -> list[tuple[int, dict[str, float]]]:
    return [(step, row_of(step)) for step in range(first, last + 1)]


def core() -> int:
    """The process id of W&B's process."""
    from wandb.sdk import wandb_setup

    pid: int = wandb_setup.singleton()._connection._proc._process.pid  # type: ignore[union-attr]
    return pid


def test_a_killed_run_goes_on_as_the_same_run_with_every_row_once(
    tmp_path: Path, server: WandbServer
) -> None:
    loggers = loggers_in(tmp_path, "online", project="p", group="g")
    for step in (1, 2, 3):
        log(loggers, step)
        if step == 2:
            for logger in loggers:
                logger.save()
    (run,) = server.runs.values()
    # Step 3 has no checkpoint; its row is still to come.
    until(lambda: len(run.history) == 2)
    os.kill(core(), signal.SIGKILL)
    loggers[1].end()
    assert run.state == "running"
    # Elsewhere the project is another; the run stays where it is.
    part(tmp_path, "online", first=3, last=4, project="q")
    assert list(server.runs.values()) == [run]
    assert history(server, run.id) == rows(1, 4)
    assert (run.project, run.state, run.exitcode) == ("p", "finished", 0)
    assert run.config == {"seed": 1, "model": {"size": 9}}
    assert run.summary["test/loss"] == 0.5


def test_rows_that_the_killed_process_did_not_send_are_sent_by_the_next(
    tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as never:
        never.setenv("WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL", "600")
        loggers = loggers_in(tmp_path, "online")
        for step in (1, 2):
            log(loggers, step)
        for logger in loggers:
            logger.save()
        os.kill(core(), signal.SIGKILL)
        loggers[1].end()
    (run,) = server.runs.values()
    assert run.history == []
    part(tmp_path, "online", first=3, last=4)
    assert history(server, run.id) == rows(1, 4)


@pytest.mark.parametrize("killed", [False, True], ids=["ended", "killed"])
def test_wandb_sync_sends_an_offline_run_that_was_resumed(
    killed: bool, tmp_path: Path, server: WandbServer
) -> None:
    loggers = loggers_in(tmp_path, "offline", project="p")
    # More than W&B's process keeps to itself before it writes.
    first = list(range(1, 500 if killed else 3))
    for step in first:
        log(loggers, step)
    for logger in loggers:
        logger.save()
    if killed:
        until(lambda: last_step(tmp_path) > 0)
        os.kill(core(), signal.SIGKILL)
    loggers[1].end()
    written = last_step(tmp_path)
    assert (written < first[-1]) == killed
    end = first[-1] + 2
    # The last step of the first part has no checkpoint.
    logger = part(tmp_path, "offline", first=first[-1], last=end, project="p")
    parts = sorted(tmp_path.glob("wandb/offline-run-*"))
    assert len(parts) == 2
    assert server.runs == {}
    # One after the other: `wandb sync` leaves the others out where one ends in half a record.
    for path in parts:
        done = subprocess.run(
            ["wandb", "sync", str(path)], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
    (run,) = server.runs.values()
    assert (run.id, run.project) == (logger.run.id, "p")
    assert history(server, run.id) == rows(1, end)
    assert run.config == {"seed": 1, "model": {"size": 9}}
    assert run.summary["test/loss"] == 0.5
    assert run.state == "finished"
