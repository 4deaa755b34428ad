"""What can't be right about the description of a log, before a file is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from unrolled.data.time_format import format_problem
from unrolled.errors import did_you_mean

if TYPE_CHECKING:
    from unrolled.data.log import LogColumns

UNITS = ("auto", "s", "ms", "us", "ns")
RESERVED = ("id", "label", "event_time")
"""The store's own columns."""


def description_problems(columns: LogColumns) -> list[str]:
    """Every contradiction of a description, in the words of its keys."""
    parts = (_sequences, _times, _splits, _features, _lengths)
    return [problem for part in parts for problem in part(columns)]


def _sequences(columns: LogColumns) -> list[str]:
    found = []
    if (columns.sequence is None) == (columns.user is None):
        found.append("give either sequence or user, the column that says whose an event is")
    if columns.session_gap is not None and columns.user is None:
        found.append("session_gap cuts the events of a user; it needs user, not sequence")
    if columns.order is None and columns.time is None:
        found.append("give time or order, the column by which the events are ordered")
    if columns.label is not None and columns.target_event is not None:
        found.append("give either label (a column) or target_event (an event type), not both")
    if columns.label is not None and columns.session_gap is not None:
        found.append("sessions that session_gap cuts have no label column; give target_event")
    if columns.split is not None and columns.session_gap is not None:
        found.append("sessions that session_gap cuts have no split column; use split_by")
    if columns.asked_at is not None and columns.label is None:
        found.append("asked_at, the moment at which a label is asked, needs label, its column")
    for key in ("target_event", "keep_types"):
        if getattr(columns, key) and columns.event_type is None:
            found.append(f"{key} needs event_type, the column that holds it")
    for key, given in (
        ("gap", columns.gap),
        ("hour_of_week", columns.hour_of_week),
        ("session_gap", columns.session_gap is not None),
        ("asked_at", columns.asked_at is not None),
    ):
        if given and columns.time is None:
            found.append(f"{key} needs time, the column it is computed from")
    return found


def _times(columns: LogColumns) -> list[str]:
    found = []
    unit, zone = columns.time_unit, columns.time_zone
    if "%" in unit:
        if problem := format_problem(unit):
            found.append(f"time_unit={unit!r} is no format of times: {problem}")
    elif unit not in UNITS:
        found.append(
            f"time_unit={unit!r} is neither {', '.join(UNITS)} nor a format such as "
            f"'%d.%m.%Y %H:%M'; {did_you_mean(unit, UNITS)}"
        )
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        near = did_you_mean(zone, available_timezones())
        found.append(f"time_zone={zone!r} is no zone, as Europe/Berlin is; {near}")
    return found


def _splits(columns: LogColumns) -> list[str]:
    found = []
    by_time = columns.split is None and columns.split_by == "time"
    if by_time and columns.time is None:
        found.append("a split by time needs time; or give split, a column")
    if columns.val_fraction + columns.test_fraction >= 1:
        found.append("val_fraction and test_fraction leave nothing to train on")
    days = [key for key in ("val_days", "test_days") if getattr(columns, key) is not None]
    if days and not by_time:
        found.append(f"{' and '.join(days)} split by time, not by a column or by user")
    elif days == ["val_days"]:
        found.append("val_days are those before test_days; give both")
    return found


def _features(columns: LogColumns) -> list[str]:
    found = []
    categories, numeric = columns.categories, list(columns.numeric)
    if not columns.features:
        found.append("there is no feature: give item, categorical, numeric, hour_of_week or gap")
    of_sequence = {"label": columns.label, "split": columns.split, "sequence": columns.sequence}
    for key, column in of_sequence.items():
        if column is not None and column in {*categories, *numeric}:
            found.append(f"'{column}' is the {key}; as a feature it would give the answer away")
    if columns.asked_at is not None and columns.asked_at in {*categories, *numeric, columns.time}:
        found.append(
            f"'{columns.asked_at}' is asked_at, the moment at which the label is asked, from which "
            "the feature age is computed; it is neither the time of an event nor a feature itself"
        )
    both = set(categories) & set(numeric)
    if both:
        found.append(f"categorical and numeric both name {', '.join(sorted(both))}")
    twice = {name for name in categories if categories.count(name) > 1}
    if twice:
        found.append(f"item and categorical name {', '.join(sorted(twice))} more than once")
    for key, added in (("gap", "gap"), ("hour_of_week", "hour_of_week"), ("asked_at", "age")):
        if getattr(columns, key) and added in [*categories, *numeric]:
            name = "that name" if key == added else f"the name {added}"
            found.append(f"{key} adds a feature of {name}, which a column has already")
    reserved = sorted({name for name in [*categories, *numeric] if name.lower() in RESERVED})
    if reserved:
        found.append(f"a feature can't be called {', '.join(reserved)}: the store's own column")
    for key, given in (
        ("min_support", columns.min_support > 1),
        ("training_items_only", columns.training_items_only),
    ):
        if given and columns.item is None:
            found.append(f"{key} needs item, the column whose values are counted")
    return found


def _lengths(columns: LogColumns) -> list[str]:
    if columns.max_length is not None and columns.max_length < columns.min_length:
        return [f"max_length={columns.max_length} is below min_length={columns.min_length}"]
    return []
