"""One trial: a run directory, made or taken up, and a process that is watched."""

from __future__ import annotations

import math
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from unrolled.errors import UserError
from unrolled.run.directory import RunDirectory
from unrolled.run.launch import needs_agent, prepare_data, settle, start_in_background
from unrolled.run.targets import modules_of
from unrolled.run.warm import Process, Server
from unrolled.run.work import FAILED, FINISHED, IN_USE, INTERRUPTED
from unrolled.sweep.devices import Lease
from unrolled.sweep.folder import THREADS, SweepFolder
from unrolled.sweep.history import Histories
from unrolled.sweep.hyperband import should_stop
from unrolled.sweep.ledger import Ledger
from unrolled.sweep.record import Trial
from unrolled.sweep.study import WorkerError
from unrolled.sweep.sweep_command import PROGRAM
from unrolled.sweep.value import value_of

LOOK_EVERY = 0.25
"""Seconds between two looks at what a trial that runs has logged."""
TO_SAVE = 30.0
"""Seconds that a trial has to save where it is, before it is killed."""
_OF_DATA = re.compile(r"task|data|experiment|trainer|data\.source(\..*)?|trainer\.devices")
"""The parameters by which the data of one trial can be prepared and those of another can't."""

TOO_LONG = "took longer than the time limit"
Ended = Literal["by itself", "stopped", "too long", "lost", "pruned"]


