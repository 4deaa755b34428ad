"""Where the ledger of a sweep is kept."""

from __future__ import annotations

from pathlib import Path

import filelock
import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from unrolled.errors import UserError


def open_storage(folder: Path, url: str | None) -> BaseStorage:
    """The storage of a URL, or the journal file of a folder.

    Raises:
        UserError: When Optuna can't open it.
    """
    if url is None:
        path = folder / "journal.log"
        lock = _KernelLock(path.with_suffix(".lock"))
        _heal(path, lock)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    try:
        return optuna.storages.get_storage(url)
    except Exception as error:
        raise UserError(
            f"--storage {url}: {str(error).strip().partition(chr(10))[0]}; for example "
            "sqlite:///sweep.db, or a URL of SQLAlchemy's or of Redis"
        ) from error


class _KernelLock(JournalFileOpenLock):
    """A lock that ends with its process; Optuna's own stay for 30 s after a SIGKILL."""

    def __init__(self, path: Path) -> None:
        self._lock = filelock.FileLock(path)

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


def _heal(path: Path, lock: _KernelLock) -> None:
    """Take back half a line that a process left when it was killed while it wrote."""
    lock.acquire()
    try:
        if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()
