"""Values as they are typed on a command line."""

from __future__ import annotations

import re
from typing import Any

from unrolled.sweep.read_parameters import is_number


def as_typed(value: Any) -> str:
    """A value as it is typed on the command line, so that Hydra reads the same."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(as_typed(v) for v in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{k}:{as_typed(v)}' for k, v in value.items())}}}"
    if isinstance(value, str) and not _is_plain_text(value):
        # A backslash is one by itself, except before a quotation mark.
        escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
        escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
        return f"'{escaped}'"
    return repr(value) if isinstance(value, float) else str(value)


def _is_plain_text(value: str) -> bool:
    """Whether Hydra reads a text without quotation marks as itself."""
    # W&B's agent writes None for null, and train.py reads it so.
    if value == "None" or value.lower() in ("true", "false", "null"):
        return False
    return re.fullmatch(r"[\w./+-]+", value, re.ASCII) is not None and not is_number(value)
