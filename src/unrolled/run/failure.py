"""Why a process of a run ended, and which of several ended first."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unrolled.errors import TrainingError, UserError
from unrolled.run.directory import RunDirectory, now

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

FOLDER = ".failures"
"""In the run directory, which all machines see: a file for each process that failed."""

_OF_A_LOST_PEER = re.compile(
    r"gloo|NCCL|by peer|peer closed|Broken pipe|connection was closed", re.I
)
"""What a process says whose partner in a collective operation is gone."""


@dataclass(frozen=True)
class Failure:
    """The end of one process.

    Args:
        rank: Of the process.
        num_ranks: Processes of the run.
        text: What is to be told of it.
        time: When, in seconds since 1970.
        consequence: Whether it ended because another had.
        user_error: Whether the user can mend it.
        tells_all: Whether `text` is the same of whichever process.
    """

    rank: int
    num_ranks: int
    text: str
    time: float
    consequence: bool = False
    user_error: bool = False
    tells_all: bool = False

    @property
    def message(self) -> str:
        """With the process's number, where it matters."""
        if self.user_error or self.tells_all or self.num_ranks == 1:
            return self.text
        return f"process {self.rank} of {self.num_ranks} {self.text}"

    def write(self, run: RunDirectory) -> None:
        """Leave it in the run directory, for the agent of the first machine."""
        (run.path / FOLDER).mkdir(exist_ok=True)
        run.write_json(f"{FOLDER}/{self.rank}.json", asdict(self))


def failed(run: RunDirectory, error: BaseException) -> bool:
    """Note why this process ends: in status.json, or for the agent that started several.

    Returns:
        Whether it is a mistake of the user.
    """
    user_error = isinstance(error, UserError)
    # These say themselves what went wrong, on all processes alike.
    told = user_error or isinstance(error, TrainingError)
    text = str(error).strip()
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename or run.path}: {error.strerror}"
    elif not told:
        text = f"{type(error).__name__}: {text.partition(chr(10))[0]}"
    if not has_agent():
        run.set_status(state="failed", error=text, user_error=user_error, finished=now())
        return user_error
    lost = not user_error and bool(_OF_A_LOST_PEER.search(f"{type(error).__name__}: {error}"))
    Failure(
        rank=int(os.environ["RANK"]),
        num_ranks=int(os.environ["WORLD_SIZE"]),
        text=text if told else f"failed: {text}",
        time=time.time(),
        consequence=lost,
        user_error=user_error,
        tells_all=told,
    ).write(run)
    return user_error


def has_agent() -> bool:
    """Whether torchrun's agent started this process and will tell how it ended."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def times_restarted() -> int:
    """How often the agent has started the processes again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def of_exit(rank: int, num_ranks: int, failure: ProcessFailure) -> Failure:
    """What is known of a process that did not say why it ended."""
    code = failure.exitcode
    if code >= 0:
        return Failure(rank, num_ranks, f"ended with exit code {code}", failure.timestamp)
    name = failure.signal_name()
    text = f"was killed by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
    # torchrun stops the others by SIGTERM; a process may abort when its partners leave.
    late = 1.0 if -code == signal.SIGABRT else 0.0
    return Failure(
        rank, num_ranks, text, failure.timestamp + late, consequence=-code == signal.SIGTERM
    )


def read_failures(run: RunDirectory) -> dict[int, Failure]:
    """What the processes of all machines have left, by rank."""
    found = {}
    for path in (run.path / FOLDER).glob("[0-9]*.json"):
        failure = Failure(**json.loads(path.read_text()))
        found[failure.rank] = failure
    return found


def give_up(run: RunDirectory, machine: int, message: str) -> None:
    """Tell the other machines that this one has failed for good, and why."""
    (run.path / FOLDER).mkdir(exist_ok=True)
    run.write(f"{FOLDER}/machine-{machine}", message)


def who_gave_up(run: RunDirectory, machine: int) -> dict[Path, float]:
    """What the machines beside this one left that have, and when, by the clock of the disk."""
    marks = (run.path / FOLDER).glob("machine-*")
    return {m: m.stat().st_mtime for m in marks if m.name != f"machine-{machine}"}


def first_failure(failures: dict[int, Failure]) -> Failure:
    """The one that the others are consequences of."""
    return min(failures.values(), key=lambda failure: (failure.consequence, failure.time))


def forget_failures(run: RunDirectory, rank: int | None = None) -> None:
    """Remove what was left by an earlier attempt: by one process, or by all."""
    if rank is None:
        shutil.rmtree(run.path / FOLDER, ignore_errors=True)
    else:
        (run.path / FOLDER / f"{rank}.json").unlink(missing_ok=True)
