"""The statements that an engine runs on a log: pure functions from a description to SQL.

They are written in the DuckDB dialect, in the part of it that other engines have too: aggregates
with FILTER, joins, ORDER BY. Everything that depends on the order of events or on floating-point
arithmetic is computed afterwards, in one place and in one order, whatever the engine was.

A log stands in the view `given`: `source_row` (0, 1, ... in the order of the files' rows) and its
columns as c0, c1, ...; a label table of its own stands in `given_labels` as l0, l1, ...
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from unrolled.data.log import EventType, LogColumns
from unrolled.data.missing import Kind
from unrolled.data.time_format import CALENDAR_DIGITS, iso_text

LARGEST = "1.7976931348623157e308"
EXACT = {"FLOAT": 2**24, "DOUBLE": 2**53}
"""From here on a floating-point number can stand for several whole numbers."""

# Engines also take what they do not agree on: `epoch`, 24:00, years of five digits, EST; and by the
# name of a zone, in the hour that autumn has twice, one takes the first and one the second.
ISO_8601 = (
    r"^[0-9]{4}(-[0-9]{1,2}-|/[0-9]{1,2}/)[0-9]{1,2}"
    r"([ T]([01]?[0-9]|2[0-3]):[0-9]{1,2}(:[0-9]{1,2}([.][0-9]*)?)?"
    r"(Z|[-+](0[0-9]|1[0-4])(:?[0-5][0-9])?| UTC)?)?\z"
)
WHOLE = r"^(-?(?:0|[1-9][0-9]*))([.]0+)?$"
INTEGER = r"^[-+]?[0-9]+\z"
WHOLE_TEXT = r"^[-+]?[0-9]+([.]0*)?\z"
NAMED_ZONE = ":[0-9.]+ ?([-+][0-9]|[A-Za-z])"
"""In a text that is a time: the zone, after the minutes or seconds."""
ZONED = ("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ_NS")
NANOSECONDS = ("TIMESTAMP_NS", "TIMESTAMPTZ_NS")


@dataclass(frozen=True)
class Column:
    """A column of `given`.

    Args:
        name: In the log.
        at: In `given`: c0, c1, ...
        kind: How an engine holds it.
        type: Its type in the log, in DuckDB's words.
    """

    name: str
    at: str
    kind: Kind
    type: str


@dataclass(frozen=True)
class Given:
    """What stands in the views.

    Args:
        columns: The log's columns that are used, by name.
        labels: Those of the label table, by name; None where there is none.
    """

    columns: dict[str, Column]
    labels: dict[str, Column] | None = None


@dataclass(frozen=True)
class Clock:
    """How time and order are read, once the values have been looked at.

    Args:
        time: `number`, `integer` (exact beyond 2^53, too), `timestamp`, or `format` for digits and
            texts in a format of their own; None without a time.
        unit: Unit of the times in the stream.
        format: Format of the times if `time` is `format`.
        order: How the order column is compared; None where events are ordered by time.
        asked: How the moment of asking is read; None without one.
    """

    time: Literal["number", "integer", "timestamp", "format"] | None = None
    unit: Literal["s", "ms", "us", "ns"] = "s"
    format: str | None = None
    order: Literal["integer", "number", "timestamp", "nanoseconds", "as it is"] | None = None
    asked: Clock | None = None

    @property
    def spelling(self) -> str | None:
        """How times are written: the unit of numbers, the format, or `timestamp`."""
        if self.time == "format":
            return self.format
        return self.time if self.time in ("timestamp", None) else self.unit


def quoted(name: str) -> str:
    """A name, quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text, quoted for SQL."""
    return "'" + text.replace("'", "''") + "'"


def query_option(query: str) -> str:
    """A query over the table `log` as an argument that a shell, and then Hydra, reads as it is."""
    # Hydra takes a backslash for an escape only before a quote.
    for_hydra = "'" + re.sub(r"(\\*)'", r"\1\1\\'", query) + "'"
    return '"data.source.query=' + re.sub(r'(\\(?=[\\"$`])|["$`])', r"\\\1", for_hydra) + '"'


def number(column: Column, decimal: str = ".") -> str:
    """A column as float64; NULL where it is no finite number.

    Args:
        column: A column of numbers, or of text that holds them.
        decimal: Sign before the fraction of a number that is text.
    """
    value = f"TRY_CAST({column.at} AS DOUBLE)"
    if decimal != "." and column.kind == "text":
        # A point there is a thousand's, or another way of writing: no number.
        plain = f"replace(replace({column.at}, '.', 'no number'), {literal(decimal)}, '.')"
        value = f"TRY_CAST({plain} AS DOUBLE)"
    # NaN is greater than every number.
    return f"CASE WHEN abs({value}) <= {LARGEST} THEN {value} END"


def integer(column: Column) -> str:
    """A column as int64; NULL where it is no whole number, or a larger one.

    A number or text with the fraction .0, which pandas adds where a value is missing, is whole.
    """
    if column.kind == "integer":
        return f"CAST({column.at} AS BIGINT)"
    if column.kind == "float":
        whole = f"abs({column.at}) < {EXACT['DOUBLE']} AND {column.at} = floor({column.at})"
        return f"CASE WHEN {whole} THEN CAST({column.at} AS BIGINT) END"
    whole = f"regexp_matches({column.at}, {literal(WHOLE_TEXT)})"
    return (
        f"CASE WHEN {whole} THEN TRY_CAST(regexp_replace({column.at}, '[.]0*$', '') AS BIGINT) END"
    )


def microseconds(column: Column) -> str:
    """A column of timestamps, or of text that holds them, as microseconds since 1970 UTC.

    A text is a time when it is ISO 8601; also with a blank for the T, slashes for the dashes,
    ` UTC` for the Z, and without leading zeros.
    """
    if column.kind == "text":
        is_time = f"regexp_matches({column.at}, {literal(ISO_8601)})"
        return f"CASE WHEN {is_time} THEN epoch_us(TRY_CAST({column.at} AS TIMESTAMPTZ)) END"
    if column.type in NANOSECONDS:
        return f"epoch_ns({column.at}) // 1000"
    return f"epoch_us({column.at})"


def nanoseconds(column: Column) -> str:
    """A column like that of `microseconds` as nanoseconds since 1970 UTC."""
    if column.kind != "text":
        return f"epoch_ns({column.at})"
    digits = f"rpad(regexp_extract({column.at}, '[.][0-9]{{6}}([0-9]{{1,3}})', 1), 3, '0')"
    return f"{microseconds(column)} * 1000 + CAST({digits} AS BIGINT)"


def formatted(column: Column, form: str) -> Column:
    """A column whose times are in a format, as a column of text in ISO 8601."""
    if column.kind == "timestamp":
        return column
    text = column.at
    if column.kind != "text":
        text = f"CAST({integer(column)} AS VARCHAR)"
    elif form in CALENDAR_DIGITS:
        text = f"coalesce(CAST({integer(column)} AS VARCHAR), {column.at})"
    digits = column.kind in ("integer", "float")
    return replace(column, at=iso_text(text, form, digits=digits), kind="text")


def word(column: Column) -> str:
    """A column as it is grouped by: a time as text, all else as it is."""
    return f"CAST({column.at} AS VARCHAR)" if column.kind == "timestamp" else column.at


def distinct_query(table: str, column: Column) -> str:
    """The values of a column that becomes codes, each once."""
    return (
        f"SELECT {word(column)} AS value FROM {table} "
        f"WHERE {word(column)} IS NOT NULL GROUP BY {word(column)}"
    )


def ordered_query(columns: LogColumns, given: Given, clock: Clock) -> str:
    """The events in canonical order: by sequence, by order or time, by row.

    Columns: `sequence_key, source_row`, and as described `event_time` (float64 as in the log, or
    int64 microseconds), `event_order`, `is_target`, `category_<i>` (codes, -1 for none), `type`
    (codes, where no category has them), `number_<i>`, `label`, `split` (codes), `asked_time` (as
    `event_time`, in a unit of its own) and `has_label_row`.
    """
    of = given.columns
    key = of[columns.key]
    select = [f"e.{key.at} AS sequence_key", "e.source_row"]
    joins = []
    order = "e.source_row"
    if columns.time is not None:
        select.append(f"{_time(of[columns.time], clock, columns.time_zone)} AS event_time")
        order = "event_time, e.source_row"
    if columns.own_order is not None:
        select.append(f"{_order(of[columns.own_order], clock, columns)} AS event_order")
        order = "event_order, e.source_row"
    kept = ""
    if columns.used_type is not None:
        kind = of[columns.used_type]
        if columns.target_event is not None:
            select.append(f"{_is_type([columns.target_event], kind)} AS is_target")
        if columns.keep_types:
            kept = f" AND {_kept_types(columns, kind)}"
    for index, name in enumerate(columns.categories):
        value = word(of[name])
        joins.append(f"LEFT JOIN codes_{index} ON codes_{index}.value = {value}")
        select.append(f"coalesce(codes_{index}.code, -1) AS category_{index}")
    if columns.compared_type is not None:
        value = word(of[columns.compared_type])
        joins.append(f"LEFT JOIN codes_type ON codes_type.value = {value}")
        select.append("coalesce(codes_type.code, -1) AS type")
    for index, name in enumerate(columns.numeric):
        select.append(f"{number(of[name], columns.decimal)} AS number_{index}")
    where = of
    if given.labels is not None:
        where = given.labels
        left, right = f"e.{key.at}", f"l.{where[columns.key].at}"
        kinds = {key.kind, where[columns.key].kind}
        if "text" in kinds or (len(kinds) > 1 and kinds != {"integer", "float"}):
            left, right = _id_text(left), _id_text(right)
        joins.append(f"LEFT JOIN given_labels AS l ON {left} = {right}")
        select.append(f"l.{where[columns.key].at} IS NOT NULL AS has_label_row")
    side = "e" if given.labels is None else "l"
    for role, wanted in (("label", columns.label), ("split", columns.split)):
        if wanted is not None and wanted in where:
            at = f"{side}.{where[wanted].at}"
            value = f"CAST({at} AS VARCHAR)" if where[wanted].kind == "timestamp" else at
            joins.append(f"LEFT JOIN codes_{role} ON codes_{role}.value = {value}")
            select.append(f"coalesce(codes_{role}.code, -1) AS {role}")
    if columns.asked_at is not None:
        assert clock.asked is not None
        asked = _time(where[columns.asked_at], clock.asked, columns.time_zone)
        select.append(f"{asked} AS asked_time")
    return (
        f"SELECT {', '.join(select)} FROM given AS e {' '.join(joins)} "
        f"WHERE e.{key.at} IS NOT NULL{kept} ORDER BY sequence_key, {order}"
    )


def other_types_query(columns: LogColumns, given: Given) -> str:
    """The number of events that `keep_types` leaves out."""
    assert columns.event_type is not None
    key, kind = given.columns[columns.key], given.columns[columns.event_type]
    return (
        f"SELECT count(*) FROM given AS e WHERE e.{key.at} IS NOT NULL "
        f"AND NOT {_kept_types(columns, kind)}"
    )


def _kept_types(columns: LogColumns, kind: Column) -> str:
    # The target is read too: it ends the sequence, and is left out then.
    target = [] if columns.target_event is None else [columns.target_event]
    return _is_type([*columns.keep_types, *target], kind)


def _is_type(wanted: Sequence[EventType], kind: Column) -> str:
    """Whether an event is of one of these types, by value: 2 is 2.0 and 2.00, True is true."""
    text = f"CAST(e.{kind.at} AS VARCHAR)"
    names = [str(name) for name in wanted]
    if kind.kind == "boolean":
        names = [name.lower() for name in names]
    found = f"{text} IN ({', '.join(map(literal, names))})"
    whole = [match[1] for match in (re.match(WHOLE, name) for name in names) if match]
    if whole and kind.kind != "boolean":
        spelled = literal(rf"^({'|'.join(whole)})([.]0+)?\z")
        found = f"({found} OR regexp_matches({text}, {spelled}))"
    return f"coalesce({found}, FALSE)"


def _id_text(value: str) -> str:
    """An id as text; a whole number without its fraction, which pandas and decimals add."""
    text = f"CAST({value} AS VARCHAR)"
    whole = rf"regexp_replace({text}, '^(-?[0-9]+)[.]0+$', '\1')"
    # Most texts are seen to have none by a look at their end.
    return f"CASE WHEN {text} LIKE '%.%0' THEN {whole} ELSE {text} END"


def _time(column: Column, clock: Clock, zone: str) -> str:
    if clock.time == "integer":
        return integer(column)
    if clock.time == "number":
        return number(column)
    if clock.time == "format":
        assert clock.format is not None
        column = formatted(column, clock.format)
    return _stamp(column, clock.unit == "ns", zone)


def _order(column: Column, clock: Clock, columns: LogColumns) -> str:
    if clock.order == "integer":
        return integer(column)
    if clock.order == "number":
        return number(column, columns.decimal)
    if clock.order in ("timestamp", "nanoseconds"):
        return _stamp(column, clock.order == "nanoseconds", columns.time_zone)
    return column.at


def _stamp(column: Column, fine: bool, zone: str) -> str:
    """Microseconds or nanoseconds since 1970 UTC, of times that may be those of a zone."""
    value = nanoseconds(column) if fine else microseconds(column)
    if zone == "UTC" or column.type in ZONED:
        return value
    whole = microseconds(column)
    moved = f"(epoch_us(timezone({literal(zone)}, make_timestamp({whole}))) - {whole})"
    moved = f"{value} + {moved}{' * 1000' if fine else ''}"
    if column.kind != "text":
        return moved
    named = f"regexp_matches({column.at}, {literal(NAMED_ZONE)})"
    return f"CASE WHEN {named} THEN {value} ELSE {moved} END"


def inexact_labels_query(labels: Column) -> str:
    """Ids of the label table that have lost digits: how many, and the least of them."""
    return (
        f"SELECT count(*), min(CAST({labels.at} AS VARCHAR)) FROM given_labels "
        f"WHERE abs({labels.at}) >= {EXACT[labels.type]}"
    )


def doubled_labels_query(labels: Column) -> str:
    """Sequences with more than one row in the label table: how many, and the least of them."""
    # Texts that are one id to the join: 3, 3.0.
    value = _id_text(labels.at) if labels.kind == "text" else labels.at
    return (
        f"SELECT count(*), min(CAST(k AS VARCHAR)) FROM (SELECT {value} AS k FROM given_labels "
        f"WHERE {labels.at} IS NOT NULL GROUP BY {value} HAVING count(*) > 1) AS doubled"
    )


def value_query(column: Column, row: int, table: str = "given") -> str:
    """The value of a column in a row of a view, as text."""
    return f"SELECT CAST({column.at} AS VARCHAR) FROM {table} WHERE source_row = {row}"
