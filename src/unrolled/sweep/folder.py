"""The folder of a sweep: a copy of its file, how it is run, its ledger and its trials.

```
sweep.yaml      the space
plan.json       how many trials, and how they are run; the last `unrolled sweep` wrote it
journal.log     the ledger, unless another storage was named
<trial id>/     a run directory each
failed/         those of failed trials that ran again by --retry-failed
summary/        tables and plots
```
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from unrolled.errors import UserError, disk_problem
from unrolled.plain_files import require_plain_files
from unrolled.run.directory import RunDirectory
from unrolled.run.launch import num_processes
from unrolled.sweep.check import (
    check_sweep,
    compose_trial,
    corners_of,
    settle_metric,
    trial_id,
)
from unrolled.sweep.ledger import Ledger
from unrolled.sweep.points import BayesSampler
from unrolled.sweep.sections import Metric
from unrolled.sweep.space import Sweep, Values, find_sweep_file, read_sweep
from unrolled.sweep.storage import has_password, shown_url
from unrolled.sweep.study import WorkerError

FILE, PLAN = "sweep.yaml", "plan.json"
SWEEPS = Path("runs") / "sweeps"
THREADS = "OMP_NUM_THREADS"
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
    threads: int = 1
    """Of each process that trains, in all trials: sums in another order have other last digits."""
    extra: list[str] = []
    """Arguments of train.py that come before a trial's own: --config-dir, --allow."""
    metric: dict[str, str] | None = None
    """Name and goal of the task's own, where the file names none."""


