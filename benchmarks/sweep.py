"""What a trial costs beside its training: `python benchmarks/sweep.py [TRIALS]`.

One worker runs small bitcount trials, first forked from its server (`unrolled.run.warm`), then each
in a new process. Told are the first trial, in whose time the server imports, and of the others the
best (other processes on the machine only make it longer) and the median: from the claim in the
ledger to the start of the work (run directory, process), from there to the first step (data,
model), the sum of these, and from the end of a run to the claim of the next trial, in which its
point is asked for and composed. And the memory of all processes below the worker: the server and a
trial, or only that.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from unrolled.sweep.folder import SweepFolder, open_sweep

SWEEP = """
program: train.py
method: random
metric: {name: val/loss, goal: minimize}
parameters:
  task: {value: bitcount}
  trainer: {value: cpu}
  logger: {value: none}
  trainer.max_steps: {value: 50}
  test: {value: false}
  optimizer.lr: {distribution: log_uniform_values, min: 0.001, max: 0.03}
"""
COLD = """
import sys
from pathlib import Path
from unrolled.sweep.devices import Devices
from unrolled.sweep.folder import SweepFolder
from unrolled.sweep.worker import Worker
sys.exit(Worker(SweepFolder(Path(sys.argv[1])), Devices.of_this_machine(), None).work())
"""
WAYS = {"forked": ["-m", "unrolled.sweep.worker"], "new processes": ["-c", COLD]}


def main(trials: int) -> None:
    os.chdir(tempfile.mkdtemp(prefix="sweep-overhead-"))
    Path("overhead.yaml").write_text(SWEEP)
    for way, worker in WAYS.items():
        folder = open_sweep(Path("overhead.yaml"), way.replace(" ", "-"), trials, [])
        process = subprocess.Popen([sys.executable, *worker, str(folder.path)])
        most = 0
        while process.poll() is None:
            most = max(most, memory(process.pid))
            time.sleep(0.2)
        print(f"{way:36}{'first':>8}{'best':>8}{'median':>8}   seconds")
        for name, seconds in spans(folder).items():
            best, median = min(seconds[1:]), statistics.median(seconds[1:])
            print(f"  {name:34}{seconds[0]:8.2f}{best:8.2f}{median:8.2f}")
        print(f"  memory below the worker, at most {most / 1e6:.0f} MB")


def spans(folder: SweepFolder) -> dict[str, list[float]]:
    """Seconds of each trial, by what they were spent on."""
    trials = folder.ledger().trials()
    status = [json.loads((folder.path / t.id / "status.json").read_text()) for t in trials]
    assert all(s["state"] == "finished" for s in status)
    both = list(zip(trials, status, strict=True))
    pairs = list(zip(trials[1:], status[:-1], strict=True))
    return {
        "claim to run directory": [s["created"] - t.started for t, s in both],
        "run directory to process at work": [s["started"] - s["created"] for _, s in both],
        "process at work to first step": [s["first_step"] - s["started"] for _, s in both],
        "claim to first step": [s["first_step"] - t.started for t, s in both],
        "end of a run to the next claim": [t.started - s["finished"] for t, s in pairs],
        "claim to the next claim": [
            new.started - old.started for old, new in itertools.pairwise(trials)
        ],
    }


def memory(worker: int) -> int:
    """Bytes of all processes below a worker; what several of them share is counted once."""
    total = 0
    for child in children(worker):
        try:
            lines = Path(f"/proc/{child}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
        total += memory(child)
    return total


def children(pid: int) -> list[int]:
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except OSError:
        return []


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
