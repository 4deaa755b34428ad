"""A real SLURM on this machine: Debian's, with one node, started for these tests and ended by them.

Skipped where it is not installed: `apt-get install slurm-wlm munge`, and the extra `launchers`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import chaos
import forked
import pytest
from commands import SMALL
from slurm import Slurm, missing

from unrolled.run.directory import RunDirectory

pytestmark = [
    pytest.mark.process,
    # Five starts of torch, and the machine may be busy.
    pytest.mark.timeout(600),
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="of the extra launchers")
    # Not below pytest's own folder, whose path can be too long for a socket.
    with tempfile.TemporaryDirectory() as folder, Slurm(Path(folder)) as running:
        yield running


def started(slurm: Slurm, folder: Path, *typed: str) -> subprocess.Popen[str]:
    """`unrolled train ...` of which the caller waits for the end."""
    return subprocess.Popen(
        [sys.executable, "-m", "unrolled.cli", "train", *typed],
        cwd=folder, env=slurm.environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip


def until(condition: Callable[[], bool], seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.05)


def test_a_preempted_job_of_a_multirun_goes_on_and_equals_the_run_alone(
    slurm: Slurm, tmp_path: Path
) -> None:
    long = [*SMALL, "logger=none", "trainer.max_steps=300", "trainer.log_every_n_steps=50"]
    command = started(
        slurm, tmp_path, "-m", *long, "seed=1,2,3,4", "hydra.sweep.dir=sweep", "resume=auto",
        "hydra/launcher=submitit_slurm", "hydra.launcher.partition=patient",
    )  # fmt: skip
    sweep = tmp_path / "sweep"
    try:
        # Two at a time: the node has two cores.
        until(lambda: len(list(sweep.glob("*/checkpoints/last.ckpt"))) >= 2)
        slurm.command("sbatch", "--partition=urgent", "--output=/dev/null", "--wrap=sleep 1")
        told, _ = command.communicate(timeout=200)
    finally:
        command.kill()
    assert command.returncode == 0, told
    assert "4 of 4 runs finished" in told
    rows = [line.split("│")[1:5] for line in told.splitlines() if line.startswith("│ ")]
    assert [[cell.strip() for cell in row[:3]] for row in rows] == [
        [str(job), f"seed={job + 1}", "finished"] for job in range(4)
    ]
    restarts = {
        job["ArrayTaskId"]: int(job["Restarts"]) for job in slurm.jobs() if "ArrayTaskId" in job
    }
    assert sorted(restarts.values()) == [0, 0, 0, 1]
    preempted = RunDirectory(sweep / next(job for job in restarts if restarts[job]))
    log = (preempted.path / "train.log").read_text()
    assert "interrupted by SIGTERM" in log
    assert "Restored all states" in log
    alone = forked.create([*long, f"seed={int(preempted.path.name) + 1}"], tmp_path / "alone")
    assert forked.work_on(alone) == [0]
    assert chaos.differences(chaos.outcome(alone), chaos.outcome(preempted)) == []
