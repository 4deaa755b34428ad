"""The Optuna study of a sweep: where its trials are noted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from unrolled.errors import UserError
from unrolled.sweep.journal import mend
from unrolled.sweep.leases import Leases
from unrolled.sweep.record import WORK, Trial, Work, current, entry_of, note_of
from unrolled.sweep.space import Sweep
from unrolled.sweep.storage import JOURNAL, locked, open_storage, shown_url
from unrolled.terminal import say

SPACE, PLACE, EXHAUSTED = "space", "folder", "exhausted"
"""The entries of a study: the identity of what is searched, the trials' folder, and how many trials
there were when no further point was found."""


class WorkerError(UserError):
    """What is wrong with this process's machine or arguments, and not with a trial.

    The trial is left to others.
    """


class SweepStudy:
    """A sweep's study in its storage.

    Args:
        folder: Of the sweep.
        sweep: The space and the metric.
        leases: Of its trials.
        storage: An Optuna storage URL; None for a journal file in the folder.

    Raises:
        UserError: When the storage can't be opened, or has another sweep of this name.
    """

    def __init__(self, folder: Path, sweep: Sweep, leases: Leases, storage: str | None) -> None:
        self.folder = folder
        self.leases = leases
        if storage is None:
            journal = folder / JOURNAL
            for told in mend(journal, folder.name, sweep.metric.goal, lambda: locked(journal)):
                say(told, stderr=True)
        self.storage = open_storage(folder, storage)
        self._shown = str(folder) if storage is None else shown_url(storage)
        with self.alone():
            # A journal has one study: the sweep's, also after its folder was renamed.
            found = optuna.get_all_study_names(self.storage) if storage is None else []
            self.optuna = optuna.create_study(
                study_name=found[0] if found else folder.name,
                storage=self.storage,
                direction=sweep.metric.goal,
                load_if_exists=True,
            )
            known = self.optuna.user_attrs
            if SPACE not in known:
                self.optuna.set_user_attr(SPACE, sweep.identity)
            elif known[SPACE] != sweep.identity:
                raise UserError(
                    f"{self._shown}: the study '{folder.name}' has the trials of another "
                    "space; take another --name"
                )
            if PLACE not in known:
                self.optuna.set_user_attr(PLACE, leases.place())
            self.require_own_place()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other process claims a trial meanwhile."""
        with filelock.FileLock(self.folder / ".ledger.lock"):
            yield

    def require_own_place(self) -> None:
        """Refuse to work in another folder than the others, whose leases could not be seen.

        Raises:
            WorkerError: When they are in another one.
        """
        other = self.optuna.user_attrs[PLACE]
        if other["id"] != self.leases.place()["id"]:
            raise WorkerError(
                f"{self._shown}: the trials of '{self.folder.name}' are in {other['where']}, which "
                "is not the folder here; who works on a sweep has to share its folder. For a sweep "
                "of its own take another --name"
            )

    def frozen(self) -> list[FrozenTrial]:
        """All that Optuna has."""
        return self.optuna.get_trials(deepcopy=False)

    def current(self) -> list[FrozenTrial]:
        """Those that stand for a trial each."""
        return current(self.frozen())

    def now(self, trial: Trial) -> FrozenTrial:
        """A trial as it is now."""
        return self.storage.get_trial(self._trial_id(trial))

    def note_work(self, trial: Trial, work: Work) -> None:
        """Note the work on a trial, unless it is over."""
        with suppress(UpdateFinishedTrialError):
            self.storage.set_trial_user_attr(self._trial_id(trial), WORK, entry_of(work))

    def tell(
        self,
        trial: Trial,
        state: TrialState,
        history: list[float] | None = None,
        *,
        value: float | None = None,
        entries: dict[str, Any] | None = None,
    ) -> None:
        """End a trial, unless it is over."""
        trial_id = self._trial_id(trial)
        with suppress(UpdateFinishedTrialError):
            for key, entry in (entries or {}).items():
                self.storage.set_trial_user_attr(trial_id, key, entry)
            for iteration, seen in enumerate(history or [], 1):
                self.storage.set_trial_intermediate_value(trial_id, iteration, seen)
            self.storage.set_trial_state_values(trial_id, state, None if value is None else [value])

    def tell_duplicate(self, number: int, known: Trial) -> None:
        """A point that is there already: the sampler learns its value, and nobody runs it."""
        if known.state == "finished":
            self.optuna.tell(number, known.value)
        else:
            self.optuna.tell(number, state=TrialState.FAIL)

    def clear(self) -> None:
        """End what a process that was killed left half made, by one who is alone."""
        for frozen in self.frozen():
            if not frozen.state.is_finished() and not note_of(frozen):
                self.optuna.tell(frozen.number, state=TrialState.FAIL)

    def _trial_id(self, trial: Trial) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(
            self.optuna._study_id, trial.number
        )
