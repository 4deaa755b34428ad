"""The command line called as a user calls it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SMALL = ["task=bitcount", "data.length=9", "data.train_size=200", "data.val_size=50",
         "data.batch_size=50", "trainer=cpu", "trainer.max_steps=12",
         "trainer.log_every_n_steps=3"]  # fmt: skip
"""A bitcount run of a second: 262 test strings, 4 steps an epoch."""


def unrolled(
    *arguments: str, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`unrolled ...` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "unrolled.cli", *arguments],
        cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def result(run: Path) -> dict[str, dict[str, float]]:
    """The metrics of metrics.json."""
    scores: dict[str, dict[str, float]] = json.loads((run / "metrics.json").read_text())["metrics"]
    return scores


def rows(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv."""
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))