class TrialProcess:
    """The work on one trial.

    Args:
        folder: The sweep.
        ledger: Its trials.
        trial: The one to work on.
        asked_to_stop: Whether this process is to leave; the trial can go on later.
        server: From which trials of one process are forked; None starts new processes.
    """

    def __init__(
        self,
        folder: SweepFolder,
        ledger: Ledger,
        trial: Trial,
        asked_to_stop: Callable[[], bool],
        server: Server | None = None,
    ) -> None:
        self.folder = folder
        self.sweep = folder.sweep
        self.ledger = ledger
        self.trial = trial
        self.asked_to_stop = asked_to_stop
        self.server = server
        self.run = RunDirectory(folder.path / trial.id)
        self.histories = Histories(folder.path, self.sweep.watched)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The trial's config, from its run directory or newly composed.

        Raises:
            UserError: When the values do not make a config.
        """
        return self.run.config() if self.is_begun() else self.folder.compose(self.trial.values)

    def work(self, lease: Lease) -> None:
        """Bring the trial to its end, and note it in the ledger.

        What was interrupted is not noted: it goes on where it was when somebody takes it up.

        Raises:
            WorkerError: When this process could not work on other trials, either.
        """
        try:
            server = None if needs_agent(self.config) else self.server
            if server is not None:
                # It imports while the data are prepared.
                server.open(modules_of(self.config))
            self.prepare()
            state = self.run.status().get("state")
            if state in ("finished", "failed"):
                # Its worker was killed before it could note this.
                self.note(FINISHED if state == "finished" else FAILED)
                return
            while server is not None and not server.wait(LOOK_EVERY):
                if self.asked_to_stop():
                    return
            ended, code = self.watch(start_in_background(self.run, lease.environment(), server))
            if not self._note_early_end(ended) and code != INTERRUPTED:
                self.note(code)
        except WorkerError:
            raise
        except UserError as error:
            self.ledger.fail(self.trial, str(error))

    def prepare(self) -> None:
        """The run directory: a new one, or the one that is there.

        Raises:
            UserError: When there is something wrong with the config or the data.
            WorkerError: When it is wrong with those of other trials, too.
        """
        if self.is_begun():
            return
        # What a process left that was killed before the directory was complete.
        shutil.rmtree(self.run.path, ignore_errors=True)
        try:
            prepare_data(self.config)
        except UserError as error:
            if any(map(_OF_DATA.fullmatch, self.sweep.searched)):
                raise
            # All trials have these data.
            raise WorkerError(*error.problems) from error
        try:
            RunDirectory.create(self.config, self.run.path, command(self.folder, self.trial))
        except UserError as error:
            # On a full disk, for one.
            raise WorkerError(*error.problems) from error

    def is_begun(self) -> bool:
        """Whether there is a run to go on with; one whose status a power cut has taken is none."""
        try:
            return bool(self.run.status())
        except ValueError:
            return False

    def watch(self, process: Process) -> tuple[Ended, int]:
        """Wait for the process, or end it for a reason.

        Returns:
            The reason, and the exit code of the run.
        """
        # The limit is of all who work on the trial, one after the other.
        began = time.monotonic() - self.ledger.seconds_before(self.trial)
        ended: Ended = "by itself"
        while not _has_ended(process, LOOK_EVERY):
            ended = self._reason(time.monotonic() - began)
            if ended != "by itself":
                _end(process)
        code = process.wait()
        if code == IN_USE:
            # By a process that has lost its worker; whoever comes later finds what it has done.
            return "stopped", INTERRUPTED
        if ended == "stopped" and code == -signal.SIGKILL:
            # It did not save in time, and goes on from its last checkpoint.
            code = INTERRUPTED
        if ended != "by itself" or code == INTERRUPTED:
            state = self.run.status().get("state")
            if state == "finished":
                # It was through before the signal came.
                return "by itself", FINISHED
            if state == "failed" and ended == "by itself":
                # Its server died before it could tell.
                return ended, FAILED
        return ended, settle(self.run, code)

    def note(self, code: int) -> None:
        """Tell the ledger how the run ended.

        Raises:
            UserError: When it is finished and has no value.
        """
        if code != FINISHED:
            status = self.run.status()
            self.ledger.fail(self.trial, str(status.get("error") or f"exit code {code}"))
            return
        history = self.histories.of(self.trial.id)
        value = value_of(self.sweep, self.run, history)
        self.ledger.finish(self.trial, value, [seen for seen in history if math.isfinite(seen)])

    def _reason(self, seconds: float) -> Ended:
        if self.asked_to_stop():
            return "stopped"
        if self.folder.plan.time_limit is not None and seconds > self.folder.plan.time_limit:
            return "too long"
        own = self.histories.of(self.trial.id)
        if self.histories.is_lost(self.trial.id):
            return "lost"
        rule = self.sweep.early_terminate
        if rule is not None and own:
            ids = [trial.id for trial in self.ledger.trials()]
            others = self.histories.others(self.trial.id, ids)
            if should_stop(rule, own, others, maximize=self.sweep.metric.goal == "maximize"):
                return "pruned"
        return "by itself"

    def _note_early_end(self, ended: Ended) -> bool:
        """Tell the ledger of a trial that was ended, unless it is to go on later."""
        if ended == "pruned":
            history = [v for v in self.histories.of(self.trial.id) if math.isfinite(v)]
            self.ledger.prune(self.trial, history)
        elif ended == "too long":
            limit = self.folder.plan.time_limit
            self.ledger.fail(self.trial, f"{TOO_LONG} of {limit:g} s")
        elif ended == "lost":
            self.ledger.fail(self.trial, "the training loss is not finite")
        return ended != "by itself"


def command(folder: SweepFolder, trial: Trial) -> str:
    """What starts a trial by itself, with the same result to the last digit."""
    # Who has installed the package has no train.py.
    program = ["python", PROGRAM] if Path(PROGRAM).is_file() else ["unrolled", "train"]
    typed = shlex.join([*program, *folder.sweep.arguments(trial.values)])
    return f"{THREADS}={folder.plan.threads} {typed}"


def typed_command(folder: SweepFolder, trial: Trial) -> str:
    """What its run directory says that a trial was started by; without one, `command`."""
    try:
        return (folder.path / trial.id / "command.txt").read_text().strip()
    except FileNotFoundError:
        return command(folder, trial)


def _has_ended(process: Process, seconds: float) -> bool:
    """Whether a process ends within so many seconds."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _end(process: Process) -> None:
    """Ask a run to save and to leave, and kill it where it does not."""
    process.terminate()
    if not _has_ended(process, TO_SAVE):
        process.kill()
        process.wait()
