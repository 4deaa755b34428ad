"""Runs in processes that are forked from one that has imported torch: no seconds of start-up.

The processes do what those of `train.py` do, `unrolled.run.work` on a run directory, one for each
rank; and one of them can be made to send itself a signal at a given place.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any
from unittest import mock

from unrolled.run import checkpoint_files, training, work
from unrolled.run.compose import compose
from unrolled.run.directory import RunDirectory
from unrolled.run.launch import environment, num_processes, prepare_data
from unrolled.run.overrides import read_command_line
from unrolled.tasks.base import SequenceTask

# The memory allocator reads its settings when a process starts: that of the server from which all
# others are forked.
os.environ.update(environment({"devices": 1}))
CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["forked", "unrolled.run.training", "unrolled.report.plots"])

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
    processes = [
        CONTEXT.Process(target=_work, args=(run.path, rank, count, port, kill, number))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    limit = time.monotonic() + LONGEST
    while alive := [process for process in processes if process.is_alive()]:
        wait([process.sentinel for process in alive], timeout=LONGEST)
        hang = time.monotonic() > limit
        if hang or any((process.exitcode or 0) < 0 for process in processes):
            for process in alive:
                process.kill()
    assert time.monotonic() < limit, f"{run.path}: the processes hang"
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.close()
    return [code for code in codes if code is not None]


def _work(path: Path, rank: int, count: int, port: int, kill: Kill | None, number: int) -> None:
    """What a process does."""
    output = os.open(path / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(environment(RunDirectory(path).config()["trainer"]))
    if count > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "forked",
        }  # fmt: skip
    patched = _killed_at(kill, number) if kill and kill.rank == rank else nullcontext()
    with patched:
        sys.exit(work.main(str(path)))


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