class SweepFolder:
    """A sweep that is there.

    Args:
        path: The folder.
        extra: See `Plan`; of this process, which may be on another machine than the last one.

    Raises:
        UserError: When it is none.
    """

    def __init__(self, path: Path, extra: list[str] | None = None) -> None:
        self.path = path.absolute()
        if not (path / PLAN).exists():
            raise UserError(f"{path}: there is no such sweep yet; start it without --status")
        require_plain_files(path)
        try:
            content = yaml.safe_load((path / FILE).read_text())
            self.plan = Plan.model_validate_json((path / PLAN).read_text())
        except FileNotFoundError as error:
            raise UserError(f"{error.filename}: missing; no sweep goes on without it") from None
        except PermissionError as error:
            raise UserError(f"{error.filename}: not yours to read: {error.strerror}") from error
        except (ValueError, yaml.YAMLError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: {FILE} or {PLAN} is damaged: {reason}") from error
        self.sweep = Sweep(path / FILE, content)
        self.sweep.extra = self.plan.extra if extra is None else extra
        if self.plan.metric is not None and not self.sweep.names_metric:
            self.sweep.settle(Metric.model_validate(self.plan.metric))
        self.notes: list[str] = []
        """What whoever opened the sweep should know."""
        self._checked = False
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
            WorkerError: When the sweep's others do not make one here, either.
        """
        return trial_id(self.compose(values))

    def compose(self, values: Values) -> dict[str, Any]:
        """The config of a trial; the last one is kept, as whoever claims a trial works on it.

        Raises:
            UserError: When the values do not make a config.
            WorkerError: When the sweep's others do not make one here, either.
        """
        key = json.dumps(values, sort_keys=True, default=str)
        if self._composed is None or self._composed[0] != key:
            try:
                self._composed = key, compose_trial(self.sweep, values).config
            except UserError:
                self._check_here()
                raise
        return self._composed[1]

    def _check_here(self) -> None:
        """Whether it is this process that can't compose, of the space that was checked once."""
        if not self._checked:
            try:
                check_sweep(self.sweep)
            except UserError as error:
                raise WorkerError(*error.problems) from error
        self._checked = True


def open_sweep(
    path: Path,
    name: str | None,
    trials: int | None,
    extra: list[str],
    *,
    workers: int = 1,
    **options: Any,
) -> SweepFolder:
    """Make the folder of a sweep, or find it with the same space.

    Args:
        path: The sweep file.
        name: Of the folder; the file's own by default.
        trials: How many there are to be; by default as many as were planned, or the file's
            `run_cap`.
        extra: See `Plan`.
        workers: Trials at the same time, which share the cores of this machine.
        **options: Further ones of `Plan`; None leaves what the sweep has.

    Raises:
        UserError: When another space is there under this name, or one of its corners can't be run
            by this process.
    """
    path = find_sweep_file(path)
    sweep = read_sweep(path)
    folder = SWEEPS / (name or sweep.name)
    there = SweepFolder(folder) if (folder / PLAN).is_file() else None
    before = {} if there is None else there.plan.model_dump(exclude_unset=True)
    sweep.extra = extra or before.get("extra", [])
    text = path.read_text()
    names_metric = sweep.names_metric
    settle_metric(sweep)
    if there is not None:
        if differing := sweep.differences(there.sweep):
            raise UserError(
                f"{folder} has the trials of another space than {path}, with another "
                f"{', '.join(differing)}; give this one a folder of its own: --name"
            )
        for fixed in ("seed", "storage", "sampler"):
            known = getattr(there.plan, fixed)
            if options.get(fixed) not in (None, known):
                raise UserError(
                    f"--{fixed}: the sweep in {folder} has {shown_url(str(known))}; name another: "
                    "--name"
                )
    check_sweep(sweep)
    given = {key: value for key, value in options.items() if value is not None}
    if given.get("time_limit") == 0:
        given["time_limit"] = None
    wanted, notes = _trials(sweep, trials, there)
    threads = before.get("threads") or _threads(sweep, workers)
    if os.environ.get(THREADS, str(threads)) != str(threads):
        notes.append(
            f"the trials of this sweep have {THREADS}={threads}, as since its start: with another "
            "number they could not be compared to the last digit"
        )
    plan = Plan.model_validate(
        {**before, **given, "trials": wanted, "threads": threads, "extra": sweep.extra}
        | ({} if names_metric else {"metric": sweep.metric.model_dump(include={"name", "goal"})})
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        require_plain_files(folder)
        files = RunDirectory(folder)
        files.write(FILE, text)
        with _private() if has_password(plan.storage) else nullcontext():
            files.write(PLAN, plan.model_dump_json(indent=2) + "\n")
    except OSError as error:
        if (problem := disk_problem(error, str(folder))) is None:
            raise
        raise UserError(f"{problem}; a sweep writes into {SWEEPS} of the working folder") from error
    made = SweepFolder(folder, sweep.extra)
    made.notes = [*sweep.warnings, *notes]
    return made


@contextmanager
def _private() -> Iterator[None]:
    """Files that are made meanwhile are nobody else's to read."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _trials(sweep: Sweep, asked: int | None, there: SweepFolder | None) -> tuple[int, list[str]]:
    """How many trials there are to be, and what to tell of that."""
    planned = None if there is None else there.plan.trials
    wanted = asked or planned or sweep.run_cap
    if wanted is None:
        wanted = DEFAULT_TRIALS if sweep.method != "grid" else int(sweep.num_points)
    wanted = int(min(wanted, sweep.num_points))
    if planned is None or there is None:
        return wanted, []
    if asked is None:
        more = sweep.run_cap is not None and sweep.run_cap > planned
        hint = f"run_cap is {sweep.run_cap}, the sweep has {planned} trials: --trials for more"
        return wanted, [hint] if more else []
    if wanted < planned:
        begun = len(there.ledger().trials())
        wanted = max(wanted, begun)
        return wanted, [
            f"{wanted} trials instead of {planned}"
            + (f": {begun} are there already" if wanted == begun > asked else "")
        ]
    return wanted, []


def _threads(sweep: Sweep, workers: int) -> int:
    """So many that the processes of all trials at the same time have a core a thread."""
    if (given := os.environ.get(THREADS, "")).isdecimal():
        return max(1, int(given))
    # Of the cores of the machine this process may have a part.
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    trainer = compose_trial(sweep, next(corners_of(sweep, 1))).config["trainer"]
    processes = num_processes(trainer)
    return max(1, cores // (workers * (processes if isinstance(processes, int) else 1)))
