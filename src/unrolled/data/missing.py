"""Which values of a log are missing: one rule, whatever format and engine the log comes in.

- An empty value, an empty text and NaN are missing in every column.
- The texts of `NULL_TEXTS`, by which other programs write a missing value, are missing where they
  can't be a value: in the column of the sequences (or users), and where a number or a time is asked
  for. In a categorical column they stay words of their own: a brand may be called `None`.

An event without a sequence is left out and counted. A missing category is the unknown id, a missing
number the training mean (see `encode_log.scaled`); both are counted. A missing time is an error.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["text", "integer", "float", "boolean", "timestamp"]
"""How an engine holds a column."""

NULL_TEXTS = (
    "nan", "NaN", "NAN", "null", "Null", "NULL", "none", "None", "NONE", "\\N",
    "NA", "N/A", "n/a", "#N/A", "<NA>", "NaT",
)  # fmt: skip
"""Texts by which pandas, R, Hive, MySQL and spreadsheets write a missing value."""


def present(value: str, kind: Kind, *, null_texts: bool) -> str:
    """SQL for a column's value, NULL where it is missing.

    Args:
        value: SQL for the value as the file has it.
        kind: How an engine holds it.
        null_texts: Whether the texts of `NULL_TEXTS` are missing, too.
    """
    if kind == "float":
        return f"CASE WHEN NOT isnan({value}) THEN {value} END"
    if kind != "text":
        return value
    texts = ("", *NULL_TEXTS) if null_texts else ("",)
    listed = ", ".join(f"'{text}'" for text in texts)
    return f"CASE WHEN {value} NOT IN ({listed}) THEN {value} END"
