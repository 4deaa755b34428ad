"""Which values of a log are missing: one rule, whatever format and engine the log comes in.

- An empty value, an empty text and NaN are missing in every column.
- The texts of `NULL_TEXTS`, by which other programs write a missing value, are missing where they
  can't be a value: in the column of the sequences (or users), and where a number or a time is asked
  for. In a categorical column they stay words of their own: a brand may be called `None`.

An event without a sequence is left out and counted. A missing category is the unknown id, a missing
number the training mean (see `encode_log.scaled`); both are counted. A missing time is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["text", "integer", "float", "boolean", "timestamp"]
"""How an engine holds a column."""

NULL_TEXTS = (
    "nan", "NaN", "NAN", "null", "Null", "NULL", "none", "None", "NONE", "\\N",
    "NA", "N/A", "n/a", "#N/A", "<NA>", "NaT",
)  # fmt: skip
"""Texts by which pandas, R, Hive, MySQL and spreadsheets write a missing value."""


def present(value: str, kind: Kind, *, null_texts: bool, spark: bool = False) -> str:
    """SQL for a column's value, NULL where it is missing.

    Args:
        value: SQL for the value as the file has it.
        kind: How an engine holds it.
        null_texts: Whether the texts of `NULL_TEXTS` are missing, too.
        spark: Whether the SQL is Spark's, not DuckDB's.
    """
    if kind == "float":
        found = f"isnan({value})" if spark else is_nan(value)
        return f"CASE WHEN NOT {found} THEN {value} END"
    if kind != "text":
        return value
    return unless_text(value, ("", *NULL_TEXTS) if null_texts else ("",))


def is_nan(value: str) -> str:
    """DuckDB's SQL for whether a floating-point number in a file is NaN.

    The least and the largest value that Parquet states leave NaN out, and DuckDB goes by them:
    where they differ it takes `isnan` for false in all rows, and where they are equal a hash.
    """
    return f"(isnan({value}) OR hash(CAST({value} AS DOUBLE)) = hash('nan'::DOUBLE))"


def unless_text(value: str, texts: Sequence[str]) -> str:
    """SQL for a text, NULL where it is one of these."""
    # Not IN: DuckDB makes a join of a longer list, which loses the order of the rows. A backslash
    # is a sign like others for DuckDB, and escapes the next one for Spark.
    quoted = [
        "'" + text.replace("'", "''").replace("\\", "' || chr(92) || '") + "'" for text in texts
    ]
    return f"CASE WHEN {' AND '.join(f'{value} <> ({text})' for text in quoted)} THEN {value} END"
