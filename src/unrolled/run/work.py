"""The process that does the work of a run: `python -m unrolled.run.work RUN_DIR`.

It starts from the run directory alone. Under torchrun every rank is such a process.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path

from unrolled.errors import TrainingError, UserError
from unrolled.run.directory import RunDirectory, now
from unrolled.run.failure import failed, forget_failures, has_agent, read_failures, times_restarted
from unrolled.run.interruption import EXIT_CODE, Interrupted, interruption
from unrolled.run.parent import watch_parent
from unrolled.run.process import run_process

FINISHED, FAILED, USER_ERROR, IN_USE, INTERRUPTED = 0, 1, 2, 3, EXIT_CODE
"""Exit codes; IN_USE: another process owns the run directory, nothing in it was touched."""

log = logging.getLogger("unrolled")


def main(run_dir: str) -> int:
    """Train the run in `run_dir`; its exit code."""
    interruption.listen()
    run = RunDirectory(Path(run_dir))
    first = os.environ.get("RANK", "0") == "0"
    _log_to_file(run, first)
    if times_restarted() and any(f.user_error for f in read_failures(run).values()):
        # What the user has to mend is not mended by trying again.
        return USER_ERROR
    if has_agent():
        forget_failures(run, int(os.environ["RANK"]))
        log.info("config %s", run.config_hash())
    try:
        # The first process owns the run directory; the others work for it.
        with run.locked() if first else nullcontext():
            return _work(run, first)
    except Interrupted:
        # Before there was any work, or after it.
        return INTERRUPTED
    except UserError as error:
        log.error("%s", error)
        return IN_USE


def _work(run: RunDirectory, first: bool) -> int:
    try:
        if first:
            run.set_status(
                state="running", started=now(), process=os.getpid(), error=None, user_error=None
            )
        from unrolled.run.training import train

        train(run)
        if first:
            run.set_status(state="finished", finished=now())
        return FINISHED
    except UserError as error:
        failed(run, error)
        return USER_ERROR
    except Interrupted as signal:
        log.info("interrupted by %s", signal)
        if first:
            run.set_status(state="interrupted", finished=now())
        return INTERRUPTED
    except BaseException as error:
        if not isinstance(error, TrainingError):
            # Into train.log alone: the terminal gets the one line that matters.
            logging.getLogger("traceback").error("%s", traceback.format_exc())
        failed(run, error)
        return FAILED


def _log_to_file(run: RunDirectory, first: bool) -> None:
    """Send Python's log to train.log; only warnings of the first rank to the terminal."""
    rank = "" if "RANK" not in os.environ else f" rank {os.environ['RANK']}"
    file = logging.FileHandler(run.log, delay=True)
    file.setFormatter(logging.Formatter(f"%(asctime)s{rank} %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(file)
    logging.getLogger().setLevel(logging.INFO)
    # A log that can't be written, on a full disk, is no reason to write pages to the terminal.
    logging.raiseExceptions = False
    logging.captureWarnings(True)
    if first:
        terminal = logging.StreamHandler()
        terminal.setFormatter(logging.Formatter("%(message)s"))
        terminal.setLevel(logging.WARNING)
        terminal.addFilter(lambda record: record.name.startswith("unrolled"))
        log.addHandler(terminal)


def whole_process(run_dir: str) -> int:
    """All that a process does which is there for this run alone; its exit code."""
    watch_parent()
    code = main(run_dir)
    # The agent takes any other code for a death: it would stop the others, or start all again.
    return FINISHED if code == INTERRUPTED and has_agent() else code


if __name__ == "__main__":
    run_process(lambda: whole_process(sys.argv[1]))
