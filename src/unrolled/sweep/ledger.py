"""The ledger of a sweep: which trials there are, who works on them, and how they ended.

It is an Optuna study, in a journal file that several processes may write or in any storage that
Optuna has. A running trial whose lease nobody holds is taken up by whoever comes next.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import filelock
from optuna.trial import FrozenTrial, TrialState

from unrolled.errors import UserError
from unrolled.sweep.leases import Leases
from unrolled.sweep.points import BayesSampler, Given, ask, distributions_of, text_of
from unrolled.sweep.record import NOTE, WORK, Trial, Work, entry_of, note_of, trial_of, work_of
from unrolled.sweep.space import Sweep, Values
from unrolled.sweep.study import EXHAUSTED, SweepStudy, WorkerError

MOST_DUPLICATES = 50
"""Points in a row that were tried before: after so many the next untried one is taken, or, where
the space has no end, the search is over."""
MOST_DEATHS = 5
"""Processes in a row that may die with a trial that comes no further, before it has failed. Who
kills a whole sweep again and again while its trials start should not lose one."""
ASIDE = "failed"
"""The folder in that of a sweep with the run directories of failed trials that run again."""


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
        identify: The id of a trial from its values; a `UserError` where they can't be composed, and
            `WorkerError` where no others could.
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
        self.leases = Leases(folder)
        self._study = SweepStudy(folder, sweep, self.leases, storage)
        self.study = self._study.optuna

    def trials(self) -> list[Trial]:
        """All trials in their order, each once."""
        return [trial_of(frozen, self.sweep) for frozen in self._study.current()]

    def looked_at(self) -> list[Trial]:
        """All trials in their order; those on which nobody works wait."""
        with self._study.alone():
            return [self._looked_at(frozen) for frozen in self._study.current()]

    def claim(self) -> Claim | None:
        """A trial to work on: one whose worker died, or a new one; None where there is none now.

        Raises:
            WorkerError: When this process could not work on any trial.
        """
        with self._study.alone():
            self._study.require_own_place()
            self._study.clear()
            for trial in self.trials():
                if trial.state == "running" and (claim := self._take_up(trial)) is not None:
                    return claim
            trials = self.trials()
            while len(trials) < self.wanted and not self._is_enough(trials):
                trial_or_none = self._new(trials)
                if trial_or_none is None:
                    return None
                if trial_or_none.state != "running":
                    # It could not be composed.
                    trials.append(trial_or_none)
                    continue
                lease = self.leases.take(trial_or_none.id)
                assert lease is not None
                return Claim(trial_or_none, lease)
        return None

    def put_back(self, claim: Claim) -> None:
        """Leave a trial to others, as it is; one that is over only loses its lease."""
        self._study.note_work(claim.trial, work_of(self._study.now(claim.trial)).put_back())
        claim.release()

    def is_over(self) -> bool:
        """Whether no trial runs and none is to come."""
        trials = self.trials()
        if any(trial.state == "running" for trial in trials):
            return False
        return len(trials) >= self.wanted or self._is_enough(trials)

    def seconds_before(self, trial: Trial) -> float:
        """Seconds that were worked on a trial before it was taken up the last time."""
        return work_of(self._study.now(trial)).before

    def num_duplicates(self) -> int:
        """Points that were the same trial as another one, which was run once."""
        return sum("same_as" in note_of(frozen) for frozen in self._study.frozen())

    def finish(self, trial: Trial, value: float, history: list[float]) -> None:
        """Note the metric of a trial that is over."""
        self._study.tell(trial, TrialState.COMPLETE, history, value=value)

    def prune(self, trial: Trial, history: list[float]) -> None:
        """Note that a trial was stopped because others are better.

        Optuna's samplers place it behind all that are finished, by how far it came and by its last
        value of `Sweep.watched`: these are only compared with each other.
        """
        self._study.tell(trial, TrialState.PRUNED, history)

    def fail(self, trial: Trial, error: str) -> None:
        """Note that a trial came to no result, and why."""
        self._study.tell(trial, TrialState.FAIL, entries={"error": error})

    def now(self, trial: Trial) -> Trial:
        """A trial as it is now."""
        return trial_of(self._study.now(trial), self.sweep)

    def retry_failed(self) -> list[Trial]:
        """Let failed trials run again from their start, each by a new trial of the same values.

        Their run directories are set aside.

        Returns:
            Those that had failed.

        Raises:
            WorkerError: When this process could not work on any trial.
        """
        retried = []
        with self._study.alone():
            self._study.clear()
            for trial in self.trials():
                if trial.state != "failed" or (lease := self.leases.take(trial.id)) is None:
                    continue
                try:
                    self._retry(trial)
                finally:
                    lease.release()
                retried.append(trial)
        return retried

    def _retry(self, failed: Trial) -> None:
        try:
            # That of one that could not be composed was made of its values alone.
            trial_id = self.identify(failed.values)
        except WorkerError:
            raise
        except UserError:
            trial_id = failed.id
        run = self.folder / failed.id
        if run.exists():
            (self.folder / ASIDE).mkdir(exist_ok=True)
            run.rename(self.folder / ASIDE / f"{failed.id}-{failed.number}")
        known = next((t for t in self.trials() if t.id == trial_id and t.id != failed.id), None)
        # What Optuna chose for it, not what was made of that.
        self.study.sampler = Given(self._study.now(failed).params)
        new = self.study.ask(distributions_of(self.sweep))
        new.set_user_attr(WORK, entry_of(Work(None)))
        note = {"id": trial_id, "values": failed.values, "started": time.time()}
        note["instead_of"] = failed.number
        new.set_user_attr(NOTE, note if known is None else {**note, "same_as": known.number})
        if known is not None:
            self._study.tell_duplicate(new.number, known)

    def _take_up(self, trial: Trial) -> Claim | None:
        """A running trial, unless somebody works on it or it has cost too many processes."""
        lease = self.leases.take(trial.id)
        if lease is None:
            return None
        now = self._study.now(trial)
        if now.state.is_finished():
            # Its worker was through between two looks.
            lease.release()
            return None
        last_sign, checkpoint = self.leases.last_sign(trial.id), self.leases.checkpoint(trial.id)
        work = work_of(now).taken_up(last_sign, checkpoint)
        self._study.note_work(trial, work)
        if work.deaths < MOST_DEATHS:
            return Claim(trial, lease)
        self.fail(
            trial,
            f"{work.deaths} processes in a row were killed while they worked on it, and it came no "
            "further: does it take too much memory?",
        )
        lease.release()
        return None

    def _looked_at(self, frozen: FrozenTrial) -> Trial:
        trial = trial_of(frozen, self.sweep)
        if trial.state != "running" or self.leases.is_taken(trial.id):
            return trial
        last_sign = self.leases.last_sign(trial.id) or 0.0
        return replace(trial, state="waiting", seconds=work_of(frozen).seconds(last_sign))

    def _new(self, trials: list[Trial]) -> Trial | None:
        """A trial that was not there before; None where the space has no further one."""
        by_id = {trial.id: trial for trial in trials}
        duplicates = 0
        while True:
            notes = [note_of(frozen) for frozen in self._study.frozen()]
            tried = [note["values"] for note in notes if note and "instead_of" not in note]
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
            except WorkerError:
                self.study.tell(new.number, state=TrialState.FAIL)
                raise
            except UserError as problem:
                trial_id, error = _hash(values), str(problem)
            known = by_id.get(trial_id)
            # In one entry: a process may be killed between two.
            started = time.time()
            note = {"id": trial_id, "values": values, "started": started}
            new.set_user_attr(NOTE, note if known is None else {**note, "same_as": known.number})
            if known is not None:
                duplicates += 1
                self._study.tell_duplicate(new.number, known)
                continue
            trial = Trial(new.number, trial_id, values, "running", started=started)
            if error is not None:
                self.fail(trial, error)
                return replace(trial, state="failed", error=error)
            return trial
        self.study.set_user_attr(EXHAUSTED, len(trials))
        return None

    def _is_enough(self, trials: list[Trial]) -> bool:
        """Whether the space is exhausted or the metric has reached its target."""
        if self.study.user_attrs.get(EXHAUSTED, -1) == len(trials):
            return True
        target = self.sweep.metric.target
        values = [t.value for t in trials if t.state == "finished" and t.value is not None]
        return target is not None and any(
            v == target or self.sweep.better(v, target) for v in values
        )


def _hash(values: Values) -> str:
    return hashlib.sha256(text_of(values).encode()).hexdigest()[:10]
