"""The process that works on the trials of a sweep: `python -m unrolled.sweep.worker FOLDER
[EXTRA...]`.

It takes one trial after the other until all are over. It waits for those that others work on, to
take them up should their workers die.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType

from unrolled.errors import UserError, disk_problem
from unrolled.run import interruption
from unrolled.run.allowed import leave_out_working_folder
from unrolled.run.launch import environment
from unrolled.run.parent import VARIABLE
from unrolled.run.process import run_process
from unrolled.run.warm import MODULES, Server
from unrolled.run.work import USER_ERROR
from unrolled.sweep.devices import Devices, devices_wanted
from unrolled.sweep.failures import FailuresInARow
from unrolled.sweep.folder import THREADS, SweepFolder
from unrolled.sweep.ledger import Claim, Ledger
from unrolled.sweep.record import Trial
from unrolled.sweep.study import WorkerError
from unrolled.sweep.trial import TOO_LONG, TrialProcess
from unrolled.terminal import say

WAIT = 1.0
"""Seconds until a worker without a trial looks again."""


class Worker:
    """Works on the trials of a sweep.

    Args:
        folder: The sweep.
        devices: Those of which a trial takes one.
        server: From which trials are forked; None starts each anew.
    """

    def __init__(self, folder: SweepFolder, devices: Devices, server: Server | None) -> None:
        self.folder = folder
        self.ledger: Ledger = folder.ledger()
        self.devices = devices
        self.server = server
        # The engine can be gone before this process asks for the first time.
        self.parent = int(os.environ.get(VARIABLE) or os.getppid())
        self.failures = FailuresInARow()
        self.signalled = False

    def listen(self) -> None:
        """Take signals as the wish to leave; trials save where they are."""
        for number in interruption.taken():
            signal.signal(number, self._handle)

    def work(self) -> int:
        """Until all trials are over, or this process is asked to leave; its exit code.

        Raises:
            WorkerError: When it can't work on any trial.
        """
        while not self.asked_to_stop():
            claim = self.ledger.claim()
            if claim is not None:
                self._work_on(claim)
            elif self.ledger.is_over():
                return 0
            else:
                time.sleep(WAIT)
        return interruption.EXIT_CODE

    def asked_to_stop(self) -> bool:
        """Whether a signal came, or the process that started this one is gone."""
        return self.signalled or os.getppid() != self.parent

    def _work_on(self, claim: Claim) -> None:
        trial = TrialProcess(self.folder, self.ledger, claim.trial, self.asked_to_stop, self.server)
        try:
            number = devices_wanted(trial.config["trainer"])
            while not self.asked_to_stop():
                lease = self.devices.lease(number, trial.run)
                if lease is None:
                    time.sleep(WAIT)
                    continue
                try:
                    trial.work(lease)
                finally:
                    lease.release()
                break
        except WorkerError:
            raise
        except UserError as error:
            self.ledger.fail(claim.trial, str(error))
        except Exception as error:
            if disk_problem(error) is not None:
                # No fault of the trial's, and the ledger could not be written, either.
                raise
            # Whatever it is, taken up again it would end the next worker, too.
            traceback.print_exc()
            self.ledger.fail(claim.trial, f"{type(error).__name__}: {error}")
        finally:
            self.ledger.put_back(claim)
        self._note_end(trial, self.ledger.now(claim.trial))

    def _note_end(self, process: TrialProcess, trial: Trial) -> None:
        if trial.state == "running":
            return
        in_time = not (trial.error or "").startswith(TOO_LONG)
        self.failures.note(trial, counts=in_time and not process.histories.of(trial.id))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signalled = True


def main(folder: str, extra: list[str]) -> int:
    """Work on the sweep in `folder`; the exit code.

    Args:
        folder: Its path.
        extra: See `folder.Plan`.
    """
    leave_out_working_folder()
    try:
        sweep = SweepFolder(Path(folder), extra)
        # For all processes that are started here, the server among them.
        os.environ[THREADS] = str(sweep.plan.threads)
        server = Server(MODULES, environment({"devices": 1}))
        try:
            worker = Worker(sweep, Devices.of_this_machine(), server)
            worker.listen()
            return worker.work()
        finally:
            server.close()
    except UserError as error:
        # For the engine to tell.
        say(error)
        return USER_ERROR
    except OSError as error:
        if (problem := disk_problem(error, folder)) is None:
            raise
        say(problem)
        return USER_ERROR


if __name__ == "__main__":
    run_process(lambda: main(sys.argv[1], sys.argv[2:]))
