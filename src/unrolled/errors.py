"""Errors that speak to the user: what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
"""Errors of the system that the user can mend: no room, no right."""


class UserError(ValueError):
    """A mistake the user can mend: shown as its message alone, exit code 2.

    Args:
        problems: One message, or several that were found together.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class TrainingError(RuntimeError):
    """Training that can't go on though nobody made a mistake: one line, exit code 1."""


def disk_problem(error: BaseException, place: str = "a file of this command") -> str | None:
    """What is wrong with the disk, such as no room or no right to write; None for other errors.

    Args:
        error: The error that was raised.
        place: Named where the error names no file.
    """
    if not isinstance(error, OSError) or error.errno not in _OF_THE_DISK:
        return None
    return f"{error.filename or place}: {error.strerror}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest valid name, as the end of a message; the whole choice where it is short."""
    choices = sorted(set(known))
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    if not choices:
        return "there is nothing to choose from."
    shown = ", ".join(choices[:12]) + (", ..." if len(choices) > 12 else "")
    return f"choose from: {shown}"
