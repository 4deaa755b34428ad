"""Who works on which trial.

A trial that somebody works on has a lease, a file lock in the sweep's folder that the kernel takes
back when its holder dies. All who work on a sweep must therefore share its folder, whatever storage
its ledger has.
"""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

import filelock

from unrolled.run.directory import LAST, RunDirectory


class Leases:
    """The leases of a sweep's trials.

    Args:
        folder: Of the sweep.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._locks = folder / ".leases"
        self._locks.mkdir(parents=True, exist_ok=True)

    def take(self, trial_id: str) -> filelock.BaseFileLock | None:
        """The lease of a trial; None where somebody works on it, a process without a worker too."""
        lease = filelock.FileLock(self._locks / f"{trial_id}.lock")
        try:
            lease.acquire(timeout=0)
        except filelock.Timeout:
            return None
        if RunDirectory(self.folder / trial_id).is_in_use():
            lease.release()
            return None
        return lease

    def is_taken(self, trial_id: str) -> bool:
        """Whether somebody works on a trial."""
        lease = self.take(trial_id)
        if lease is not None:
            lease.release()
        return lease is None

    def last_sign(self, trial_id: str) -> float | None:
        """When a trial's run last wrote something, in seconds since 1970; None for never."""
        run = RunDirectory(self.folder / trial_id)
        files = [run.path / name for name in ("metrics.csv", "status.json", "train.log")]
        times = [time for file in files if (time := _modified(file)) is not None]
        return max(times, default=None)

    def checkpoint(self, trial_id: str) -> float | None:
        """Of which time the checkpoint of a trial's run is; None where there is none."""
        return _modified(RunDirectory(self.folder / trial_id).checkpoints / LAST)

    def place(self) -> dict[str, str]:
        """Which folder this is: the same on all machines that share it.

        Only who is alone with the ledger may ask.
        """
        path = self._locks / "folder"
        if not path.exists():
            RunDirectory(self._locks).write(path.name, secrets.token_hex(8))
        return {"id": path.read_text(), "where": f"{socket.gethostname()}:{self.folder}"}


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None
