"""Where the ledger of a sweep is kept."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from unrolled.errors import UserError

JOURNAL = "journal.log"
_PASSWORD = re.compile(r"(?<=://)([^/@]*?:)[^@]*(?=@)")


def open_storage(folder: Path, url: str | None) -> BaseStorage:
    """The storage of a URL, or the journal file of a folder.

    Raises:
        UserError: When Optuna can't open it.
    """
    if url is None:
        path = folder / JOURNAL
        return JournalStorage(JournalFileBackend(str(path), lock_obj=_KernelLock(path)))
    try:
        return optuna.storages.get_storage(url)
    except Exception as error:
        raise UserError(
            f"--storage {shown_url(url)}: {str(error).strip().partition(chr(10))[0]}; for example "
            "sqlite:///sweep.db, or a URL of SQLAlchemy's or of Redis"
        ) from error


def has_password(url: str | None) -> bool:
    """Whether a password stands in a URL."""
    return url is not None and _PASSWORD.search(url) is not None


def shown_url(url: str) -> str:
    """A URL as others may read it."""
    return _PASSWORD.sub(r"\1***", url)


@contextmanager
def locked(journal: Path) -> Iterator[None]:
    """Within, nobody else writes to a journal."""
    lock = _KernelLock(journal)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


class _KernelLock(JournalFileOpenLock):
    """A lock on a journal that ends with its process; Optuna's own stay for 30 s after a SIGKILL.

    A process that is killed while it writes leaves half a line. Whoever writes next takes it back:
    were it to write behind it, nobody could read the journal any more.

    Args:
        journal: The file.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._lock = filelock.FileLock(journal.with_suffix(".lock"))

    def acquire(self) -> bool:
        self._lock.acquire()
        try:
            _heal(self._journal)
        except BaseException:
            self._lock.release()
            raise
        return True

    def release(self) -> None:
        self._lock.release()


def _heal(path: Path) -> None:
    with path.open("r+b") as file:
        if not file.seek(0, os.SEEK_END):
            return
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
