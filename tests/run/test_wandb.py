"""W&B breaks in every way it can; the run says so once and neither fails nor waits."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from commands import SMALL

from unrolled.run import wandb_logger as module
from unrolled.run.metrics_csv import MetricsCSV
from unrolled.run.wandb_logger import WandbLogger, wandb_logger
from unrolled.run.wandb_run import WandbRun


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    """What the user was told so far."""
    with caplog.at_level(logging.WARNING, logger="unrolled"):
        yield lambda: [r.message for r in caplog.records if r.name.startswith("unrolled")]


def logger_in(folder: Path, **options: Any) -> WandbLogger:
    folder.mkdir(exist_ok=True)
    options = {"mode": "offline", "seconds_to_finish": 2.0, **options}
    logger = wandb_logger(folder, {"seed": 1}, **options)
    assert isinstance(logger, WandbLogger)
    return logger


def core() -> int:
    """The process id of W&B's process."""
    from wandb.sdk import wandb_setup

    pid: int = wandb_setup.singleton()._connection._proc._process.pid  # type: ignore[union-attr]
    return pid


def inspect(*arguments: str) -> str:
    return subprocess.run(
        ["wandb", "leet", "inspect", *arguments], capture_output=True, text=True, check=True
    ).stdout


def history(folder: Path) -> list[dict[str, Any]]:
    """The rows in W&B's offline files, in the order of the files' times."""
    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        records = [json.loads(line) for line in inspect("--json", str(path)).splitlines()]
        found += [record["history"]["item"] for record in records if record["type"] == "history"]
    return found


def test_rows_of_a_step_are_one_and_a_resumed_run_lacks_none(tmp_path: Path, told: Any) -> None:
    def log(loggers: list[Any], step: int, **values: float) -> None:
        for logger in loggers:
            logger.log_metrics({k.replace("_", "/"): v for k, v in values.items()}, step)

    loggers = [MetricsCSV(tmp_path), logger_in(tmp_path)]
    log(loggers, 1, train_loss=1.0, epoch=0)
    log(loggers, 2, train_loss=0.5, epoch=0)
    log(loggers, 2, val_loss=0.75, epoch=0)
    for logger in loggers:
        logger.save()
    # Killed after the checkpoint and one more step: W&B's process has written nothing yet.
    log(loggers, 3, train_loss=1 / 3, epoch=1)
    os.kill(core(), signal.SIGKILL)
    logger.end()
    first = logger
    loggers = [MetricsCSV(tmp_path), logger_in(tmp_path)]
    loggers[0].keep(2)
    loggers[1].forget_after(2)
    log(loggers, 3, train_loss=1 / 3, epoch=1)
    log(loggers, 4, train_loss=0.25, epoch=1)
    for logger in loggers:
        logger.finalize("success")
    log(loggers, 4, test_loss=0.5, epoch=1)
    logger.end()
    rows = [{k: v for k, v in row.items() if "/" in k or k in ("_step", "epoch")}
            for row in history(tmp_path)]  # fmt: skip
    whole = [
        {"train/loss": 1.0, "epoch": 0},
        {"train/loss": 0.5, "val/loss": 0.75, "epoch": 0},
        {"train/loss": 1 / 3, "epoch": 1},
        {"train/loss": 0.25, "epoch": 1},
    ]
    assert rows == [
        {**row, "_step": n + 1, "trainer/global_step": n + 1} for n, row in enumerate(whole)
    ]
    shown = json.loads(inspect("--summary", "--json", str(Path(logger.run.dir).parent)))
    assert (shown["summary"]["test/loss"], shown["state"]) == (0.5, "finished")
    assert first.run.id == logger.run.id
    assert len(told()) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hanging"])
