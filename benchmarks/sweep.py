"""What a trial costs beside its training: `python benchmarks/sweep.py [TRIALS]`.

One worker runs small bitcount trials. The best of the trials is told (other processes on the
machine only make it longer), and the median: from the claim in the ledger to the start of the
process (composing, run directory), from there to the first step (imports, data, model), and from
the end of the run to the claim of the next trial.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
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
  trainer.max_steps: {value: 50}
  test: {value: false}
  optimizer.lr: {distribution: log_uniform_values, min: 0.001, max: 0.03}
"""


def main(trials: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="sweep-overhead-"))
    (folder / "overhead.yaml").write_text(SWEEP)
    command = [sys.executable, "-m", "unrolled.cli", "sweep", "overhead.yaml"]
    subprocess.run(
        [*command, "--trials", str(trials)], cwd=folder, check=True, stdout=subprocess.DEVNULL
    )
    sweep = folder / "runs" / "sweeps" / "overhead"
    found = SweepFolder(sweep).ledger().trials()
    status = [json.loads((sweep / t.id / "status.json").read_text()) for t in found]
    spans = {
        "claim to run directory": [
            s["created"] - t.started for t, s in zip(found, status, strict=True)
        ],
        "run directory to process at work": [s["started"] - s["created"] for s in status],
        "process at work to first step": [s["first_step"] - s["started"] for s in status],
        "end of a run to the next claim": [
            t.started - s["finished"] for t, s in zip(found[1:], status[:-1], strict=True)
        ],
    }
    for name, seconds in spans.items():
        print(f"{name:34} best {min(seconds):6.2f} s, median {statistics.median(seconds):6.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
