"""What a user should know of a finished run beside its numbers, in sentences."""

from __future__ import annotations

import csv
import math
from pathlib import Path

RISE = 0.1
"""The validation loss is clearly worse at the end if it is by this share of its lowest value."""
OF_THE_FALL = 0.02
"""And by this share of what it fell before: among answers that are nearly certain, a loss of 1e-5
that becomes 2e-5 says nothing."""
LAST = 3
"""Number of last validations that are looked at, so that a single bad one says nothing."""


def overfitting(metrics_csv: Path, monitor: str, mode: str) -> str | None:
    """A sentence where the validation loss rose clearly after its lowest value; else None.

    Args:
        metrics_csv: The metrics.csv of the run.
        monitor: The metric that chose the checkpoint.
        mode: `min` or `max`, which of it is better.
    """
    if not metrics_csv.exists():
        return None
    losses, chosen = _curve(metrics_csv, "val/loss"), _curve(metrics_csv, monitor)
    if len(losses) < 2 or not chosen:
        return None
    lowest_step, lowest = min(losses, key=lambda point: point[1])
    after = [loss for step, loss in losses if step > lowest_step][-LAST:]
    enough = max(RISE * abs(lowest), OF_THE_FALL * (losses[0][1] - lowest))
    if not after or min(after) - lowest <= enough:
        return None
    kept = (min if mode == "min" else max)(chosen, key=lambda point: point[1])[0]
    last_step, last = losses[-1]
    return (
        f"The model overfits: the validation loss was lowest at step {lowest_step:,} "
        f"({lowest:.4g}) and is {last:.4g} at the end (step {last_step:,}). The checkpoint of step "
        f"{kept:,} is kept, the best by {monitor}. Fewer steps "
        f"(trainer.max_steps={lowest_step}), dropout, weight decay or early stopping may help."
    )


def _curve(metrics_csv: Path, name: str) -> list[tuple[int, float]]:
    """Steps and finite values of a metric, in order."""
    with metrics_csv.open(newline="") as file:
        points = [(row["step"], row.get(name)) for row in csv.DictReader(file)]
    return [(int(s), float(v)) for s, v in points if s and v and math.isfinite(float(v))]
