"""A sweep as a user runs it, with workers that are killed."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import pytest
import yaml

from processes import is_running
from unrolled.run.directory import RunDirectory
from unrolled.sweep.devices import Lease
from unrolled.sweep.engine import make_console, show_status, sum_up
from unrolled.sweep.folder import open_sweep
from unrolled.sweep.trial import TrialProcess

pytestmark = pytest.mark.process

PARAMETERS: dict[str, Any] = {
    "task": {"value": "bitcount"},
    "trainer": {"value": "cpu"},
    "logger": {"value": "none"},
    "data.length": {"value": 9},
    "data.train_size": {"value": 200},
    "data.val_size": {"value": 50},
    "data.batch_size": {"value": 50},
    "trainer.max_steps": {"value": 12},
    "optimizer.lr": {"distribution": "log_uniform_values", "min": 0.001, "max": 0.03},
}
"""A bitcount run of a second: 4 steps an epoch."""


def write(folder: Path, parameters: dict[str, Any], **changes: Any) -> Path:
    content = {
        "program": "train.py",
        "method": "random",
        "metric": {"name": "val/loss", "goal": "minimize"},
        "parameters": {**PARAMETERS, **parameters},
        **changes,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "unrolled.cli", *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=280,
    )  # fmt: skip


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_worker_is_killed_and_the_sweep_joined_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # The first takes long enough to be killed in the middle.
    steps = {"trainer.max_steps": {"values": [600, 10, 11, 12]}, "test": {"value": False}}
    path = write(tmp_path, {**steps, "optimizer.lr": {"value": 0.01}}, method="grid")
    sweep = open_sweep(path, None, None, [])
    module = ["-m", "unrolled.sweep.worker", str(sweep.path)]
    worker = subprocess.Popen([sys.executable, *module])
    try:
        wait_for(lambda: bool(list(sweep.path.glob("*/checkpoints/last.ckpt"))))
        (server,) = children(worker.pid)
        (forked,) = children(server)
    finally:
        worker.kill()
        worker.wait()
    (first,) = (config.parent for config in sweep.path.glob("*/config.yaml"))
    # The kernel asks the runs to stop when their workers die; they save where they are.
    status = first / "status.json"
    wait_for(lambda: json.loads(status.read_text())["state"] in ("interrupted", "finished"))
    steps_before = json.loads(status.read_text()).get("steps")
    assert 0 < steps_before < 600
    wait_for(lambda: not is_running(server) and not is_running(forked))

    done = command("sweep", "tiny.yaml", "--workers", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr + (sweep.path / "workers.log").read_text()
    trials = sweep.ledger().trials()
    assert [(t.state, t.error) for t in trials] == [("finished", None)] * 4
    directories = {p.parent.name for p in sweep.path.glob("*/config.yaml")}
    assert directories == {t.id for t in trials}
    assert "4 of 4 trials, 4 finished, best val/loss" in done.stdout
    assert (sweep.path / "summary" / "trials.csv").is_file()

    # What was killed is bit for bit what the command of the trial gives by itself.
    typed = (first / "command.txt").read_text().split()[3:]
    alone = command("train", *typed, "run_dir=alone", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert rows(first) == rows(tmp_path / "alone")

    show_status(sweep)
    assert capsys.readouterr().out.startswith("4 of 4 trials, 4 finished, best val/loss")


def test_trials_are_chosen_by_the_part_that_chose_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    apart = {
        "data.hpo_val": {"value": 0.4},
        "test": {"value": False},
        "optimizer.lr": {"values": [0.001, 0.02]},
    }
    metric = {"name": "hpo_val/loss", "goal": "minimize"}
    sweep = open_sweep(write(tmp_path, apart, method="grid", metric=metric), None, None, [])
    ledger = sweep.ledger()
    while claim := ledger.claim():
        TrialProcess(sweep, ledger, claim.trial, lambda: False, forked.SERVER).work(Lease([], []))
        claim.release()
    assert sum_up(sweep, ledger, make_console()) == 0
    with (sweep.path / "summary" / "trials.csv").open(newline="") as file:
        trials = list(csv.DictReader(file))
    assert [trial["state"] for trial in trials] == ["finished"] * 2
    for trial in trials:
        run = RunDirectory(sweep.path / trial["trial"])
        scores = run.read_json("metrics.json")["metrics"]
        assert float(trial["hpo_val/loss"]) == scores["hpo_val/loss"]["value"]
        assert scores["hpo_val/sequences"]["value"] == 20
        logged = [row for row in rows(run.path) if row["val/loss"]]
        assert {row["val/sequences"] for row in logged} == {"30.0"}
        assert float(trial["val/loss"]) == min(float(row["val/loss"]) for row in logged)
    first, second = (float(trial["hpo_val/loss"]) for trial in trials)
    assert first < second
    told = capsys.readouterr().out
    assert (
        f"2 of 2 trials, 2 finished, best hpo_val/loss {first:.5g} ({trials[0]['trial']})" in told
    )
    assert f"optimizer.lr={trials[0]['optimizer.lr']}" in told.partition("best: ")[2]
    assert (sweep.path / "summary" / "slices.png").is_file()
