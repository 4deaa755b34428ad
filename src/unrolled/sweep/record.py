"""What the ledger has noted of a trial."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

from optuna.trial import FrozenTrial, TrialState

from unrolled.sweep.space import Sweep, Values

State = Literal["running", "waiting", "finished", "pruned", "failed"]

_STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
NOTE = "unrolled"
"""The entry of a trial with its id, its values and its start; also, with `same_as`, of a point that
is another trial's, and, with `instead_of`, of a failed trial that runs again."""
WORK = "work"
"""The entry of a trial with the work on it so far."""


@dataclass(frozen=True)
class Trial:
    """One trial as the ledger knows it.

    Args:
        number: In the study.
        id: Of its resolved config; the name of its run directory.
        values: Of all parameters.
        state: Where it is; `waiting` is only told apart from `running` for those who look on.
        value: The metric; None of one that came to no result.
        watched: The best value of `Sweep.watched`, of one that is over.
        error: Why it failed.
        started: Seconds since 1970.
        seconds: That were worked on it; of a running one until now.
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


@dataclass(frozen=True)
class Work:
    """The work on a trial so far.

    Args:
        since: Seconds since 1970 when somebody began who has not put it back; None where it was put
            back.
        before: Seconds of those who worked on it before.
        deaths: Processes in a row that began and neither put it back nor came any further.
        checkpoint: Of which time the run's checkpoint was when the last one began; None without.
    """

    since: float | None
    before: float = 0.0
    deaths: int = 0
    checkpoint: float | None = None

    def seconds(self, until: float) -> float:
        """All of it."""
        return self.before + (max(0.0, until - self.since) if self.since is not None else 0.0)

    def put_back(self) -> Work:
        """The same, and nobody works on it any more."""
        return Work(None, self.seconds(time.time()))

    def taken_up(self, last_sign: float | None, checkpoint: float | None) -> Work:
        """The same, and somebody works on it again.

        Args:
            last_sign: When the run last wrote something.
            checkpoint: Of which time its checkpoint is.
        """
        died = self.since is not None and checkpoint == self.checkpoint
        return Work(
            time.time(),
            self.seconds(last_sign or 0.0),
            self.deaths + 1 if died else 0,
            checkpoint,
        )


def note_of(frozen: FrozenTrial) -> dict[str, Any]:
    """What was noted at the start of a trial; empty where its process was killed before that."""
    note: dict[str, Any] = frozen.user_attrs.get(NOTE, {})
    return note


def work_of(frozen: FrozenTrial) -> Work:
    """The work on a trial that has a note."""
    noted = frozen.user_attrs.get(WORK)
    return Work(note_of(frozen)["started"]) if noted is None else Work(**noted)


def entry_of(work: Work) -> dict[str, Any]:
    """As it is noted."""
    return asdict(work)


def trial_of(frozen: FrozenTrial, sweep: Sweep) -> Trial:
    """A trial that has a note."""
    note = note_of(frozen)
    state = _STATES[frozen.state]
    ended = frozen.datetime_complete
    end = ended.timestamp() if ended else time.time()
    seen = list(frozen.intermediate_values.values())
    watched = sweep.best(seen) if seen else None
    value = None
    if state == "finished":
        value = frozen.values[0]
    elif sweep.watched == sweep.metric.name:
        value = watched
    return Trial(
        frozen.number,
        note["id"],
        note["values"],
        state,
        value,
        frozen.user_attrs.get("error"),
        watched,
        note["started"],
        work_of(frozen).seconds(end),
    )


def current(frozen: list[FrozenTrial]) -> list[FrozenTrial]:
    """Those that stand for a trial each: without points of others, and failed ones that run again.

    Args:
        frozen: All of a study.
    """
    replaced = {note_of(trial).get("instead_of") for trial in frozen}
    return [
        trial
        for trial in frozen
        if (note := note_of(trial)) and "same_as" not in note and trial.number not in replaced
    ]
