"""How long from the command to the first optimizer step, against importing torch and lightning.

    python benchmarks/startup.py [--rounds 5]

In turn: a Python that only imports torch and lightning, `python train.py task=bitcount` until its
first step is done, and the two helps. The ratio is taken within each round; the median counts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def seconds(command: list[str], cwd: Path) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=cwd, check=True, capture_output=True)
    return time.perf_counter() - start


def first_step(folder: Path) -> float:
    start = time.time()
    run = folder / "run"
    subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "task=bitcount", "trainer.max_steps=1",
         "test=false", f"run_dir={run}"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return json.loads((run / "status.json").read_text())["first_step"] - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("WANDB_MODE", "offline")
    times: dict[str, list[float]] = {"imports": [], "first step": [], "help": [], "train help": []}
    for index in range(rounds + 1):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            round_times = {
                "imports": seconds([sys.executable, "-c", "import torch, lightning"], folder),
                "first step": first_step(folder),
                "help": seconds([sys.executable, "-m", "unrolled.cli", "--help"], folder),
                "train help": seconds([sys.executable, str(ROOT / "train.py"), "--help"], folder),
            }
        if index:  # The first round warms the file cache.
            for what, value in round_times.items():
                times[what].append(value)
    for what, values in times.items():
        print(f"{what:>12}: median {statistics.median(values):.2f} s (min {min(values):.2f})")
    ratios = [a / b for a, b in zip(times["first step"], times["imports"], strict=True)]
    print(
        f"first step / imports: {statistics.median(ratios):.2f} "
        f"(min {min(ratios):.2f}, max {max(ratios):.2f}, {rounds} rounds)"
    )


if __name__ == "__main__":
    main()
