"""All that is shown in a terminal goes through here, so that text is shown as it is.

Parameters, names, paths and messages of libraries may hold anything: `[bold]` is Rich's markup,
`:warning:` its emoji, an escape character begins a command to the terminal, and a character that
turns the direction of writing makes a name look like another one. None of them is interpreted.
"""

from __future__ import annotations

import re
import sys
from itertools import chain
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from unrolled.table_parts import parts_of

_UNSEEN = re.compile(
    # Control characters but for tab and newline, halves of a surrogate pair (by which Python holds
    # a path that is not UTF-8), line separators, and what turns the direction of writing.
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def as_seen(text: str) -> str:
    r"""A text with every character that a terminal would obey written out: `\x1b` for escape."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(text: object, *, stderr: bool = False) -> None:
    """Print a text as it is, at once.

    Args:
        text: One line or several.
        stderr: Whether it goes to the standard error output.
    """
    print(as_seen(str(text)), file=sys.stderr if stderr else sys.stdout, flush=True)


def say_error(message: str) -> None:
    """Print each line of a message as an error."""
    for problem in message.splitlines():
        say(f"error: {problem}", stderr=True)


class Terminal(Console):
    """Rich's console, which shows strings as they are, in tables, titles and lines alike.

    A table that is wider than the terminal is printed in parts.

    Args:
        **options: Of `rich.console.Console`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False, **options, "markup": False, "emoji": False})

    def print(self, *objects: Any, **options: Any) -> None:
        """Print strings and what else Rich prints; no column of a table is lost."""
        parts = (parts_of(o, self) if isinstance(o, Table) else (o,) for o in objects)
        super().print(*chain.from_iterable(parts), **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Every string that Rich shows becomes a `Text` here, those of a table's cells too."""
        return super().render_str(as_seen(text), **options)
