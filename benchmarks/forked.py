"""Runs in processes that are forked from a warm one (`unrolled.run.warm`): no start-up.

The processes do what those of `train.py` do, `unrolled.run.work` on a run directory, one for each
rank; and one of them can be made to send itself a signal at a given place.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any
from unittest import mock

from unrolled.run import checkpoint_files, training, work
from unrolled.run.compose import compose
from unrolled.run.directory import RunDirectory
from unrolled.run.launch import environment, num_processes, prepare_data
from unrolled.run.overrides import read_command_line
from unrolled.run.warm import MODULES, Server
from unrolled.tasks.base import SequenceTask

SERVER = Server(
    (*MODULES, "forked"),
    environment({"devices": 1}) | {"PYTHONPATH": os.pathsep.join(
        filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")])
    )},
)  # fmt: skip
atexit.register(SERVER.close)

LONGEST = 280.0
"""Seconds after which a run that neither ends nor dies counts as hanging."""


@dataclass(frozen=True)
class Kill:
    """Where a process kills itself.

    Args:
        place: The function in whose call it happens, see `PLACES`.
        call: At which call.
        again: Seconds after which it sends itself the signal once more; None does not.
        rank: Which process.
    """

    place: str
    call: int
    rank: int = 0
    again: float | None = None


PLACES = {
    "before a step": (SequenceTask, "training_step"),
    "after a step": (SequenceTask, "on_train_batch_end"),
    "in a validation": (SequenceTask, "validation_step"),
    "while a checkpoint is written": (checkpoint_files.os, "fsync"),
    "in the test": (SequenceTask, "test_step"),
    "after the test": (training, "finish"),
}
"""Functions in whose call a process may be killed."""


def create(typed: Sequence[str], folder: Path) -> RunDirectory:
    """A run directory, as `train` makes it."""
    line = read_command_line([*typed, f"run_dir={folder}"])
    config = compose(line).config
    prepare_data(config)
    return RunDirectory.create(config, folder, " ".join(typed))


def work_on(run: RunDirectory, kill: Kill | None = None, number: int = signal.SIGKILL) -> list[int]:
    """Do the work of a run in processes of its own.

    Args:
        run: The run directory.
        kill: Where one of the processes is to send itself a signal.
        number: The signal.

    Returns:
        What became of each process: 0, an exit code, or minus the number of the signal. After the
        first that is killed, the others are killed too, as torchrun does.
    """
    count = num_processes(run.config()["trainer"])
    assert isinstance(count, int)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = environment(run.config()["trainer"])
    if count > 1:
        variables |= {
            "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "forked",
        }  # fmt: skip
    processes = []
    with (run.path / "output.txt").open("ab") as output:
        for rank in range(count):
            of_rank = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}
            killed = kill if kill and kill.rank == rank else None
            processes.append(
                SERVER.start(_work, (str(run.path), killed, number), {**variables, **of_rank},
                             output.fileno(), output.fileno())
            )  # fmt: skip
    limit = time.monotonic() + LONGEST
    while alive := [process for process in processes if process.poll() is None]:
        wait(alive, timeout=LONGEST)
        hang = time.monotonic() > limit
        if hang or any((process.poll() or 0) < 0 for process in processes):
            for process in alive:
                process.kill()
    assert time.monotonic() < limit, f"{run.path}: the processes hang"
    return [process.wait() for process in processes]


def _work(path: str, kill: Kill | None, number: int) -> int:
    """What a process does."""
    with _killed_at(kill, number) if kill else nullcontext():
        return work.main(path)


@contextmanager
def _killed_at(kill: Kill, number: int) -> Iterator[None]:
    owner, name = PLACES[kill.place]
    original, calls = getattr(owner, name), 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == kill.call:
            os.kill(os.getpid(), number)
            if kill.again is not None:
                time.sleep(kill.again)
                os.kill(os.getpid(), number)
        return original(*arguments, **named)

    with mock.patch.object(owner, name, counted):
        yield
