"""Kill a sweep, engine and workers, at random moments until it is through; then compare.

    python benchmarks/sweep_kills.py [KILLS] [TRIALS]

A sweep of small bitcount runs is started with two workers. KILLS times it is killed by SIGKILL
after a random time, in turn the engine with its workers, all processes below it too, and only the
servers from which the runs are forked; and then started again by the same command. At the end there
have to be TRIALS finished trials, none twice, none lost. Each of them is then run alone, the first
by the command in its run directory, the others in forked processes, and has to have the same
weights, optimizer states and logged numbers to the last bit.
"""

from __future__ import annotations

import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

# As that of all trials of a sweep: sums in another order have other last digits.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from chaos import differences, outcome
from forked import create, work_on

from unrolled.run.directory import RunDirectory
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
  trainer.max_steps: {value: 3000}
  test: {value: false}
  model: {values: [lstm, gru]}
  optimizer.lr: {distribution: log_uniform_values, min: 0.001, max: 0.03}
"""


def main(kills: int, trials: int) -> int:
    folder = Path(tempfile.mkdtemp(prefix="sweep-kills-"))
    (folder / "kills.yaml").write_text(SWEEP)
    rng = random.Random(0)
    command = [sys.executable, "-m", "unrolled.cli", "sweep", "kills.yaml", "--workers", "2"]
    command += ["--trials", str(trials)]
    sweep = folder / "runs" / "sweeps" / "kills"
    for number in range(kills):
        engine = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        time.sleep(rng.uniform(4, 16))
        servers = [pid for pid, depth in descendants(engine.pid).items() if depth == 2]
        if number % 3 == 2:
            # New processes do the work then.
            kill(*servers)
            time.sleep(rng.uniform(1, 10))
        assert engine.poll() is None, "the sweep was over before it was killed: more trials"
        tree = descendants(engine.pid)
        victims = [pid for pid, depth in tree.items() if depth < 2 or number % 3 == 1]
        kill(engine.pid, *victims)
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
    for number, trial in enumerate(found):
        alone = run_alone(sweep / trial.id, folder / "alone" / trial.id, forked=number > 0)
        wrong = differences(outcome(RunDirectory(sweep / trial.id)), outcome(alone))
        same += not wrong
        if wrong:
            print(f"{trial.id} differs: {wrong[:4]}")
    print(f"{same} of {trials} are bit-identical to the same trial run alone")
    return int(same != trials)


def run_alone(trial: Path, folder: Path, *, forked: bool) -> RunDirectory:
    """Run a trial by its command, or what that would do in a forked process."""
    typed = shlex.split((trial / "command.txt").read_text())[3:]
    if forked:
        run = create(typed, folder)
        assert work_on(run) == [0]
        return run
    command = [sys.executable, "-m", "unrolled.cli", "train", *typed, f"run_dir={folder}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return RunDirectory(folder)


def read(sweep: Path) -> list:
    return SweepFolder(sweep).ledger().trials()


def descendants(pid: int) -> dict[int, int]:
    """The processes below one, with their depth: workers 1, their servers 2, runs 3 and more."""
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


def kill(*processes: int) -> None:
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:3]]
    kills, trials = [*given, *[10, 20][len(given) :]]
    sys.exit(main(kills, trials))
