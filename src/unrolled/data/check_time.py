"""How the times of a log are written, found from counts over all of its values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeAlias, cast

from unrolled.data.log import LogColumns
from unrolled.data.sql import (
    NAMED_ZONE,
    NANOSECONDS,
    Clock,
    Column,
    formatted,
    integer,
    literal,
    microseconds,
    number,
)
from unrolled.data.time_format import CALENDAR_DIGITS

Unit: TypeAlias = Literal["s", "ms", "us", "ns"]

_UNITS: dict[Unit, float] = {"s": 1e11, "ms": 1e14, "us": 1e17}
"""Numbers below this size are in this unit; all above are nanoseconds."""
_LAST_NANOSECOND = 2.0**63  # In the year 2262.

_AMBIGUOUS = {
    "%Y": "{i} BETWEEN 1900 AND 2099",
    "%Y%m": "{i} BETWEEN 190001 AND 209912 AND {i} % 100 BETWEEN 1 AND 12",
    "%y%m%d": "{i} BETWEEN 10101 AND 991231 AND ({i} // 100) % 100 BETWEEN 1 AND 12 "
    "AND {i} % 100 BETWEEN 1 AND 31",
    "%d%m%Y": "{i} % 10000 BETWEEN 1900 AND 2099 AND ({i} // 10000) % 100 BETWEEN 1 AND 12 "
    "AND {i} // 1000000 BETWEEN 1 AND 31",
    "%m%d%Y": "{i} % 10000 BETWEEN 1900 AND 2099 AND ({i} // 10000) % 100 BETWEEN 1 AND 31 "
    "AND {i} // 1000000 BETWEEN 1 AND 12",
}
"""Digits that can be dates, and just as well seconds: the condition on a whole number `i`."""
_LAST_AMBIGUOUS = 31_12_2099

# The 17th digit of a number is the last that a float64 keeps.
_DIGITS = "length(trim(replace(replace({x}, '.', ''), '-', ''), '0')) > 17"


class Findings(Protocol):
    """The counts of the checks, and the problems found by them."""

    problems: list[str]
    counts: Mapping[str, Any]
    where: str

    def bad(self, check: str, name: str, what: str, then: str = "", *, shown: bool = True) -> None:
        """Tell of the rows that a check has counted."""
        ...


def bad(name: str, condition: str) -> dict[str, str]:
    """Aggregates for the number of rows that meet a condition, and the first of them."""
    return {
        name: f"count(*) FILTER (WHERE {condition})",
        f"first {name}": f"min(source_row) FILTER (WHERE {condition})",
    }


def fine_checks(role: str, column: Column) -> dict[str, str]:
    """Whether texts have more than microseconds, or more digits than can be kept."""
    # Few texts are that long, and the rest is looked at for those alone.
    at, long = column.at, f"length({column.at}) > 17"
    stamp = f"{microseconds(column)} IS NOT NULL"
    is_number = f"{long} AND {number(column)} IS NOT NULL AND {integer(column)} IS NULL"
    return {
        f"{role} fine": f"count(*) FILTER (WHERE length({at}) > 23 AND {stamp} "
        f"AND regexp_matches({at}, '[.][0-9]{{6}}[0-9]{{0,2}}[1-9]'))",
        **bad(
            f"{role} too fine",
            f"length({at}) > 26 AND {stamp} AND regexp_matches({at}, '[.][0-9]{{9}}[0-9]*[1-9]')",
        ),
        **bad(f"{role} inexact", f"{is_number} AND {_DIGITS.format(x=at)}"),
    }


def refuse_too_fine(role: str, name: str, found: Findings) -> None:
    """Refuse what neither nanoseconds nor a float64 can hold."""
    found.bad(f"{role} too fine", name, "has less than a nanosecond", "; write at most 9 digits")
    then = "; write whole nanoseconds, or a timestamp"
    found.bad(f"{role} inexact", name, "has more than the 17 digits of a float64", then)


def time_checks(column: Column, columns: LogColumns) -> dict[str, str]:
    """The aggregates that tell how times are written."""
    if column.kind == "timestamp":
        return {}
    value, there, whole = number(column), f"{column.at} IS NOT NULL", integer(column)
    if "%" in columns.time_unit:
        text = formatted(column, columns.time_unit)
        asked = bad("time not in format", f"{there} AND {microseconds(text)} IS NULL")
        return asked | fine_checks("time", text)
    asked = bad("time no number", f"{there} AND {value} IS NULL")
    asked |= {"time least": f"min({value})", "time most": f"max({value})"}
    asked["time integers"] = f"count({whole})"
    for unit, limit in _UNITS.items():
        asked |= bad(f"time below {unit}", f"abs({value}) < {limit!r}")
    if column.kind == "text":
        stamp = microseconds(column)
        asked |= bad("time no timestamp", f"{there} AND {stamp} IS NULL")
        asked |= bad("time neither", f"{there} AND {value} IS NULL AND {stamp} IS NULL")
        zone = f"regexp_matches({column.at}, {literal(NAMED_ZONE)})"
        asked |= bad("time without zone", f"{stamp} IS NOT NULL AND NOT {zone}")
        asked |= bad("time with zone", f"{stamp} IS NOT NULL AND {zone}")
        asked |= fine_checks("time", column)
    return asked


def date_checks(
    column: Column, columns: LogColumns, counts: Mapping[str, Any], trained: str | None
) -> dict[str, str]:
    """The aggregates that tell whether numbers are dates; only those that their range allows.

    Most logs have no number that can be a date, and looking at each takes as long as ordering them.

    Args:
        column: The time.
        columns: What the columns mean.
        counts: The values of `time_checks`.
        trained: How the log was written that was trained on, as `Clock.spelling`.
    """
    least, most = counts.get("time least"), counts.get("time most")
    if columns.time_unit != "auto" or least is None or most is None:
        return {}
    asked: dict[str, str] = {}
    whole = integer(column)
    for form, (first, last) in CALENDAR_DIGITS.items():
        if (least <= last and most >= first) or form == trained:
            date = f"CASE WHEN {whole} BETWEEN {first} AND {last} THEN "
            date += f"{microseconds(formatted(column, form))} END"
            asked |= bad(f"time not {form}", f"{column.at} IS NOT NULL AND {date} IS NULL")
    if least >= 0 and most <= _LAST_AMBIGUOUS:
        for form, condition in _AMBIGUOUS.items():
            asked[f"time like {form}"] = f"count(*) FILTER (WHERE {condition.format(i=whole)})"
    return asked


def read_time(columns: LogColumns, column: Column, found: Findings, trained: str | None) -> Clock:
    """How the times of a column are read.

    Args:
        columns: The meaning of the columns.
        column: The time.
        found: The counts of `time_checks` and `date_checks`; problems are added.
        trained: How the log was written that was trained on, as `Clock.spelling`.
    """
    counts, name = found.counts, column.name
    if column.kind == "timestamp":
        return Clock("timestamp", "ns" if column.type in NANOSECONDS else "us")
    fine: Unit = "ns" if counts.get("time fine") else "us"
    if "%" in columns.time_unit:
        what = f"is no time in the format {columns.time_unit}"
        found.bad("time not in format", name, what, ", which is data.source.time_unit")
        refuse_too_fine("time", name, found)
        return Clock("format", fine, columns.time_unit)
    if counts["time no number"] and counts.get("time no timestamp", 1) == 0:
        if counts["time with zone"]:
            then = f" while {counts['time with zone']:,} rows have one; give each its zone"
            found.bad("time without zone", name, "is a time without a zone", then)
        refuse_too_fine("time", name, found)
        return Clock("timestamp", fine)
    if counts["time no number"]:
        if counts.get("time neither", 1):
            check = "time neither" if column.kind == "text" else "time no number"
            none = counts[check] == counts[f"filled {name}"]
            then = "; data.source.time_unit takes a format, as '%d.%m.%Y %H:%M'" if none else ""
            found.bad(check, name, "is not a time", then)
        else:
            found.bad(
                "time no timestamp",
                name,
                "is a number",
                " while others are timestamps; write all in one way",
            )
        return Clock("number")
    exact = counts["time integers"] == counts[f"filled {name}"]
    kind: Literal["integer", "number"] = "integer" if exact else "number"
    if counts["time least"] is None:
        return Clock("number")
    clock = Clock(kind, cast("Unit", columns.time_unit))
    if columns.time_unit == "auto":
        clock = _calendar(column, found, trained) or Clock(kind, _unit(name, found, trained))
    refuse_too_fine("time", name, found)
    return clock


def _calendar(column: Column, found: Findings, trained: str | None) -> Clock | None:
    """The clock of digits that are dates, or may be; None of other numbers."""
    counts, name = found.counts, column.name
    filled = counts[f"filled {name}"]
    dates = {form: filled - counts.get(f"time not {form}", filled) for form in CALENDAR_DIGITS}
    form = max(dates, key=lambda form: (dates[form], form == trained))
    told = f"{found.where}: column '{name}' goes from {counts['time least']:.16g} to "
    told += f"{counts['time most']:.16g}, which "
    since = f"{trained} since 1970" if trained in ("s", "ms", "us", "ns") else None
    if 2 * dates[form] > filled:
        then = f" while {dates[form]:,} rows are; mend these rows, or say with "
        then += "data.source.time_unit what the digits are"
        found.bad(f"time not {form}", name, f"is no date in the format {form}", then)
        if since is not None:
            found.problems.append(
                f"{told}looks like dates in the format {form}, and the log that was trained on has "
                f"{since}; write them so, or as timestamps"
            )
        return Clock("format", "us", form)
    if trained in CALENDAR_DIGITS:
        then = ", as the log has them that was trained on; write them so, or as timestamps"
        found.bad(f"time not {trained}", name, f"is no date in the format {trained}", then)
        return Clock("format", "us", trained)
    likely = [form for form in _AMBIGUOUS if counts.get(f"time like {form}") == filled]
    if likely and trained is None:
        found.problems.append(
            f"{told}may be dates in the format {' or '.join(likely)} and may be seconds; say which "
            f"with data.source.time_unit={likely[0]} or data.source.time_unit=s"
        )
    return None


def _unit(name: str, found: Findings, trained: str | None) -> Unit:
    """The unit of numbers, by their size."""
    counts = found.counts
    least, most = counts["time least"], counts["time most"]
    size = max(abs(least), abs(most))
    units: list[Unit] = [u for u, limit in _UNITS.items() if size < limit]
    unit: Unit = units[0] if units else "ns"
    told = f"{found.where}: column '{name}' goes from {least:.16g} to {most:.16g}, which "
    if size >= _LAST_NANOSECOND:
        found.problems.append(
            f"{told}is no time since 1970 in any unit down to nanoseconds; say what the digits are "
            "with data.source.time_unit"
        )
    if trained is not None and trained != "timestamp":
        if unit != trained:
            found.problems.append(
                f"{told}looks like times in {unit}, and the log that was trained on has them in "
                f"{trained}; write them in {trained}, or say with data.source.time_unit what "
                "they are"
            )
        return cast("Unit", trained if trained in ("s", "ms", "us", "ns") else unit)
    if unit != "s":
        smaller = [u for u in ("s", "ms", "us") if size >= _UNITS[u]][-1]
        found.bad(
            f"time below {smaller}",
            name,
            "is too small for a time",
            f": the largest, {most:.16g}, looks like one in {unit}; mend these rows, or say "
            "what the numbers are with data.source.time_unit",
        )
    return unit
