"""Processes that end when the one that started them is gone.

They ask for their parent's number once a second. A pipe would be quicker, but takes the standard
input away or is inherited by whatever a process starts; Linux's own signal at a parent's death
(`PR_SET_PDEATHSIG`) is of Linux alone, and comes when the *thread* that started them ends.
"""

from __future__ import annotations

import os
import signal
import threading
import time

from unrolled.run.allowed import SAFE_PATH

VARIABLE = "UNROLLED_PARENT"
"""The environment variable with the number of the process that has to be there."""

SECONDS_TO_SAVE = 300.0
"""After so long a process that was asked to stop ends whatever it does."""


def for_children() -> dict[str, str]:
    """What to add to the environment of processes that are started."""
    return {VARIABLE: str(os.getpid()), **SAFE_PATH}


def watch_parent() -> None:
    """From now on, SIGTERM to this process when its parent is gone: it saves and leaves."""
    parent = os.environ.get(VARIABLE)
    if parent is not None:
        threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()


def _watch(parent: int) -> None:
    # The variable, not the first answer of `getppid`: a parent can be gone before that.
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_SAVE)
    os._exit(1)
