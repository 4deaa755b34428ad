"""Reporting how far a long computation is, so that nobody waits in silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Tell: TypeAlias = Callable[[str, int, int], None]
"""Takes the name of what is computed, how much is done, and how much there is."""


def untold(name: str, done: int, total: int) -> None:
    """Tell nobody."""