def test_a_process_of_wandb_that_dies_or_hangs_is_told_once_and_not_waited_for(
    number: int, tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS_TO_TAKE", 1.0)
    logger = logger_in(tmp_path)
    process = core()
    os.kill(process, number)
    time.sleep(0.2)
    began = time.monotonic()
    for step in range(1, 3000):
        logger.log_metrics({f"train/{i}": step / 7 for i in range(30)}, step)
        if step % 500 == 0:
            logger.save()
    logger.end()
    assert time.monotonic() - began < 12
    (message,) = told()
    assert message.startswith("W&B has stopped (")
    assert message.endswith("; the run goes on, its values are in metrics.csv")
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_server_that_takes_no_more_is_not_waited_for_at_the_end(
    tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logger_in(tmp_path)
    assert logger.run.settings.finish_timeout == 2.0
    assert logger.run.settings.finish_timeout_raises

    def finish(exit_code: int) -> None:
        raise TimeoutError("Timed out finishing run.")

    monkeypatch.setattr(logger.run, "finish", finish)
    logger.end()
    (message,) = told()
    assert "it did not finish in 2 s; `wandb sync " in message


def test_a_disk_without_room_for_the_files_of_wandb_is_told(tmp_path: Path, told: Any) -> None:
    logger = logger_in(tmp_path)
    resource.prlimit(core(), resource.RLIMIT_FSIZE, (20_000, 20_000))
    for step in range(1, 500):
        logger.log_metrics({f"train/{i}": step / 7 for i in range(30)}, step)
    logger.end()
    (message,) = told()
    assert "it could not write its file: file too large" in message


@pytest.mark.parametrize("answers", [False, True], ids=["silent", "refusing"])
def test_a_server_that_does_not_answer_makes_the_run_offline(
    answers: bool, tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if answers:
            server.close()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        began = time.monotonic()
        logger = logger_in(tmp_path, mode="online")
        logger.log_metrics({"train/loss": 1.0}, 1)
        logger.end()
        assert time.monotonic() - began < 12
    (message,) = told()
    assert message.startswith("W&B's server does not answer: the run is logged offline")
    assert [row["train/loss"] for row in history(tmp_path)] == [1.0]


class Greets(BaseHTTPRequestHandler):
    """A server that answers, but never a question."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        time.sleep(30)

    def log_message(self, *args: Any) -> None:
        pass


def test_a_server_that_does_not_open_the_run_makes_it_offline(
    tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Greets)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setattr(module, "SECONDS_TO_START", 2)
    try:
        logger = logger_in(tmp_path, mode="online")
    finally:
        server.shutdown()
        server.server_close()
    logger.log_metrics({"train/loss": 1.0}, 1)
    logger.end()
    (message,) = told()
    assert message.startswith("W&B did not start online (")
    assert message.endswith("): the run is logged offline; see `wandb sync`")
    assert [row["train/loss"] for row in history(tmp_path)] == [1.0]


def test_who_is_not_logged_in_is_told_and_not_asked(
    tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "logged_in", lambda: False)
    logger_in(tmp_path, mode="online").end()
    (message,) = told()
    assert message == "W&B: not logged in (`wandb login`): the run is logged offline"


def test_turned_off_there_is_no_run_and_what_goes_on_is_the_users(
    tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_logger(tmp_path, {}) is None
    assert not (tmp_path / "wandb").exists()
    # The old name of offline: W&B's step counts from what its file has, as in offline.
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    logger = wandb_logger(tmp_path, {}, project="mine")
    assert isinstance(logger, WandbLogger)
    logger.log_metrics({"train/loss": 1.0}, 1)
    logger.end()
    assert (WandbRun.of(tmp_path).project, WandbRun.of(tmp_path).entity) == ("mine", None)
    assert told() == []
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = wandb_logger(tmp_path, {}, project="other")
    assert isinstance(logger, WandbLogger)
    assert logger.last_step == 1
    assert logger.run.project == "mine"
    logger.end()
    assert told() == ["W&B: the run goes on in the project mine, where it began, not in other"]


def test_a_folder_that_cannot_be_made_leaves_the_run_without_wandb(
    tmp_path: Path, told: Any
) -> None:
    (tmp_path / "wandb").write_text("a file where the folder should be")
    assert wandb_logger(tmp_path, {}, mode="offline") is None
    (message,) = told()
    assert message.startswith("W&B did not start (")
    assert message.endswith("): the run goes on without it, its values are in metrics.csv")


def child(parent: int, name: str) -> int | None:
    """The process id of a child with this name."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            before, _, after = path.read_text().rpartition(")")
        except OSError:
            continue
        if int(after.split()[1]) == parent and before.partition("(")[2] == name:
            return int(path.parent.name)
    return None


@pytest.mark.process
def test_a_run_whose_wandb_is_killed_goes_on_to_its_end(tmp_path: Path) -> None:
    run = tmp_path / "run"
    typed = [*SMALL[:-2], "trainer.max_steps=600", "trainer.log_every_n_steps=3", "run_dir=run"]
    process = subprocess.Popen(
        [sys.executable, "-m", "unrolled.cli", "train", *typed],
        cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    while not (run / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.05)
    found = child(json.loads((run / "status.json").read_text())["process"], "wandb-core")
    assert found is not None
    os.kill(found, signal.SIGKILL)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert [line for line in stderr.splitlines() if line] == [
        "W&B has stopped (Connection lost); the run goes on, its values are in metrics.csv"
    ]
    assert json.loads((run / "status.json").read_text())["steps"] == 600
