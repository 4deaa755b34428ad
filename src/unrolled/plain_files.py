"""Writing into a folder that somebody else may have filled: into plain files inside it, and only
into them.

A run directory that was received may hold links: `train.log -> ~/.bashrc`. Two rules keep the files
elsewhere as they are. A folder is looked through when it is opened, and one with links that lead
out of it is refused. And a file is written beside its place under a new name and renamed, or, where
lines are added to it, is made the folder's own first: two folders can share a file by hard links,
as copies of `cp -l` and archives do.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unrolled.errors import UserError


def require_plain_files(folder: Path) -> None:
    """Refuse a folder in which a write, or a read, could reach something else than its own files.

    Links from one file of the folder to another are no harm; W&B makes them, and in each of its own
    folders one to the log of its process, which nobody opens again.

    Raises:
        UserError: When a file below it is a link that leads out of the folder, or a pipe, a device
            or a socket; or when it can't be looked through.
    """
    root = folder.resolve()
    found: list[str] = []

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: can't be read: {error.strerror}") from error

    for place, folders, files in os.walk(root, onerror=refuse):
        for name in [*folders, *files]:
            path = Path(place, name)
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                of_wandb = path.relative_to(root).match("wandb/*run-*/logs/debug-core.log")
                if not of_wandb and not _leads_inside(path, root):
                    found.append(f"{path.relative_to(root)} -> {path.readlink()}")
            elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                found.append(f"{path.relative_to(root)}, which is no file")
    if found:
        raise UserError(
            f"{folder}: {len(found)} of its files lead out of it, first {found[0]}; this command "
            "would read or write what lies there. Put a copy in its place, or remove it"
        )


def _leads_inside(link: Path, root: Path) -> bool:
    try:
        return link.resolve().is_relative_to(root)
    except (OSError, RuntimeError):
        # A circle of links.
        return False


@contextmanager
def written_beside(path: Path, *, alone: bool = False) -> Iterator[Path]:
    """A new file to fill, which then takes the place of `path`: whole or not at all.

    Args:
        path: The file to write.
        alone: Whether no other process writes it at the same time. What a killed process has left
            is then replaced, which counts where files are large.

    Yields:
        The file: empty, in the same folder.
    """
    partial = path.with_name(f".{path.name}.{'partial' if alone else os.getpid()}")
    partial.unlink(missing_ok=True)
    # Fails where the name is taken again, by a link as well.
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with written_beside(path) as partial:
        partial.write_text(text)


def to_append(path: Path) -> Path:
    """The same path, of a file that is the folder's own: no link, and shared with no other folder.

    A file that is shared is replaced by a copy.

    Raises:
        UserError: When it is a link or no file.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return path
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path}: is a link or no file; nothing is written there")
    if found.st_nlink > 1:
        with written_beside(path) as partial:
            shutil.copyfile(path, partial)
    return path
