"""Starting the work of a run in processes of its own, and telling how it went."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from unrolled.errors import UserError
from unrolled.run import interruption
from unrolled.run.directory import RunDirectory, now
from unrolled.run.machines import this_machine
from unrolled.run.parent import for_children
from unrolled.run.warm import Process, Server
from unrolled.run.work import FAILED, FINISHED, IN_USE, INTERRUPTED, USER_ERROR, whole_process

TASKS_OF_SLURM = ("SLURM_NTASKS", "SLURM_PROCID")
"""By these Lightning takes srun's tasks, or those that a job script only reserves, for the
processes of the run."""


def prepare_data(config: dict[str, Any], *, tell: bool = False) -> Path | None:
    """Make the event store where it is missing, before there is a run that could fail on it.

    Args:
        config: Composed and checked.
        tell: Give the account of a store that is there already, too.

    Returns:
        The store; None where the data are not prepared from a log.

    Raises:
        UserError: When the data can't be right.
    """
    from unrolled.run.experiment import build

    num_processes(config["trainer"])
    source = config["data"].get("source")
    store_dir = config["data"].get("store_dir")
    if not isinstance(source, dict) or store_dir is None:
        return None
    log = build(source, "data.source")
    from unrolled.data.prepare import prepare

    options = {key: config["data"].get(key) for key in ("memory_limit", "threads")}
    options["engine"] = config["data"].get("engine", "duckdb")
    return prepare(log, Path(store_dir), tell=tell, **options)


def launch(run: RunDirectory) -> int:
    """Do the work of a run: one process, or one for each device by torchrun.

    Of a run on several machines, this machine's part; the first one tells how it went.

    Returns:
        0 finished, 1 failed, 2 a mistake of the user, 130 interrupted.
    """
    machine = this_machine(run.config()["trainer"])
    process = start(run)
    previous = {s: signal.signal(s, _forward(process, s)) for s in interruption.taken()}
    try:
        code = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if not machine.first:
        return code if code >= 0 else FAILED
    return settle(run, code)


def start(run: RunDirectory) -> subprocess.Popen[bytes]:
    """Start the work of a run, which goes on from the run's checkpoint where there is one."""
    config = run.config()
    env = environment(config["trainer"]) | for_children()
    return subprocess.Popen(_command(run, config), env=env, **_output(run, config))


def start_in_background(
    run: RunDirectory, variables: dict[str, str], server: Server | None
) -> Process:
    """Start the work of a run away from the terminal; `train.log` has what it would have printed.

    Args:
        run: The run directory.
        variables: Further environment variables.
        server: To fork from where the run is a single process; None starts a new one.
    """
    config = run.config()
    env = environment(config["trainer"]) | for_children() | variables
    with run.log.open("ab") as log, Path(os.devnull).open("wb") as null:
        if server is not None and not needs_agent(config):
            with suppress(OSError):
                return server.start(
                    whole_process, (str(run.path),), env, null.fileno(), log.fileno()
                )
        return subprocess.Popen(
            _command(run, config), env=env, stdin=subprocess.DEVNULL, stdout=null, stderr=log,
            # Ctrl-C is for the one who has started it, who hands it on.
            start_new_session=True,
        )  # fmt: skip


def num_processes(trainer: dict[str, Any]) -> int | str:
    """Processes on this machine: a number, or `gpu` for one a GPU.

    Raises:
        UserError: For what is none of these.
    """
    devices = trainer.get("devices", 1)
    if isinstance(devices, list):
        return len(devices)
    if devices in ("auto", -1, "-1"):
        # Which GPUs there are is torchrun's to find out: this process does not import torch.
        return "gpu" if trainer.get("accelerator") in ("gpu", "cuda") else 1
    try:
        number = int(devices)
    except ValueError:
        number = 0
    if number < 1:
        raise UserError(f"trainer.devices={devices}: give a number from 1 on, a list, or auto")
    return number


def _command(run: RunDirectory, config: dict[str, Any]) -> list[str]:
    kind = "agent" if needs_agent(config) else "work"
    return [sys.executable, "-P", "-m", f"unrolled.run.{kind}", str(run.path)]


def needs_agent(config: dict[str, Any]) -> bool:
    """Whether torchrun's agent is needed: for several processes, or to start one again."""
    trainer = config["trainer"]
    several = num_processes(trainer) != 1 or (trainer.get("num_nodes") or 1) > 1
    return several or bool(config.get("restarts"))


def environment(trainer: dict[str, Any]) -> dict[str, str]:
    """The environment variables of the processes that train."""
    variables = {name: value for name, value in os.environ.items() if name not in TASKS_OF_SLURM}
    processes = num_processes(trainer)
    if isinstance(processes, int) and processes > 1:
        # Spinning threads of several processes on the same cores slow each other down.
        variables.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    if sys.platform == "linux":
        # By default glibc hands the memory of a step's tensors back to the kernel and faults it in
        # again at the next: half of the time of a step of the bitcount model at batch 1000. Keep
        # up to 1 GiB instead.
        variables.setdefault("MALLOC_MMAP_MAX_", "0")
        variables.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**30))
    # oneDNN keeps the code that it made for each shape of its products, of the last 1,024 shapes:
    # where batches differ, as in buckets and with sampled items, that is most of a gigabyte and
    # saves no time.
    variables.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
    return variables


def _output(run: RunDirectory, config: dict[str, Any]) -> dict[str, Any]:
    # torchrun writes to stderr when a rank fails; the reason is in status.json.
    return {"stderr": run.log.open("ab")} if needs_agent(config) else {}


def _forward(process: subprocess.Popen[bytes], number: int) -> Any:
    def handler(received: int, frame: FrameType | None) -> None:
        # Ctrl-C reaches the whole group by itself; any other signal only this process.
        if number != signal.SIGINT or not sys.stdin.isatty():
            # torchrun's agent knows nothing of SLURM's warnings.
            process.send_signal(signal.SIGTERM if number in interruption.WARNINGS else number)

    return handler


def settle(run: RunDirectory, code: int) -> int:
    """The exit code of a run, and a status that is right even when its process was killed.

    Args:
        run: The run directory.
        code: Of the process that `start` gave.

    Returns:
        0 finished, 1 failed, 2 a mistake of the user, 130 interrupted.

    Raises:
        UserError: When another process is working on the run.
    """
    status = run.status()
    state = status.get("state")
    if code == IN_USE:
        raise UserError(f"{run.path}: another process is working on this run")
    if code == 0 and state == "finished":
        return FINISHED
    if state == "interrupted":
        return INTERRUPTED
    if code == INTERRUPTED or -code in interruption.SIGNALS:
        # By a second Ctrl-C, or before the process listened to signals.
        run.set_status(state="interrupted", finished=now())
        return INTERRUPTED
    if state != "failed":
        reason = f"its process ended by signal {-code}" if code < 0 else f"exit code {code}"
        run.set_status(state="failed", error=f"the run stopped without a word: {reason}",
                       finished=now())  # fmt: skip
        return FAILED
    # Under torchrun the ranks' exit codes are lost; a mistake of the user is told by no traceback.
    return USER_ERROR if code == USER_ERROR or status.get("user_error") else FAILED
