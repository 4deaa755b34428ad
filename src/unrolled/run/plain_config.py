"""Reading the config of a run that somebody else may have written: plain data, and not too much."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from unrolled.errors import UserError

MOST_NESTED, MOST_VALUES = 50, 100_000
"""How deep a config may be, and how many values it may have at one depth."""


def read_plain(path: Path) -> dict[str, Any]:
    """A config of plain data, whatever tags the file has.

    Raises:
        UserError: When the file does not hold one.
    """
    try:
        config = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", error)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not a config of plain values: {problem}") from error
    named = isinstance(config, dict) and all(isinstance(name, str) for name in config)
    if not named or not _is_plain([config]):
        raise UserError(f"{path}: not the config of a run")
    result: dict[str, Any] = config
    return result


def _is_plain(values: Collection[Any]) -> bool:
    """Whether all is plain data, and no more of it than a config has.

    YAML's aliases can make a short file endless.
    """
    level: list[Any] = list(values)
    for _ in range(MOST_NESTED):
        below = [list(v.values()) if isinstance(v, dict) else v for v in level
                 if isinstance(v, dict | list)]  # fmt: skip
        names = (name for v in level if isinstance(v, dict) for name in v)
        scalars = (v for v in level if not isinstance(v, dict | list))
        # A name can be a number: the weight of each length.
        if not all(isinstance(name, bool | int | float | str) for name in names) or not all(
            v is None or isinstance(v, bool | int | float | str) for v in scalars
        ):
            return False
        if sum(map(len, below)) > MOST_VALUES:
            return False
        level = [value for part in below for value in part]
        if not level:
            return True
    return False
