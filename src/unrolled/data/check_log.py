"""Everything that can be wrong with the values of a log, found by one aggregate query."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from unrolled.data.check_time import bad, fine_checks, read_time, refuse_too_fine, time_checks
from unrolled.data.log import LogColumns
from unrolled.data.sql import (
    EXACT,
    INTEGER,
    NANOSECONDS,
    Clock,
    Column,
    Given,
    doubled_labels_query,
    inexact_labels_query,
    microseconds,
    number,
)
from unrolled.errors import UserError

Counts = Mapping[str, Any]


def checks(columns: LogColumns, given: Given) -> dict[str, str]:
    """The aggregates that tell whether a log is right, by name: SQL expressions over `given`."""
    of = given.columns
    asked = {"rows": "count(*)"}
    for name in dict.fromkeys([columns.key, *columns.categories, *columns.numeric]):
        asked[f"filled {name}"] = f"count({of[name].at})"
    for name in {n for n in (columns.used_type, columns.time, columns.own_order) if n is not None}:
        asked[f"filled {name}"] = f"count({of[name].at})"
    for column in of.values():
        if column.type in EXACT and column.name not in columns.numeric:
            asked |= bad(f"inexact {column.name}", f"abs({column.at}) >= {EXACT[column.type]}")
    for name, transform in columns.numeric.items():
        value = number(of[name], columns.decimal)
        asked |= bad(f"odd {name}", f"{of[name].at} IS NOT NULL AND {value} IS NULL")
        if transform == "log":
            asked |= bad(f"negative {name}", f"{value} < 0")
    if columns.time is not None:
        asked |= _empty(of[columns.time]) | time_checks(of[columns.time], columns)
    if columns.own_order is not None:
        asked |= _order_checks(of[columns.own_order])
    return asked


def _empty(column: Column) -> dict[str, str]:
    return bad(f"empty {column.name}", f"{column.at} IS NULL")


def moment_checks(columns: LogColumns, column: Column) -> dict[str, str]:
    """The aggregates that tell whether the moments of asking are right, over their view."""
    asked = {"rows": "count(*)", f"filled {column.name}": f"count({column.at})"}
    if column.type in EXACT:
        asked |= bad(f"inexact {column.name}", f"abs({column.at}) >= {EXACT[column.type]}")
    return asked | _empty(column) | time_checks(column, columns)


def _order_checks(column: Column) -> dict[str, str]:
    asked = _empty(column)
    if column.kind == "text":
        # DuckDB would take 1.5 for 2.
        integer = f"regexp_matches({column.at}, '{INTEGER}')"
        integer += f" AND TRY_CAST({column.at} AS BIGINT) IS NOT NULL"
        asked["order integers"] = f"count(*) FILTER (WHERE {integer})"
        asked["order numbers"] = f"count({number(column)})"
        asked["order timestamps"] = f"count({microseconds(column)})"
        there = f"{column.at} IS NOT NULL"
        asked |= bad("order no number", f"{there} AND {number(column)} IS NULL")
        asked |= bad("order no timestamp", f"{there} AND {microseconds(column)} IS NULL")
        asked |= fine_checks("order", column)
    if column.kind == "float":
        asked |= bad("order no number", f"{column.at} IS NOT NULL AND {number(column)} IS NULL")
    return asked


_WRITE_EXACTLY = "; different values become equal there: write it as an integer or as text"


def _lost_digits(column: Column) -> str:
    size = "2^24 or more of 32 bits" if column.type == "FLOAT" else "2^53 or more"
    return f"is a floating-point number of {size}"


def check_label_table(labels: Column, row: Callable[[str], tuple[Any, ...]], where: str) -> None:
    """Refuse a label table whose ids have lost digits, or stand there twice.

    Args:
        labels: The column of the ids.
        row: Gives the only row of a query's result.
        where: Name of the table in messages.

    Raises:
        UserError: When it is so.
    """
    if labels.type in EXACT:
        lost, first = row(inexact_labels_query(labels))
        if lost:
            raise UserError(
                f"{where}: column '{labels.name}' {_lost_digits(labels)} in {lost:,} rows, for "
                f"example {first}{_WRITE_EXACTLY}"
            )
    doubled, first = row(doubled_labels_query(labels))
    if doubled:
        raise UserError(
            f"{where}: {doubled:,} values of '{labels.name}' stand in more than one row, for "
            f"example {first}"
        )


def look(
    columns: LogColumns,
    given: Given,
    counts: Counts,
    where: str,
    example: Callable[[Column, int], str],
    *,
    training: bool,
    unit: str | None = None,
) -> Clock:
    """Refuse a log that can't be right; else how its time and order are read.

    Args:
        columns: The meaning of the columns.
        given: What stands in the views.
        counts: The values of `checks`.
        where: Name of the log in messages.
        example: The value of a column in a row.
        training: Whether the log is to be trained on; new events may lack values in all rows.
        unit: The unit of time that was found when the log was trained on.

    Raises:
        UserError: With everything that was found, each with column, count and an example.
    """
    if counts["rows"] == 0:
        raise UserError(f"{where}: the file has no rows")
    found = _Findings(given, counts, where, example)
    needed = [columns.key]
    if training:
        needed += [*columns.categories, *columns.numeric]
        needed += [columns.used_type] if columns.used_type is not None else []
    needed += [name for name in (columns.time, columns.own_order) if name is not None]
    for name in dict.fromkeys(needed):
        found.need(name)
    for name, column in given.columns.items():
        found.bad(f"inexact {name}", name, _lost_digits(column), _WRITE_EXACTLY)
    for name in columns.numeric:
        found.bad(f"odd {name}", name, "is not a finite number", _spelling(found, name, columns))
        then = "; the transform 'log' needs values >= 0: use 'standard' or 'quantile'"
        found.bad(f"negative {name}", name, "is negative", then)
    clock = Clock()
    if columns.time is not None:
        clock = read_time(columns, given.columns[columns.time], found, unit)
        found.bad(
            f"empty {columns.time}",
            columns.time,
            "is empty",
            "; every event needs its time",
            shown=False,
        )
    if columns.own_order is not None:
        found.bad(
            f"empty {columns.own_order}",
            columns.own_order,
            "is empty",
            "; the events can't be ordered",
            shown=False,
        )
        order = _read_order(given.columns[columns.own_order], found)
        clock = replace(clock, order=order)
    if found.problems:
        raise UserError(*dict.fromkeys(found.problems))
    return clock


def look_at_moment(
    columns: LogColumns,
    column: Column,
    counts: Counts,
    where: str,
    example: Callable[[Column, int], str],
    unit: str | None,
) -> Clock:
    """Refuse moments of asking that can't be right; else how they are read, by the rules of time.

    Args:
        columns: The meaning of the columns.
        column: The moments.
        counts: The values of `moment_checks`.
        where: Name of their table in messages.
        example: The value of a column in a row.
        unit: How they were written in the log that was trained on, as `Clock.spelling`.

    Raises:
        UserError: With everything that was found, each with column, count and an example.
    """
    name = column.name
    found = _Findings(Given({name: column}), counts, where, example)
    found.need(name)
    found.bad(f"inexact {name}", name, _lost_digits(column), _WRITE_EXACTLY)
    clock = read_time(columns, column, found, unit)
    then = "; each sequence needs the moment of asking (data.source.asked_at)"
    found.bad(f"empty {name}", name, "is empty", then, shown=False)
    if found.problems:
        raise UserError(*dict.fromkeys(found.problems))
    return clock


def _spelling(found: _Findings, name: str, columns: LogColumns) -> str:
    """What to do about a number that is written with another sign than `columns.decimal`."""
    if not found.counts[f"odd {name}"]:
        return ""
    value = found.example(found.given.columns[name], found.counts[f"first odd {name}"])
    if columns.decimal == "." and re.fullmatch(r"[-+]?[0-9]*,[0-9]+", value.strip()):
        return "; data.source.decimal=\"','\" reads a comma as the sign before a fraction"
    if re.fullmatch(r"[-+]?[0-9]{1,3}([., ][0-9]{3})+([.,][0-9]*)?", value.strip()):
        return "; write it without a sign between the thousands"
    return ""


class _Findings:
    """Problems by column; a column without any value has no other."""

    def __init__(
        self, given: Given, counts: Counts, where: str, example: Callable[[Column, int], str]
    ) -> None:
        self.problems: list[str] = []
        self.given, self.counts, self.where, self.example = given, counts, where, example

    def need(self, name: str) -> None:
        if self.counts[f"filled {name}"] == 0:
            self.problems.append(f"{self.where}: column '{name}' has no value in any row")

    def bad(self, check: str, name: str, what: str, then: str = "", *, shown: bool = True) -> None:
        """Tell of the rows that a check has counted, unless the column was told of already."""
        count = self.counts.get(check, 0)
        told = f"{self.where}: column '{name}' "
        if not count or any(problem.startswith(told) for problem in self.problems):
            return
        row = self.counts[f"first {check}"]
        value = f"{self.example(self.given.columns[name], row)!r} in row " if shown else "row "
        self.problems.append(
            f"{told}{what} in {count:,} rows, for example {value}{row + 1:,}{then}"
        )


def _read_order(
    column: Column, found: _Findings
) -> Literal["integer", "number", "timestamp", "nanoseconds", "as it is"]:
    """Text that holds numbers or times is ordered as such; none may be something else."""
    counts, name = found.counts, column.name
    if column.kind == "timestamp":
        return "nanoseconds" if column.type in NANOSECONDS else "timestamp"
    if column.kind != "text":
        found.bad("order no number", name, "is not a finite number", "; it has no place")
        return "as it is"
    filled = counts[f"filled {name}"]
    if counts["order integers"] == filled:
        return "integer"
    numbers, timestamps = counts["order numbers"], counts["order timestamps"]
    refuse_too_fine("order", name, found)
    if numbers == filled:
        return "number"
    if timestamps == filled:
        return "nanoseconds" if counts["order fine"] else "timestamp"
    kind = "number" if numbers >= timestamps else "timestamp"
    if most := max(numbers, timestamps):
        then = f" while {most:,} rows are; write all in one way"
        found.bad(f"order no {kind}", name, f"is not a {kind}", then)
    return "as it is"
