"""What trials have logged so far, read from their metrics.csv."""

from __future__ import annotations

import csv
import math
from pathlib import Path

TRAIN_LOSS = "train/loss"


class Histories:
    """The values of metrics by trial; a file is read again only when it has changed.

    Args:
        folder: Of the sweep.
        metric: Its name; see `Sweep.watched`.
    """

    def __init__(self, folder: Path, metric: str) -> None:
        self.folder = folder
        self.metric = metric
        self._read: dict[Path, tuple[tuple[int, int], list[float], bool]] = {}

    def of(self, trial_id: str) -> list[float]:
        """The metric's values of a trial, in the order of the steps; empty where there are none."""
        return self._values(trial_id)[0]

    def is_lost(self, trial_id: str) -> bool:
        """Whether the training loss was not a number, from where there is no way back."""
        return self._values(trial_id)[1]

    def others(self, trial_id: str, ids: list[str]) -> list[list[float]]:
        """Those of all other trials."""
        return [self.of(other) for other in ids if other != trial_id]

    def _values(self, trial_id: str) -> tuple[list[float], bool]:
        path = self.folder / trial_id / "metrics.csv"
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            if path not in self._read or self._read[path][0] != stamp:
                self._read[path] = (stamp, *read_history(path, self.metric))
        except FileNotFoundError:
            return [], False
        return self._read[path][1:]


def read_history(path: Path, metric: str) -> tuple[list[float], bool]:
    """The values of a metric, and whether the training loss was ever not a number.

    The last line may be half written: it is left out.
    """
    text = path.read_text()
    rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
    values = [float(row[metric]) for row in rows if row.get(metric)]
    losses = [float(row[TRAIN_LOSS]) for row in rows if row.get(TRAIN_LOSS)]
    return values, not all(map(math.isfinite, losses))
