"""The ledger of a sweep: which trials there are, who works on them, and how they ended.

It is an Optuna study, in a journal file that several processes may write or in any storage that
Optuna has. A trial that runs has a lease, a file lock that the kernel takes back when its holder
dies; a running trial without a holder is taken up by whoever comes next.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import filelock
import optuna
from optuna.trial import FrozenTrial, TrialState

from unrolled.errors import UserError
from unrolled.sweep.points import BayesSampler, ask
from unrolled.sweep.space import Sweep, Values
from unrolled.sweep.storage import open_storage

State = Literal["running", "finished", "pruned", "failed"]

_STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
MOST_DUPLICATES = 50
"""Points in a row that were tried before: after so many the next untried one is taken, or, where
the space has no end, the search is over."""
SPACE = "space"
"""The entry of a study with the identity of what is searched."""
NOTE = "unrolled"
"""The entry of a trial with its id, its values and its start."""


@dataclass(frozen=True)
class Trial:
    """One trial as the ledger knows it.

    Args:
        number: In the study.
        id: Of its resolved config; the name of its run directory.
        values: Of all parameters.
        state: Where it is.
        value: The metric; None of one that came to no result.
        watched: The best value of `Sweep.watched`, of one that is over.
        error: Why it failed.
        started: Seconds since 1970.
        seconds: From its first start to its end; of a running one until now.
    """

    number: int
    id: str
    values: Values
    state: State
    value: float | None = None
    error: str | None = None
    watched: float | None = None
    started: float = 0.0
    seconds: float = 0.0


@dataclass
class Claim:
    """A trial that this process works on.

    Args:
        trial: The trial.
        lease: Held until `release`.
    """

    trial: Trial
    lease: filelock.BaseFileLock = field(repr=False)

    def release(self) -> None:
        """Let others take it up where it is not over."""
        self.lease.release()


class Ledger:
    """The trials of a sweep.

    Args:
        folder: Of the sweep.
        sweep: The space and the metric.
        identify: The id of a trial from its values; a `UserError` where they can't be composed.
        trials: How many there are to be.
        seed: Of the points.
        sampler: Of `bayes`.
        storage: An Optuna storage URL; None for a journal file in the folder.

    Raises:
        UserError: When the storage can't be opened, or has another sweep of this name.
    """

    def __init__(
        self,
        folder: Path,
        sweep: Sweep,
        identify: Callable[[Values], str],
        trials: int,
        seed: int = 0,
        sampler: BayesSampler = "tpe",
        storage: str | None = None,
    ) -> None:
        self.folder = folder
        self.sweep = sweep
        self.identify = identify
        self.wanted = trials
        self.seed = seed
        self.sampler: BayesSampler = sampler
        (folder / ".leases").mkdir(parents=True, exist_ok=True)
        self.storage = open_storage(folder, storage)
        with self._alone():
            self.study = optuna.create_study(
                study_name=str(folder.name),
                storage=self.storage,
                direction=sweep.metric.goal,
                load_if_exists=True,
            )
            known = self.study.user_attrs.get(SPACE)
            if known is None:
                self.study.set_user_attr(SPACE, sweep.identity)
            elif known != sweep.identity:
                raise UserError(
                    f"{storage or folder}: the study '{folder.name}' has the trials of another "
                    "space; take another --name"
                )
        self._id = self.study._study_id

    def trials(self) -> list[Trial]:
        """All trials in their order, each once."""
        noted = ((frozen, _noted(frozen)) for frozen in self._frozen())
        return [self._trial(frozen) for frozen, note in noted if note and "same_as" not in note]

    def claim(self) -> Claim | None:
        """A trial to work on: one whose worker died, or a new one; None where there is none now."""
        with self._alone():
            self._clear()
            trials = self.trials()
            for trial in trials:
                if trial.state == "running" and (lease := self._lease(trial)) is not None:
                    return Claim(trial, lease)
            while len(trials) < self.wanted and not self._is_enough(trials):
                trial_or_none = self._new(trials)
                if trial_or_none is None:
                    return None
                if trial_or_none.state != "running":
                    # It could not be composed.
                    trials.append(trial_or_none)
                    continue
                lease = self._lease(trial_or_none)
                assert lease is not None
                return Claim(trial_or_none, lease)
        return None

    def is_over(self) -> bool:
        """Whether no trial runs and none is to come."""
        trials = self.trials()
        if any(trial.state == "running" for trial in trials):
            return False
        return len(trials) >= self.wanted or self._is_enough(trials)

    def num_duplicates(self) -> int:
        """Points that were the same trial as another one, which was run once."""
        return sum("same_as" in _noted(frozen) for frozen in self._frozen())

    def finish(self, trial: Trial, value: float, history: list[float]) -> None:
        """Note the metric of a trial that is over."""
        self._tell(trial, TrialState.COMPLETE, history, value=value)

    def prune(self, trial: Trial, history: list[float]) -> None:
        """Note that a trial was stopped because others are better.

        Optuna's samplers place it behind all that are finished, by how far it came and by its last
        value of `Sweep.watched`: these are only compared with each other.
        """
        self._tell(trial, TrialState.PRUNED, history)

    def fail(self, trial: Trial, error: str) -> None:
        """Note that a trial came to no result, and why."""
        self.storage.set_trial_user_attr(self._trial_id(trial), "error", error)
        self._tell(trial, TrialState.FAIL, [])

    def _tell(
        self, trial: Trial, state: TrialState, history: list[float], value: float | None = None
    ) -> None:
        trial_id = self._trial_id(trial)
        for iteration, seen in enumerate(history, 1):
            self.storage.set_trial_intermediate_value(trial_id, iteration, seen)
        self.study.tell(trial.number, value, state=state)

    def _new(self, trials: list[Trial]) -> Trial | None:
        """A trial that was not there before; None where the space has no further one."""
        by_id = {trial.id: trial for trial in trials}
        duplicates = 0
        while True:
            tried = [_noted(frozen)["values"] for frozen in self._frozen() if _noted(frozen)]
            tired = duplicates >= MOST_DUPLICATES
            if tired and math.isinf(self.sweep.num_points):
                break
            asked = ask(
                self.sweep, self.study, tried,
                seed=self.seed, sampler=self.sampler, untried=tired,
            )  # fmt: skip
            if asked is None:
                break
            new, values = asked
            error = None
            try:
                trial_id = self.identify(values)
            except UserError as problem:
                trial_id, error = _hash(values), str(problem)
            known = by_id.get(trial_id)
            # In one entry: a process may be killed between two.
            started = time.time()
            note = {"id": trial_id, "values": values, "started": started}
            new.set_user_attr(NOTE, note if known is None else {**note, "same_as": known.number})
            if known is not None:
                duplicates += 1
                self._note_duplicate(new.number, known)
                continue
            trial = Trial(new.number, trial_id, values, "running", started=started)
            if error is not None:
                self.fail(trial, error)
                return replace(trial, state="failed", error=error)
            return trial
        self.study.set_user_attr("exhausted", len(trials))
        return None

    def _note_duplicate(self, number: int, known: Trial) -> None:
        """A point that is there already: the sampler learns its value, and nobody runs it."""
        if known.state == "finished":
            self.study.tell(number, known.value)
        else:
            self.study.tell(number, state=TrialState.FAIL)

    def _is_enough(self, trials: list[Trial]) -> bool:
        """Whether the space is exhausted or the metric has reached its target."""
        if self.study.user_attrs.get("exhausted", -1) == len(trials):
            return True
        target = self.sweep.metric.target
        values = [t.value for t in trials if t.state == "finished" and t.value is not None]
        return target is not None and any(
            v == target or self.sweep.better(v, target) for v in values
        )

    def _clear(self) -> None:
        """End what a process that was killed left half made; only it could have been at work."""
        for frozen in self._frozen():
            if not frozen.state.is_finished() and not _noted(frozen):
                self.study.tell(frozen.number, state=TrialState.FAIL)

    def _trial(self, frozen: FrozenTrial) -> Trial:
        note = _noted(frozen)
        state = _STATES[frozen.state]
        seen = list(frozen.intermediate_values.values())
        watched = self.sweep.best(seen) if seen else None
        value = None
        if state == "finished":
            value = frozen.values[0]
        elif self.sweep.watched == self.sweep.metric.name:
            value = watched
        ended = frozen.datetime_complete
        end = ended.timestamp() if ended else time.time()
        return Trial(
            frozen.number,
            note["id"],
            note["values"],
            state,
            value,
            frozen.user_attrs.get("error"),
            watched,
            note["started"],
            end - note["started"],
        )

    def _frozen(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _trial_id(self, trial: Trial) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self._id, trial.number)

    def _lease(self, trial: Trial) -> filelock.BaseFileLock | None:
        """The lease of a trial; None where somebody works on it, a process without a worker too."""
        lease = filelock.FileLock(self.folder / ".leases" / f"{trial.id}.lock")
        run_lock = self.folder / trial.id / ".lock"
        try:
            lease.acquire(timeout=0)
        except filelock.Timeout:
            return None
        if run_lock.exists():
            try:
                filelock.FileLock(run_lock).acquire(timeout=0).lock.release()
            except filelock.Timeout:
                lease.release()
                return None
        return lease

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process claims a trial meanwhile."""
        with filelock.FileLock(self.folder / ".ledger.lock"):
            yield


def _hash(values: Values) -> str:
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _noted(frozen: FrozenTrial) -> dict[str, Any]:
    note: dict[str, Any] = frozen.user_attrs.get(NOTE, {})
    return note
