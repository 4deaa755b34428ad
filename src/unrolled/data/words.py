"""Values of categorical columns as text: by value, whatever engine, type or format they come in.

A vocabulary holds words and remembers the type of the column it was trained on. New values may come
in another type: integers as decimals, `3.0` in a CSV, `True` for `true`, a date for a timestamp.
`matches` finds the word of each:

1. the same text is the same word;
2. else both are read as the type that training had, or, where training had text, as the type that
   the new values have: 3, 3.0 and 3.00 are one integer, 2026-01-02 is midnight of that day;
3. text against text, as in two CSV files: `3` is `3.0` and `true` is `True`, as pandas writes a
   column once it has a missing value, and all texts of an instant are one; nothing else is, since
   1.10 may be a version.

A leading zero is never taken off: 007 is no number.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unrolled.data.duck import connect
from unrolled.data.sql import ISO_8601, literal

ValueType: TypeAlias = Literal["integer", "number", "boolean", "date", "timestamp", "text"]
"""What the values of a column are, however they are stored."""

_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_COMPARABLE: tuple[set[ValueType], ...] = (
    {"integer", "number", "boolean"},
    {"date", "timestamp"},
)
_NUMBER = r"^-?(0|[1-9][0-9]*)([.][0-9]+)?$"
_FLOAT = r"^[-+]?((0|[1-9][0-9]*)([.][0-9]*)?|[.][0-9]+)([eE][-+]?[0-9]+)?$"
_LONG = r"[0-9.]{17}"
"""Digits that a float64 may not tell apart."""
_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK = r"[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?"


def value_type(kind: str) -> ValueType:
    """The type of a column's values.

    Args:
        kind: The column's type in DuckDB's words, for example `DECIMAL(18,3)`.
    """
    if kind.removeprefix("U") in _INTEGERS:
        return "integer"
    if kind in ("FLOAT", "DOUBLE") or kind.startswith("DECIMAL"):
        return "number"
    if kind == "BOOLEAN":
        return "boolean"
    if kind == "DATE":
        return "date"
    return "timestamp" if kind.startswith("TIMESTAMP") else "text"


def comparable(one: ValueType, other: ValueType) -> bool:
    """Whether a value of one type can be equal to one of the other."""
    return "text" in (one, other) or any({one, other} <= types for types in _COMPARABLE)


def as_text(values: pa.ChunkedArray) -> pa.Array:
    """Values as text: 3, also where a file has 3.0; 0.5; true; 2026-01-01.

    The same text whatever engine has read the values, and whatever type a file holds them in.
    """
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_floating(array.type):
        numbers = array.to_numpy(zero_copy_only=False).astype(np.float64)
        whole = np.isfinite(numbers) & (numbers == np.trunc(numbers)) & (np.abs(numbers) < 2**53)
        integers = pa.array(np.where(whole, numbers, 0).astype(np.int64)).cast(pa.large_string())
        array = pc.if_else(pa.array(whole), integers, array.cast(pa.large_string()))
    return cast("Any", array).cast(pa.large_string())


def words_of(values: pa.ChunkedArray, kind: ValueType) -> pa.Array:
    """The words of values as an engine gives them, each value with a word of its own."""
    text = as_text(values)
    # Of these types engines and formats write a value in more than one way: 2.50, 2.5.
    if kind not in ("number", "timestamp"):
        return text
    return pc.coalesce(canonical(text, kind), text)


def matches(words: pa.Array, kind: ValueType, known: pa.Array, known_kind: ValueType) -> pa.Array:
    """The index in a vocabulary of each word, null for a word that is not there.

    Args:
        words: The new values.
        kind: The type of the new values.
        known: The words of the vocabulary.
        known_kind: The type of the values it was made of.
    """
    words, known = words.cast(pa.large_string()), known.cast(pa.large_string())
    found = pc.index_in(words, known)
    if (kind == known_kind != "text") or not found.null_count:
        return found
    shared = known_kind if known_kind != "text" else kind
    missing = pc.indices_nonzero(found.is_null())
    read = canonical(words.take(missing), shared)
    by_value = pc.index_in(read, canonical(known, shared), skip_nulls=True)
    return pc.replace_with_mask(found, found.is_null(), by_value)


def canonical(words: pa.Array, kind: ValueType) -> pa.Array:
    """Words read as values of a type: equal values give equal text, other words null.

    Args:
        words: large_string, in any spelling.
        kind: The type to read them as; `text` changes the spelling of whole numbers with a fraction
            of zeros, of truth values and of instants only.
    """
    if kind == "text":
        plain = pc.replace_substring_regex(words, r"^(-?(0|[1-9][0-9]*))[.]0+$", r"\1")
        # Arrow writes a decimal's 0.0000000 in this way.
        plain = pc.replace_substring_regex(plain, r"^0E-[0-9]+$", "0")
        low = pc.utf8_lower(words)
        plain = pc.if_else(pc.match_substring_regex(low, "^(true|false)$"), low, plain)
        dated = pc.match_substring_regex(words, r"^[0-9]{4}[-/]")
        times = _as_times(words.filter(dated))
        return pc.replace_with_mask(plain, dated, pc.coalesce(times, words.filter(dated)))
    if kind in ("integer", "number"):
        return _as_numbers(words)
    if kind == "boolean":
        at = pc.index_in(_as_numbers(words), pa.array(["0", "1"], pa.large_string()))
        return pa.array(["false", "true"], pa.large_string()).take(at)
    times = _as_times(words)
    if kind == "timestamp":
        return times
    midnight = pc.match_substring_regex(times, r" 00:00:00$")
    return pc.if_else(midnight, pc.utf8_slice_codeunits(times, 0, 10), None)


def _as_numbers(words: pa.Array) -> pa.Array:
    """Numbers, and truth values as 1 and 0, in the spelling of `as_text`.

    Whole numbers keep all of their digits, and so do fractions of more than a float64 holds.
    """
    for spelling, digit in (("true", "1"), ("false", "0")):
        words = pc.if_else(pc.equal(pc.utf8_lower(words), spelling), digit, words)
    text = pc.replace_substring_regex(words, r"^(-?(0|[1-9][0-9]*))[.]0+$", r"\1")
    text = pc.replace_substring_regex(text, r"^(-?(0|[1-9][0-9]*)[.][0-9]*[1-9])0+$", r"\1")
    whole = pc.match_substring_regex(text, r"^(-?[1-9][0-9]*|0)$")
    long = pc.and_(pc.match_substring_regex(text, _NUMBER), pc.match_substring_regex(text, _LONG))
    floats = pc.if_else(pc.match_substring_regex(text, _FLOAT), text, None)
    return pc.if_else(pc.or_(whole, long), text, as_text(floats.cast(pa.float64())))


def _as_times(words: pa.Array) -> pa.Array:
    """Instants as `2026-01-31 09:30:00.5`, in UTC; a date is its midnight."""
    text = pc.replace_substring_regex(words, rf"^({_DATE})$", r"\1 00:00:00")
    text = pc.replace_substring_regex(text, r"^(\S*)T", r"\1 ")
    text = pc.replace_substring_regex(text, r"(Z|[+]00(:?00)?| UTC)$", "")
    plain = pc.match_substring_regex(text, rf"^{_DATE} {_CLOCK}$")
    if pc.all(plain, min_count=0).as_py():
        return _without_zeros(text)
    with connect({"TimeZone": "UTC"}) as connection:
        connection.register("words", pa.table({"word": words}))
        instant = "TRY_CAST(word AS TIMESTAMPTZ) AT TIME ZONE 'UTC'"
        is_time = f"regexp_matches(word, {literal(ISO_8601)})"
        query = f"SELECT CASE WHEN {is_time} THEN {instant}::VARCHAR END FROM words"
        read = (
            connection.sql(query)
            .to_arrow_table()
            .column(0)
            .combine_chunks()
            .cast(pa.large_string())
        )
    return _without_zeros(pc.if_else(plain, text, read))


def _without_zeros(times: pa.Array) -> pa.Array:
    """Times without the last zeros of a fraction of a second."""
    return pc.replace_substring_regex(times, r"([.][0-9]*[1-9])0+$|[.]0*$", r"\1")
