"""The sweep file as it is, W&B's real client, and our runs as its trials."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from commands import ROOT, SMALL, unrolled

from unrolled.run.directory import RunDirectory
from unrolled.run.wandb_run import WandbRun
from wandb_server import ENTITY, Run, WandbServer

SWEEP = ROOT / "sweeps" / "bitcount.yaml"
SIZE = dict(text.split("=") for text in SMALL if not text.startswith(("task=", "trainer=")))

pytestmark = pytest.mark.process


class User:
    """Somebody who is logged in to a server, in a folder with train.py.

    Args:
        server: The server.
        folder: The folder; nothing is in it yet.
    """

    def __init__(self, server: WandbServer, folder: Path) -> None:
        shutil.copy(ROOT / "train.py", folder)
        self.server, self.folder = server, folder
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("WANDB_")},
            "WANDB_BASE_URL": server.url,
            "WANDB_API_KEY": "0" * 40,
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_MODE": "online",
        }

    def wandb(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["wandb", *arguments], cwd=self.folder, env=self.env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def sweep(self) -> str:
        """Make the sweep; how an agent is to call it."""
        creates = self.wandb("sweep", "--project", "counting", str(SWEEP))
        told, _ = creates.communicate(timeout=60)
        assert creates.returncode == 0, told
        (name,) = self.server.sweeps
        assert f"wandb agent {ENTITY}/counting/{name}" in told
        return f"{ENTITY}/counting/{name}"

    def trials(self) -> dict[str, RunDirectory]:
        """The runs in the folder, by W&B's id."""
        found = [RunDirectory(path) for path in self.folder.glob("runs/bitcount/*")]
        return {WandbRun.of(run.path).id: run for run in found}


def ends(agent: subprocess.Popen[str]) -> str:
    told, _ = agent.communicate(timeout=240)
    assert agent.returncode == 0, told
    assert "Traceback" not in told
    return told


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    with WandbServer(
        extra={"trainer": "cpu", "test": False, "data.hpo_val": 0.4, **SIZE}
    ).running() as server:
        yield User(server, tmp_path)


def same_history(run: Run, directory: RunDirectory) -> None:
    """W&B has the rows of metrics.csv, each once and in order; the end is in the summary."""
    with (directory.path / "metrics.csv").open(newline="") as file:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    names = {name for row in rows for name in row} - {"step"}
    last = ("test/", "hpo_val/")
    logged = [row for row in rows if not any(name.startswith(last) for name in row)]
    assert [
        {"step": row["_step"], **{k: v for k, v in row.items() if k in names}}
        for row in run.history
    ] == logged
    newest = {name: value for row in rows for name, value in row.items() if name != "step"}
    assert {name: run.summary[name] for name in newest} == newest


def test_four_trials_by_two_agents_are_runs_of_ours_with_config_history_and_summary(
    user: User,
) -> None:
    name = user.sweep()
    agents = [user.wandb("agent", "--count", "2", name) for _ in range(2)]
    told = "".join(map(ends, agents))
    assert "--" not in "".join(line for line in told.splitlines() if "About to run" in line)
    (sweep,) = user.server.sweeps.values()
    trials = user.trials()
    assert len(sweep.dealt) == 4
    assert set(trials) == set(user.server.runs) == set(sweep.dealt)
    space = yaml.safe_load(SWEEP.read_text())["parameters"]
    for trial, parameters in sweep.dealt.items():
        run, directory = user.server.runs[trial], trials[trial]
        assert (run.state, run.exitcode, run.sweep, run.project) == (
            "finished", 0, sweep.id, "counting",
        )  # fmt: skip
        assert set(space) <= set(parameters)
        config = directory.config()
        assert config["optimizer"]["lr"] == parameters["optimizer.lr"]
        choice = yaml.safe_load((ROOT / f"conf/model/{parameters['model']}.yaml").read_text())
        assert config["model"]["_target_"] == choice["_target_"]
        assert directory.status()["state"] == "finished"
        # What the sweep has chosen, and all else by its section or by dotted names.
        assert {k: run.config[k] for k in space} == {k: parameters[k] for k in space}
        assert run.config["model.hidden_size"] == config["model"]["hidden_size"] == 24
        assert run.config["optimizer"] == config["optimizer"]
        same_history(run, directory)
        # By which W&B's bayes may choose.
        scores = directory.read_json("metrics.json")["metrics"]
        assert run.summary["hpo_val/loss"] == scores["hpo_val/loss"]["value"]
    assert len({run.config["optimizer.lr"] for run in user.server.runs.values()}) == 4


def test_a_trial_of_two_processes_is_one_run_that_is_stopped_early_and_goes_on(user: User) -> None:
    if "UNROLLED_LARGE_TESTS" not in os.environ:
        pytest.skip("takes half a minute; set UNROLLED_LARGE_TESTS to run it")
    user.server.extra |= {
        "trainer": "ddp_cpu", "trainer.max_steps": 1_000_000, "scheduler": "constant",
        "data.length": 12, "data.train_size": 3000,
    }  # fmt: skip
    user.server.stops = lambda run: len(run.history) > 3
    user.env["WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL"] = "1"
    # Else it would need three of them to give up.
    user.env["WANDB_AGENT_MAX_INITIAL_FAILURES"] = "1"
    told = ends(user.wandb("agent", "--count", "1", user.sweep()))
    assert "Agent received command: stop" in told
    assert "failed runs" not in told
    ((name, run),) = user.server.runs.items()
    ((kept, directory),) = user.trials().items()
    status = directory.status()
    assert kept == name
    assert (status["state"], run.state, run.exitcode) == ("interrupted", "failed", 130)
    assert directory.read_json("environment.json")["processes"] == 2
    assert run.config["trainer"] == "ddp_cpu"
    assert run.config["trainer.devices"] == 2
    same_history(run, directory)
    done = unrolled(
        "train", f"resume={directory.path}", f"trainer.max_steps={status['steps'] + 6}",
        "trainer.devices=1", "trainer.strategy=auto", "test=true", cwd=user.folder, env=user.env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert user.server.runs == {name: run}
    assert (run.state, run.exitcode, run.project) == ("finished", 0, "counting")
    assert run.history[-1]["_step"] == status["steps"] + 6
    assert run.config["trainer"] == "ddp_cpu"
    assert run.config["trainer.devices"] == 1
    same_history(run, directory)
    scores = directory.read_json("metrics.json")["metrics"]
    assert run.summary["test/loss"] == scores["test/loss"]["value"]
