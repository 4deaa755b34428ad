"""Signals that ask a run to stop: SIGTERM, Ctrl-C, a closed terminal, SLURM's two warnings.

While a model is trained a signal is only noted; the training saves where it is after the step that
it is in (or after the validation) and leaves by `Interrupted`. At any other time there is nothing
to save, and `Interrupted` is raised on the spot. A second Ctrl-C leaves at once.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 130
"""Of a run that was interrupted and can go on, whichever signal it was."""

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
"""What SLURM sends to all processes of a job before it ends it: `--signal=USR1@60` in a job script,
SIGUSR2 by submitit."""

SIGNALS = (signal.SIGTERM, signal.SIGHUP, *WARNINGS, signal.SIGINT)
"""All that ask a run to stop. A terminal that is closed sends SIGHUP, often more than once."""

SAME = 1.0
"""Seconds in which a repeated Ctrl-C is the same one: a terminal sends it to all processes of the
run, and torchrun hands on its own."""


def taken() -> set[signal.Signals]:
    """Those of the signals that this process takes.

    `nohup` starts a process with SIGHUP ignored, and it stays ignored.
    """
    nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return {*SIGNALS} - ({signal.SIGHUP} if nohup else set())


class Interrupted(BaseException):
    """The run was asked to stop; not an `Exception`, which a library could take for its own."""


class Interruption:
    """What the signals of this process have asked for."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._at = 0.0
        self._training = False

    def listen(self) -> None:
        """Take the signals from now on; before Lightning is built, which leaves handlers alone."""
        for number in taken():
            signal.signal(number, self._handle)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Within, signals are noted for the training to see."""
        self._training = True
        try:
            yield
        finally:
            self._training = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        again = self.received is not None
        if again and number == signal.SIGINT and now - self._at > SAME:
            os._exit(EXIT_CODE)
        if again:
            return
        self.received, self._at = signal.Signals(number).name, now
        if not self._training:
            raise Interrupted(self.received)
        if number == signal.SIGINT and os.environ.get("RANK", "0") == "0":
            # Not by a logger, whose lock the interrupted code may hold.
            os.write(2, b"stopping after this step; Ctrl-C once more leaves at once\n")


interruption = Interruption()
"""Of this process."""
