"""The folder of a sweep: a copy of its file, how it is run, its ledger and its trials.

```
sweep.yaml      the space
plan.json       how many trials, and how they are run; the last `unrolled sweep` wrote it
journal.log     the ledger, unless another storage was named
<trial id>/     a run directory each
summary/        tables and plots
```
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from unrolled.errors import UserError
from unrolled.sweep.check import check_sweep, compose_trial, trial_id
from unrolled.sweep.ledger import Ledger
from unrolled.sweep.points import BayesSampler
from unrolled.sweep.space import Sweep, Values, find_sweep_file, read_sweep

FILE, PLAN = "sweep.yaml", "plan.json"
SWEEPS = Path("runs") / "sweeps"
DEFAULT_TRIALS = 20
"""Of `random` and `bayes` where neither the file nor the command says how many."""


class Plan(BaseModel):
    """How a sweep is run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trials: int
    seed: int = 0
    sampler: BayesSampler = "tpe"
    storage: str | None = None
    time_limit: float | None = None
    """Seconds that a trial may take."""
    extra: list[str] = []
    """Arguments of train.py that come before a trial's own: --config-dir, --allow."""


class SweepFolder:
    """A sweep that is there.

    Args:
        path: The folder.

    Raises:
        UserError: When it is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        try:
            content = yaml.safe_load((path / FILE).read_text())
            plan = json.loads((path / PLAN).read_text())
        except FileNotFoundError:
            raise UserError(f"{path}: there is no such sweep yet; start it without --status") from (
                None
            )
        self.sweep = Sweep(path / FILE, content)
        self.plan = Plan.model_validate(plan)
        self.sweep.extra = self.plan.extra
        self._composed: tuple[str, dict[str, Any]] | None = None

    def ledger(self) -> Ledger:
        """The trials."""
        plan = self.plan
        return Ledger(
            self.path, self.sweep, self.identify, plan.trials, plan.seed, plan.sampler, plan.storage
        )

    def identify(self, values: Values) -> str:
        """The id of a trial: the same for the same resolved config.

        Raises:
            UserError: When the values do not make a config.
        """
        return trial_id(self.compose(values))

    def compose(self, values: Values) -> dict[str, Any]:
        """The config of a trial; the last one is kept, as whoever claims a trial works on it.

        Raises:
            UserError: When the values do not make a config.
        """
        key = json.dumps(values, sort_keys=True, default=str)
        if self._composed is None or self._composed[0] != key:
            self._composed = key, compose_trial(self.sweep, values).config
        return self._composed[1]


def open_sweep(
    path: Path,
    name: str | None,
    trials: int | None,
    extra: list[str],
    **options: Any,
) -> SweepFolder:
    """Make the folder of a sweep, or find it with the same space.

    Args:
        path: The sweep file.
        name: Of the folder; the file's own by default.
        trials: How many there are to be; the file's `run_cap` by default.
        extra: See `Plan`.
        **options: Further ones of `Plan`; None leaves what the sweep has.

    Raises:
        UserError: When another space is there under this name, or one of its corners can't be run.
    """
    path = find_sweep_file(path)
    sweep = read_sweep(path)
    folder = SWEEPS / (name or sweep.name)
    text = path.read_text()
    sweep.extra = extra
    before: dict[str, Any] = {}
    if (folder / PLAN).is_file():
        there = SweepFolder(folder)
        before = there.plan.model_dump()
        if differing := sweep.differences(there.sweep):
            raise UserError(
                f"{folder} has the trials of another space than {path}, with another "
                f"{', '.join(differing)}; give this one a folder of its own: --name"
            )
        for fixed in ("seed", "storage", "sampler"):
            if options.get(fixed) not in (None, before[fixed]):
                raise UserError(
                    f"--{fixed}: the sweep in {folder} has {before[fixed]}; name another: --name"
                )
    else:
        check_sweep(sweep)
    if trials is None:
        trials = sweep.run_cap or before.get("trials")
    points = sweep.num_points
    if trials is None:
        trials = int(points) if sweep.method == "grid" else DEFAULT_TRIALS
    plan = Plan.model_validate(
        {
            **before,
            **{key: value for key, value in options.items() if value is not None},
            "trials": int(min(trials, points)),
            "extra": extra or before.get("extra", []),
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / FILE, text)
    _write(folder / PLAN, plan.model_dump_json(indent=2) + "\n")
    return SweepFolder(folder)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)
