"""The process that starts the others of a machine: `python -m unrolled.run.agent RUN_DIR`.

It is torchrun's own agent (`torch.distributed.launcher`): it starts a process for each device,
watches them, and stops or restarts all of them when one dies. What is added here is that the
run's status names the process that died first, with its own error; torchrun takes what another
process says of its lost connection as readily.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from unrolled.errors import UserError
from unrolled.run.directory import RunDirectory, now
from unrolled.run.failure import (
    Failure,
    first_failure,
    forget_failures,
    give_up,
    of_exit,
    read_failures,
    who_gave_up,
)
from unrolled.run.interruption import WARNINGS, taken
from unrolled.run.launch import num_processes
from unrolled.run.machines import SECONDS_TO_MEET, Machine, this_machine
from unrolled.run.parent import SECONDS_TO_SAVE, for_children, watch_parent
from unrolled.run.process import run_process
from unrolled.run.work import FAILED, FINISHED, IN_USE, INTERRUPTED, USER_ERROR

WORK = ("-P", "-m", "unrolled.run.work")
"""What a process is, for Python; the run directory follows."""

SECONDS_BETWEEN_LOOKS = 0.1
"""How often the agent looks whether a process has ended."""

SECONDS_FOR_THE_OTHERS = 10
"""So long the first machine waits for another's account where its own processes were cut off."""


def main(run_dir: str) -> int:
    """Start the processes of this machine; the exit code of the run."""
    # The first process owns the run directory; the agent only reads it until all have ended.
    run = RunDirectory(Path(run_dir))
    # SLURM warns all processes at once: the parent turns it into SIGTERM.
    for number in WARNINGS:
        signal.signal(number, signal.SIG_IGN)
    handler = _Interrupt()
    for number in taken() - {*WARNINGS}:
        signal.signal(number, handler)
    watch_parent()
    os.environ.update(for_children())
    # Else all attempts have one store, and a process that is started again may read in it where its
    # partner listened before it died.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    config = run.config()
    machine = this_machine(config["trainer"])
    try:
        processes = _processes(config["trainer"])
        if machine.first:
            forget_failures(run)
        if machine.count > 1:
            threading.Thread(target=_watch_others, args=(run, machine), daemon=True).start()
        launch_config = _launch_config(machine, processes, int(config.get("restarts") or 0))
        elastic_launch(launch_config, sys.executable)(*WORK, str(run.path))
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        if IN_USE in codes:
            return IN_USE
        if INTERRUPTED in codes:
            return _after_signal(run, machine)
        return _judge(run, machine, error, processes * machine.count)
    except SignalException:
        return _after_signal(run, machine)
    except UserError as error:
        return _tell(run, machine, str(error), user_error=True)
    except RendezvousError as error:
        return _tell(
            run, machine, f"the {machine.count} machines did not meet at {machine.endpoint} within "
            f"{SECONDS_TO_MEET // 60} minutes ({type(error).__name__})"
        )  # fmt: skip
    return INTERRUPTED if run.status().get("state") == "interrupted" else FINISHED


def _processes(trainer: dict[str, Any]) -> int:
    number = num_processes(trainer)
    if isinstance(number, int):
        return number
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            "trainer.accelerator=gpu: this machine has no CUDA device; use trainer=cpu, or "
            "trainer=auto for the best there is"
        )
    return torch.cuda.device_count()


def _launch_config(machine: Machine, processes: int, restarts: int) -> LaunchConfig:
    return LaunchConfig(
        min_nodes=machine.count,
        max_nodes=machine.count,
        nproc_per_node=processes,
        run_id=machine.meeting,
        role="unrolled",
        rdzv_backend="c10d",
        rdzv_endpoint=machine.endpoint,
        rdzv_configs={
            "is_host": machine.first,
            "join_timeout": SECONDS_TO_MEET,
            # The first machine may start its agent some time after the others theirs.
            "read_timeout": 300,
        },
        max_restarts=restarts,
        monitor_interval=SECONDS_BETWEEN_LOOKS,
        # Without files of its own: the processes write to the run directory.
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        local_addr=machine.address,
        # The others are ours: what torchrun does at a second one would end the saving.
        signals_to_handle="SIGQUIT",
        shutdown_timeout=int(SECONDS_TO_SAVE),
    )


class _Interrupt:
    """The first signal is handed to the processes, which save; a second Ctrl-C ends them at once.

    A closed terminal sends its signal several times, and the parent hands it on once more.
    """

    def __init__(self) -> None:
        self.received = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.received:
            self.received = time.monotonic()
            raise SignalException(signal.Signals(number).name, sigval=signal.Signals(number))
        if number != signal.SIGINT or time.monotonic() - self.received < 1.0:
            # The terminal's, and the same one handed on by the parent.
            return
        _kill_processes()
        os._exit(INTERRUPTED)


def _kill_processes() -> None:
    for children in Path("/proc/self/task").glob("*/children"):
        for process in children.read_text().split():
            # Each leads a group of its own.
            with suppress(ProcessLookupError):
                os.killpg(int(process), signal.SIGKILL)


def _watch_others(run: RunDirectory, machine: Machine) -> None:
    """End this machine's processes when another's have: they may wait for those half an hour."""
    # Of an earlier attempt at the run.
    old = who_gave_up(run, machine.number).items()
    while not (new := who_gave_up(run, machine.number).items() - old):
        time.sleep(1)
    time.sleep(SECONDS_FOR_THE_OTHERS)
    _kill_processes()
    time.sleep(SECONDS_FOR_THE_OTHERS)
    # Still here: there are no processes yet, as the machines have not met.
    message = min(new, key=lambda mark: mark[1])[0].read_text()
    os._exit(_tell(run, machine, message))


def _judge(run: RunDirectory, machine: Machine, error: ChildFailedError, num_ranks: int) -> int:
    found = read_failures(run)
    for rank, failure in error.failures.items():
        if rank not in found:
            found[rank] = of_exit(rank, num_ranks, failure)
            found[rank].write(run)
    first = first_failure(found)
    if not machine.first:
        return _tell_failure(run, machine, first)
    deadline = time.monotonic() + SECONDS_FOR_THE_OTHERS
    while machine.count > 1 and first.consequence and time.monotonic() < deadline:
        time.sleep(SECONDS_BETWEEN_LOOKS)
        first = first_failure({**found, **read_failures(run)})
    return _tell_failure(run, machine, first)


def _after_signal(run: RunDirectory, machine: Machine) -> int:
    state = run.status().get("state")
    if state == "finished":
        return FINISHED
    failures = [f for f in read_failures(run).values() if not f.consequence]
    if failures:
        # For example, that there was no room to save.
        return _tell_failure(run, machine, min(failures, key=lambda f: f.time))
    if machine.first and state != "interrupted":
        run.set_status(state="interrupted", finished=now())
    return INTERRUPTED


def _tell_failure(run: RunDirectory, machine: Machine, failure: Failure) -> int:
    return _tell(run, machine, failure.message, failure.user_error)


def _tell(run: RunDirectory, machine: Machine, message: str, user_error: bool = False) -> int:
    if machine.first:
        run.set_status(state="failed", error=message, user_error=user_error, finished=now())
    if machine.count == 1:
        forget_failures(run)
    else:
        give_up(run, machine.number, message)
    return USER_ERROR if user_error else FAILED


if __name__ == "__main__":
    run_process(lambda: main(sys.argv[1]))
