"""Errors that speak to the user: what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
