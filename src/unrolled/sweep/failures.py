"""When the failures of trials say that something is wrong with all of them."""

from __future__ import annotations

import re

from unrolled.sweep.record import Trial
from unrolled.sweep.study import WorkerError

MOST_ALIKE = 3
"""Trials in a row that fail with the same error; W&B's agent gives up after as many failures."""

_OF_ITS_OWN = ("memory", "signal 9")
"""What a trial that is too large for the machine says; its neighbours in a grid are large, too."""
_CHANGES = re.compile(r"[0-9a-f]{6,}|\d+")
"""The parts of an error in which it differs from trial to trial: numbers and ids."""


class FailuresInARow:
    """What has become of the trials of a process, one after the other."""

    def __init__(self) -> None:
        self._alike: list[str] = []

    def note(self, trial: Trial, *, counts: bool) -> None:
        """Note a trial that is over.

        Args:
            trial: As it ended.
            counts: Whether it can have failed by what it has in common with others: not after its
                metric was logged, not by the time limit.

        Raises:
            WorkerError: When it is one failure of the same kind too many.
        """
        error = (trial.error or "").partition("\n")[0]
        if trial.state != "failed" or not counts or any(word in error for word in _OF_ITS_OWN):
            self._alike = []
            return
        kind = _CHANGES.sub("#", error)
        self._alike = [*(known for known in self._alike if known == kind), kind]
        if len(self._alike) == MOST_ALIKE:
            raise WorkerError(f"{MOST_ALIKE} trials in a row failed with the same error: {error}")
