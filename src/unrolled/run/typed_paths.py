"""Paths on the command line, which are taken as the shell hands them over.

Hydra has a grammar of its own for values, by which brackets, commas, spaces, `#` and `=` in a path
mean something else or nothing. A value of a key that is a path is put into quotes for it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

_KEYS = re.compile(r"(\+{0,2})(resume|data\.source\.labels|hydra\.sweep\.subdir|"
                   r"([\w.]+[._])?(path|dir|dirpath|file))")  # fmt: skip
"""Keys whose values are paths."""


_PLAIN = re.compile(r"(\.{0,2}/|[A-Za-z])[A-Za-z0-9_./-]*")


def typed_path(argument: str, *, multirun: bool = False) -> str | None:
    """The path that `key=value` gives to a key that is a path.

    What exists under the name that was typed is meant. Otherwise the value may still be null, in
    quotes, with an interpolation such as `${now:%Y}` or, for a multirun, several values: that is
    Hydra's to read.

    Args:
        argument: The argument as it was typed.
        multirun: Whether a comma may separate several paths.

    Returns:
        The path; None where the key is none, or Hydra reads the value.
    """
    key, _, value = argument.partition("=")
    if not _KEYS.fullmatch(key) or not value:
        return None
    if os.path.lexists(user_path(value)):
        return value
    if value == "null" or "${" in value:
        return None
    in_quotes = len(value) > 1 and value[0] in "'\"" and value[-1] == value[0]
    if in_quotes or multirun:
        try:
            read = OverridesParser.create().parse_override(f"key={value}")
        except HydraException:
            return value
        if read.is_sweep_override():
            return None
        if in_quotes:
            return str(read.value())
    return value


def user_path(text: str) -> Path:
    """A path as it was typed, where `~` may be the user's folder."""
    # Path's own method fails where no user has such a name.
    return Path(os.path.expanduser(text))  # noqa: PTH111


def for_hydra(path: str) -> str:
    """A text as Hydra and omegaconf read exactly it: in quotes, but for plain names."""
    if _PLAIN.fullmatch(path) and path.lower() not in ("true", "false", "null", "nan", "inf"):
        return path
    # A backslash before an interpolation takes its meaning from it.
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", path)
    return QuotedString(escaped, Quote.single).with_quotes()
