"""Kill a sweep, engine and workers, at random moments until it is through; then compare.

    python benchmarks/sweep_kills.py [KILLS] [TRIALS] [ALONE]

A sweep of small bitcount runs is started with two workers. KILLS times it is killed by SIGKILL
after a random time, engine and workers, every second time the runs themselves too, and started
again by the same command. At the end there have to be TRIALS finished trials, none twice, none
lost. ALONE of them (all by default) are then run by the command in their run directory, and have to
have logged the same numbers to the last digit.
"""

from __future__ import annotations

import csv
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from unrolled.sweep.folder import SweepFolder

SWEEP = """
program: train.py
method: random
metric: {name: val/loss, goal: minimize}
parameters:
  task: {value: bitcount}
  trainer: {value: cpu}
  logger: {value: none}
  data.length: {value: 9}
  data.train_size: {value: 200}
  data.val_size: {value: 50}
  data.batch_size: {value: 50}
  trainer.max_steps: {value: 600}
  test: {value: false}
  model: {values: [lstm, gru]}
  optimizer.lr: {distribution: log_uniform_values, min: 0.001, max: 0.03}
"""


def main(kills: int, trials: int, alone: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="sweep-kills-"))
    (folder / "kills.yaml").write_text(SWEEP)
    rng = random.Random(0)
    command = [sys.executable, "-m", "unrolled.cli", "sweep", "kills.yaml", "--workers", "2"]
    command += ["--trials", str(trials)]
    sweep = folder / "runs" / "sweeps" / "kills"
    for number in range(kills):
        engine = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        time.sleep(rng.uniform(4, 40))
        tree = descendants(engine.pid)
        victims = [pid for pid, depth in tree.items() if depth < 2 or number % 2]
        for pid in [engine.pid, *victims]:
            kill(pid)
        engine.wait()
        states = Counter(t.state for t in read(sweep)) if (sweep / "plan.json").exists() else {}
        print(f"kill {number + 1}: {len(victims) + 1} processes; {dict(states)}", flush=True)
    code = subprocess.run(command, cwd=folder, check=False).returncode
    found = read(sweep)
    directories = [path.parent.name for path in sweep.glob("*/config.yaml")]
    print(f"exit code {code}, {len(found)} trials, {len(directories)} run directories")
    print(Counter(t.state for t in found), f"{len({t.id for t in found})} ids")
    assert sorted(directories) == sorted(t.id for t in found)
    assert len({t.id for t in found}) == len(found) == trials
    assert all(t.state == "finished" for t in found)
    same = 0
    for trial in found[:alone]:
        typed = shlex.split((sweep / trial.id / "command.txt").read_text())[3:]
        subprocess.run(
            [sys.executable, "-m", "unrolled.cli", "train", *typed, f"run_dir=alone/{trial.id}"],
            cwd=folder, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        same += rows(sweep / trial.id) == rows(folder / "alone" / trial.id)
    print(f"{same} of {min(alone, trials)} are bit-identical to the same trial run alone")


def read(sweep: Path) -> list:
    return SweepFolder(sweep).ledger().trials()


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def descendants(pid: int) -> dict[int, int]:
    """The processes below one, with their depth: workers 1, runs 2 and more."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found: dict[int, int] = {}
    queue = [(child, 1) for child in children.get(pid, [])]
    while queue:
        child, depth = queue.pop()
        found[child] = depth
        queue += [(grandchild, depth + 1) for grandchild in children.get(child, [])]
    return found


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:4]]
    kills, trials, alone = [*given, *[10, 20, 20][len(given) :]]
    main(kills, trials, alone)
