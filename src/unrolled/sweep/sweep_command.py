"""`command:` of a sweep file: what W&B's agent starts, and what of it is a trial's here."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from unrolled.errors import UserError, did_you_mean

PROGRAM = "train.py"
ARGUMENTS = "${args_no_hyphens}"
"""W&B's macro for `key=value`, the only form that train.py takes."""

_PROGRAM = "${program}"
_MACROS = ("${env}", "${interpreter}", _PROGRAM, ARGUMENTS)
_VARIABLE = re.compile(r"\$\{envvar:([A-Za-z0-9_]*)\}")
_STARTS_PYTHON = re.compile(r"\$\{env\}|\$\{interpreter\}|(.*/)?(env|python[0-9.]*)(\.exe)?")


class SweepCommand:
    """How trials are started.

    Args:
        parts: Of the file; None where it has none.

    Attributes:
        after: What follows the program.

    Raises:
        UserError: When train.py could not be started so.
    """

    def __init__(self, parts: Sequence[object] | None) -> None:
        self.is_given = parts is not None
        self.parts = list(_MACROS) if parts is None else [str(part) for part in parts]
        for part in self.parts:
            if part.startswith("${") and part not in _MACROS and not _VARIABLE.match(part):
                if part.startswith("${args"):
                    raise UserError(f"command: {part}: {_WANTED}")
                raise UserError(f"command: {part}: {did_you_mean(part, _MACROS)}")
        programs = [p for p in self.parts if p == _PROGRAM or Path(p).name == PROGRAM]
        if not programs:
            raise UserError(f"command: {' '.join(self.parts)}: it starts no {_PROGRAM}")
        at = self.parts.index(programs[0])
        self._before, self.after = self.parts[:at], self.parts[at + 1 :]
        if ARGUMENTS not in self.after:
            raise UserError(f"command: no arguments: {_WANTED}")

    @property
    def notes(self) -> list[str]:
        """What W&B's agent does otherwise than `unrolled sweep`."""
        if not self.is_given:
            return [
                f"command: without one W&B's agent hands --key=value on, which {PROGRAM} does not "
                f"take; write command: [{', '.join(_MACROS)}]"
            ]
        ignored = [part for part in self._before if not _STARTS_PYTHON.fullmatch(part)]
        if not ignored:
            return []
        return [
            f"command: {' '.join(ignored)}: for W&B's agent alone; `unrolled sweep` starts "
            f"{PROGRAM} itself, with the variables of its own environment"
        ]

    def arguments(self, typed: list[str]) -> list[str]:
        """What follows `train.py`.

        Args:
            typed: `key=value` of the parameters.

        Raises:
            UserError: When a variable is named that is not there.
        """
        found: list[str] = []
        for part in self.after:
            found += typed if part == ARGUMENTS else [_VARIABLE.sub(_value_of, part)]
        return found


_WANTED = f"{PROGRAM} takes key=value, without hyphens: {ARGUMENTS}"


def _value_of(named: re.Match[str]) -> str:
    value = os.environ.get(named[1])
    if value is None:
        raise UserError(f"command: {named[0]}: the environment has no variable {named[1]}")
    return value
