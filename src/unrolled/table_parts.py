"""Tables that are wider than the terminal: shown in parts, so that no column is lost.

Rich makes columns narrower until they fit, cuts what does not, and leaves out the last ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table

LONGEST_PIECE = 12
"""Text that is no number may be broken within a word of more characters than this."""


@dataclass(frozen=True)
class _Shown:
    """A column and the widths that it can have, in characters.

    Args:
        column: A column of the whole table.
        least: With it no number and no name of a column is broken.
        most: With it nothing is.
    """

    column: Column
    least: int
    most: int


def parts_of(table: Table, console: Console) -> Iterator[Table]:
    """The table, or where it does not fit several with some of its columns each.

    Args:
        table: Its first column says what a row is of; every part repeats it.
        console: Where the table is shown.
    """
    key, *others = (_measured(column, console) for column in table.columns)
    while True:
        count = len(others)
        while count > 1 and _spare(table, [key, *others[:count]], console) < 0:
            count -= 1
        yield _part(table, [key, *others[:count]], console)
        others = others[count:]
        if not others:
            return


def _measured(column: Column, console: Console) -> _Shown:
    texts = [console.render_str(str(cell)).plain for cell in column.cells]
    header = console.render_str(str(column.header)).plain
    most = max(cell_len(text) for text in [header, *texts])
    words = [word for text in texts for word in text.split()]
    whole = column.no_wrap or column.justify == "right"
    least = max((cell_len(part) for part in (texts if whole else words)), default=1)
    if not whole:
        least = min(least, LONGEST_PIECE)
    return _Shown(column, max([least, *map(cell_len, header.split())]), most)


def _spare(table: Table, shown: list[_Shown], console: Console) -> int:
    """Characters that are left beside columns of their least widths; negative if there are none."""
    probe = _empty(table)
    for one in shown:
        probe.add_column(width=one.least)
    unbounded = console.options.update(max_width=10_000)
    return console.width - console.measure(probe, options=unbounded).maximum


def _part(table: Table, shown: list[_Shown], console: Console) -> Table:
    spare = _spare(table, shown, console)
    part = _empty(table)
    for one in shown:
        # Below 0 the terminal is too narrow for the row's name and one number: the name is broken.
        more = min(spare, one.most - one.least)
        spare = max(0, spare - more)
        part.add_column(
            one.column.header,
            justify=one.column.justify,
            overflow="fold",
            width=max(1, one.least + more),
        )
    for row in zip(*(one.column.cells for one in shown), strict=True):
        part.add_row(*row)
    return part


def _empty(table: Table) -> Table:
    return Table(box=table.box, pad_edge=table.pad_edge, title=table.title, caption=table.caption)
