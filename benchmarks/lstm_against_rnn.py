"""Does the LSTM learn faster than the RNN? The claim of lstm-play, at its sizes.

    python benchmarks/lstm_against_rnn.py [--seeds 5] [--jobs 2]

Updates until the squared error on 10,000 validation sequences is .1, with the tutorial's own
batches, rates and sizes: an LSTM of 2,049 parameters (batch 32, rate .2) and an RNN of 755 (batch
20, rate .02), three steps; looked at every 500 updates.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEVEL = 0.1
BATCH = {"seed1_lstm": 32, "seed1_rnn": 20}


def updates(experiment: str, seed: int) -> float:
    """Updates to reach the level; infinity when 140,000 do not."""
    with tempfile.TemporaryDirectory() as folder:
        typed = [
            f"experiment={experiment}", f"seed={seed}", "data.val_size=10000", "data.test_size=100",
            "trainer.max_epochs=-1", "trainer.max_steps=140000", "trainer.val_check_interval=500",
            "trainer.check_val_every_n_epoch=null", "logger=none", "test=false",
            "+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping",
            "+callbacks.stop.monitor=val/mse", f"+callbacks.stop.stopping_threshold={LEVEL}",
            "+callbacks.stop.patience=1000", f"run_dir={folder}/run",
        ]  # fmt: skip
        done = subprocess.run(
            [sys.executable, str(ROOT / "train.py"), *typed],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=folder, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        with (Path(folder) / "run" / "metrics.csv").open() as file:
            for row in csv.DictReader(file):
                if row.get("val/mse") and float(row["val/mse"]) <= LEVEL:
                    return int(row["step"])
    return float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    median = {}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for experiment in BATCH:
            counts = list(pool.map(lambda s, e=experiment: updates(e, s), range(arguments.seeds)))
            median[experiment] = statistics.median(counts)
            print(
                f"{experiment}: {', '.join(f'{c:,.0f}' for c in sorted(counts))} updates, "
                f"median {median[experiment]:,.0f} "
                f"({median[experiment] * BATCH[experiment]:,.0f} sequences)",
                flush=True,
            )
    ratio = median["seed1_rnn"] / median["seed1_lstm"]
    sequences = ratio * BATCH["seed1_rnn"] / BATCH["seed1_lstm"]
    print(f"RNN / LSTM: {ratio:.2f} in updates, {sequences:.2f} in sequences")


if __name__ == "__main__":
    main()
