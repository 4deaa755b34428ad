"""The files of a log: which they are, and what they hold, told by a hash of their bytes."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from unrolled.errors import UserError
from unrolled.plain_files import write_text

_SETTLED_SECONDS = 2.0
"""A file changed since less than this may change once more without a new time of change."""


@dataclass(frozen=True)
class TextFormat:
    """How a CSV is written, where its first line does not tell.

    Args:
        names: Names of the columns of a file without a header line; None where it has one.
        separator: Between the values; None takes the one that stands in the first line.
        quote: Sign around a value that holds the separator; empty for none.
        encoding: Name of the encoding of the text, as Python knows it.
    """

    names: tuple[str, ...] | None = None
    separator: str | None = None
    quote: str = '"'
    encoding: str = "utf-8"


@dataclass(frozen=True)
class LogFiles:
    """Files of a log.

    Args:
        path: One file or a glob.
        text: How they are written, where they are CSV.
        nulls: Texts that stand for a missing value, in files of any format.
    """

    path: Path
    text: TextFormat = TextFormat()
    nulls: tuple[str, ...] = ()

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class LogQuery:
    """A log that a query in DuckDB's SQL gives.

    Args:
        text: The query.
        files: Files that the query reads as the table `log`; None where it names its own.
    """

    text: str
    files: LogFiles | None = None

    def __str__(self) -> str:
        return "data.source.query" if self.files is None else f"data.source.query of {self.files}"


def matching_files(pattern: Path) -> list[Path]:
    """The file `pattern`, or else the files that it matches as a glob, in order.

    Raises:
        UserError: When there is none.
    """
    if pattern.is_file():
        return [pattern]
    if pattern.is_dir():
        raise UserError(f"{pattern}: is a folder; give a file or a glob, for example *.parquet")
    files = sorted(file for file in _glob(pattern) if file.is_file())
    if not files:
        raise UserError(missing_file_message(pattern))
    return files


def _glob(pattern: Path) -> list[Path]:
    # Folders may be patterns too: logs/2026-*/part-*.parquet.
    fixed = next(folder for folder in pattern.parents if folder.exists())
    return list(fixed.glob(str(pattern.relative_to(fixed))))


def missing_file_message(path: Path) -> str:
    """What to say when a data file is not there."""
    if "UNROLLED_DATA-is-not-set" in str(path):
        return (
            f"{path}: this data set is found through the environment variable UNROLLED_DATA, "
            "which is not set; set it to the folder that holds the data sets"
        )
    hint = "" if path.parent.exists() else f"; there is no folder {path.parent}"
    return f"{path}: no such file{hint}"


def require_distinct(names: list[str], file: Path) -> None:
    """Refuse a file of whose columns two have one name, which SQL does not tell apart in any case.

    Raises:
        UserError: When there are two.
    """
    for name, count in Counter(name.lower() for name in names).items():
        if count > 1:
            twice = next(given for given in names if given.lower() == name)
            raise UserError(f"{file}: more than one column is called '{twice}'")


class Digests:
    """The SHA-256 of files, remembered so that a large log is not read at every start.

    A file is taken to be the same while its path, size, time of change and inode are. One that was
    changed in the last two seconds is not remembered, because a clock that ticks slowly could hide
    the next change.

    Args:
        folder: Where they are remembered, in `digests.json`; None remembers nothing.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._path = None if folder is None else folder / "digests.json"
        self._known: dict[str, list[object]] = {}
        self._changed = False
        if self._path is not None:
            try:
                known = json.loads(self._path.read_text())
                self._known = known if isinstance(known, dict) else {}
            except (OSError, ValueError):
                pass  # Remembered nothing: files are read again.

    def of(self, file: Path) -> str:
        """The digest of `file`, in hexadecimal.

        Raises:
            UserError: When it can't be read.
        """
        try:
            name = str(file.resolve())
            state = _state(file)
            if self._known.get(name, [])[:-1] == state:
                return str(self._known[name][-1])
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if _state(file) == state and time.time() - file.stat().st_mtime > _SETTLED_SECONDS:
                self._known[name] = [*state, digest]
                self._changed = True
            return digest
        except OSError as error:
            raise UserError(f"{file}: can't be read: {error.strerror}") from error

    def is_approved(self, file: Path, by: str) -> bool:
        """Whether the content of `file`, as it is now, was found right.

        Args:
            file: The file.
            by: Checksum of the `store.json` that it was compared with.
        """
        return self._known.get(f"approved {file.resolve()}") == [*_state(file), by]

    def approve(self, file: Path, by: str) -> None:
        """Remember that it was; see `is_approved`."""
        if time.time() - file.stat().st_mtime > _SETTLED_SECONDS:
            self._known[f"approved {file.resolve()}"] = [*_state(file), by]
            self._changed = True

    def save(self) -> None:
        """Remember; where that is not possible, files are read again the next time."""
        if self._path is None or not self._changed or not self._path.parent.is_dir():
            return
        with suppress(OSError):
            write_text(self._path, json.dumps(self._known, indent=0))
            self._changed = False


def _state(file: Path) -> list[object]:
    found: os.stat_result = file.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino]
