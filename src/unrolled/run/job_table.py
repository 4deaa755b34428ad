"""What became of the jobs of a multirun, told from whatever process each of them is in."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """A job that was started.

    Args:
        number: Hydra's, from 0.
        typed: The overrides of this job.
        run: Its run directory, absolute.
        code: Its exit code; None of a job that has not ended.
    """

    number: int
    typed: list[str]
    run: str
    code: int | None


class JobTable:
    """A file of one line a job, in the folder of the command: all machines of a cluster see that.

    A launcher pickles the job: what a job appends to a list stays in the job's own process.
    """

    def __init__(self) -> None:
        self.path = Path.cwd() / f".multirun-{secrets.token_hex(4)}.jsonl"

    def add(self, job: Job) -> None:
        """Tell that a job was started or has ended; nothing where nobody waits for it any more."""
        line = json.dumps([job.number, job.typed, job.run, job.code]) + "\n"
        with suppress(FileNotFoundError):
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            # In one write, which those of other processes do not come into.
            os.write(file, line.encode())
            os.close(file)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Within, jobs may be added; the file is gone afterwards."""
        self.path.touch()
        try:
            yield
        finally:
            self.path.unlink()

    def jobs(self) -> list[Job]:
        """The jobs in their order, each as it was told last."""
        lines = self.path.read_text().splitlines()
        last = {job.number: job for job in (Job(*json.loads(line)) for line in lines)}
        return [last[number] for number in sorted(last)]
