"""metrics.csv: every logged value by step, one row a step."""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from unrolled.errors import UserError
from unrolled.plain_files import to_append, written_beside


class MetricsCSV(Logger):
    """Appends rows; writes the file anew only when a value has a name not seen before.

    Lightning's CSVLogger deletes the file of an earlier part of the run, so that a resumed run
    would lose its beginning.

    Args:
        run_dir: Where metrics.csv goes.
    """

    FIRST = ("step", "epoch")

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self.path = run_dir / "metrics.csv"
        self._rows: list[dict[str, Any]] = []
        self._names: list[str] = list(self.FIRST)
        self._written = 0
        self._whole = False
        if self.path.exists():
            try:
                text = self.path.read_text()
            except UnicodeDecodeError as error:
                raise UserError(f"{self.path}: is damaged: {error}") from error
            # A process that dies while it writes may leave half a row, which would read as another.
            lines = text[: text.rfind("\n") + 1].splitlines()
            reader = csv.DictReader(lines)
            self._rows = list(reader)
            _require_numbers(self.path, self._rows)
            self._names = list(reader.fieldnames or self.FIRST)
            self._whole = text.endswith("\n")
            self._written = len(self._rows)

    @property
    def name(self) -> str:
        """No folder of its own."""
        return ""

    @property
    def version(self) -> str:
        """No folder of its own."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run directory."""
        return str(self.path.parent)

    @property
    def log_dir(self) -> str:
        """The run directory, where a profiler writes too."""
        return str(self.path.parent)

    @property
    @rank_zero_experiment
    def experiment(self) -> MetricsCSV:
        """Itself."""
        return self

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kw: Any) -> None:
        """They are in config.yaml."""

    @rank_zero_only
    def keep(self, rows: int) -> None:
        """Take back all rows but the first ones: the run goes on from there."""
        if rows < len(self._rows) or (self._rows and not self._whole):
            self._rows = self._rows[:rows]
            self._write_all()

    @property
    def num_rows(self) -> int:
        """How many there are."""
        return len(self._rows)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Take values of a step; several calls for one step make one row."""
        values = dict(metrics)
        epoch = values.pop("epoch", None)
        last = self._rows[-1] if len(self._rows) > self._written else None
        if last is None or last["step"] != step:
            last = {"step": step}
            self._rows.append(last)
        if epoch is not None:
            last["epoch"] = int(epoch)
        last.update(values)

    @rank_zero_only
    def save(self) -> None:
        """Write what has come since the last time."""
        fresh = self._rows[self._written :]
        unknown = {name for row in fresh for name in row} - set(self._names)
        if unknown or not self._whole:
            self._names += sorted(unknown)
            self._write_all()
        elif fresh:
            with to_append(self.path).open("a", newline="") as file:
                csv.DictWriter(file, self._names).writerows(fresh)
            self._written = len(self._rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the rest."""
        self.save()

    def _write_all(self) -> None:
        with written_beside(self.path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._names)
            writer.writeheader()
            writer.writerows(self._rows)
        self._whole, self._written = True, len(self._rows)


def _require_numbers(path: Path, rows: list[dict[str, Any]]) -> None:
    """Refuse a table in which something else stands.

    Raises:
        UserError: When a value is no number, or a row has more values than there are names.
    """
    for line, row in enumerate(rows, 2):
        try:
            for value in row.values():
                float(value or 0)
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}, line {line}: is damaged: {error}") from error
