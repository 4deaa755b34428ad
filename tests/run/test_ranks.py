"""Several processes and machines: one run, the same result, and a clear end when one dies."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest
import yaml
from commands import SMALL, result, rows, unrolled

from unrolled.run.directory import RunDirectory

pytestmark = pytest.mark.process

TYPED = [
    *(a for a in SMALL if not a.startswith("trainer")), "data.train_size=201",
    "data.eval_batch_size=64", "trainer.max_steps=50", "trainer.log_every_n_steps=5",
]  # fmt: skip
"""A run of 10 epochs; 201 strings and 261 of the test are odd numbers for two processes."""


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multirun over two learning rates, each run of two processes; tests only read it."""
    folder = tmp_path_factory.mktemp("two")
    done = unrolled(
        "train", "-m", *TYPED, "trainer=ddp_cpu", "optimizer.lr=0.01,0.02", "hydra.sweep.dir=sweep",
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "sweep"


def test_both_processes_of_each_job_of_a_multirun_have_the_jobs_config(two_runs: Path) -> None:
    assert [p.name for p in two_runs.parent.iterdir()] == ["sweep"]
    runs = [RunDirectory(two_runs / name) for name in ("0", "1")]
    assert sorted(p.name for p in two_runs.glob("[0-9]*")) == ["0", "1"]
    assert [run.config()["optimizer"]["lr"] for run in runs] == [0.01, 0.02]
    for run in runs:
        told = re.findall(
            r"rank (\d) INFO unrolled: config (\w+)", (run.path / "train.log").read_text()
        )
        assert sorted(told) == [("0", run.config_hash()), ("1", run.config_hash())]
        assert len(list((run.path / "wandb").glob("offline-run-*"))) == 1
    assert result(runs[0].path) != result(runs[1].path)


def test_two_processes_count_every_string_once_and_begin_as_one(
    two_runs: Path, tmp_path: Path
) -> None:
    scores = result(two_runs / "0")
    assert scores["test/sequences"]["value"] == 2**9 - 201 - 50 == 261
    assert scores["test/mistakes"]["trivial"] == pytest.approx(
        261 * scores["test/error"]["trivial"]
    )
    assert json.loads((two_runs / "0" / "environment.json").read_text())["processes"] == 2
    file = two_runs / "0" / "predictions" / "test.parquet"
    assert len(duckdb.sql(f"SELECT * FROM '{file}'").fetchall()) == 261
    one = unrolled(
        "train", *TYPED, "trainer=cpu", "optimizer.lr=0.01", "logger=none", "run_dir=one",
        cwd=tmp_path,
    )  # fmt: skip
    assert one.returncode == 0, one.stderr
    # Sums over two processes are rounded otherwise, which many steps at this rate make much of: how
    # close the results are is a matter of tests/tasks/test_several_processes.py.
    first = [rows(run)[:2] for run in (two_runs / "0", tmp_path / "one")]
    assert [row["step"] for row in first[0]] == ["5", "10"]
    for two, alone in zip(*first, strict=True):
        of_two = {name: float(value) for name, value in two.items() if value}
        assert {"train/loss", "val/loss", "val/error"} < set(of_two)
        assert of_two == pytest.approx({n: float(v) for n, v in alone.items() if v}, rel=1e-6)
    assert result(tmp_path / "one")["test/sequences"]["value"] == 261


def processes(run: Path) -> dict[int, int]:
    """The processes that work on a run, by rank."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            if b"unrolled.run.work" in words and str(run).encode() in words:
                rank = re.search(rb"\0RANK=(\d+)\0", (path / "environ").read_bytes())
                found[int(rank[1]) if rank else 0] = int(path.name)
        except OSError:
            continue
    return found


def wait_for_step(run: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        logged = rows(run) if (run / "metrics.csv").exists() else []
        if logged and int(logged[-1]["step"]) >= step:
            return
        time.sleep(0.02)
    raise AssertionError("the run did not get there")


def start(*typed: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "unrolled.cli", "train", *typed, "logger=none"], cwd=cwd, text=True,
        env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_killed_process_ends_the_run_within_seconds_and_is_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(
        *TYPED, "trainer=ddp_cpu", "trainer.max_steps=40000", "run_dir=run", cwd=tmp_path
    )
    wait_for_step(run, 6)
    os.kill(processes(run)[1], signal.SIGKILL)
    killed = time.monotonic()
    _, told = process.communicate(timeout=60)
    assert time.monotonic() - killed < 30
    assert process.returncode == 1
    assert processes(run) == {}
    error = "process 1 of 2 was killed by SIGKILL (out of memory?)"
    assert told.splitlines()[0] == f"error: {error}"
    assert "Traceback" not in told
    status = RunDirectory(run).status()
    assert (status["state"], status["error"]) == ("failed", error)


def test_machines_that_slurm_starts_make_one_run_and_go_on_after_a_death(
    two_runs: Path, tmp_path: Path
) -> None:
    if "UNROLLED_LARGE_TESTS" not in os.environ:
        pytest.skip("takes half a minute; set UNROLLED_LARGE_TESTS to run it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = tmp_path / "run"
    typed = [*TYPED, "trainer=multi_node", "trainer.accelerator=cpu", "trainer.devices=1",
             "optimizer.lr=0.01", "restarts=1", "run_dir=run"]  # fmt: skip
    slurm = {"SLURM_JOB_ID": "20000", "SLURM_STEP_ID": "0", "SLURM_NNODES": "2",
             "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_JOB_NAME": "sequences",
             "SLURM_JOB_NODELIST": "localhost", "SLURM_LOCALID": "0",
             "MASTER_PORT": str(port)}  # fmt: skip
    second, first = (
        start(*typed, cwd=tmp_path, env={**slurm, "SLURM_NODEID": number, "SLURM_PROCID": number})
        for number in "10"
    )
    wait_for_step(run, 10)
    os.kill(processes(run)[1], signal.SIGKILL)
    told = [process.communicate(timeout=120) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], told
    assert "test/error" in told[0][0]
    assert "test/error" not in told[1][0]
    assert "waiting for the first machine to make" in told[1][0]
    log = (run / "train.log").read_text()
    assert "failed (exitcode: -9)" in log
    assert sorted(re.findall(r"rank (\d) INFO unrolled: config", log)) == ["0", "0", "1", "1"]
    assert (run / "metrics.csv").read_text() == (two_runs / "0" / "metrics.csv").read_text()
    assert result(run) == result(two_runs / "0")
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["trainer"]["num_nodes"] == 2
