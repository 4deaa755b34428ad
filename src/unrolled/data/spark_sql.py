"""The statements of `sql` in Spark's dialect: sqlglot translates, this adds what it can't know.

Both engines have the same words for casts, but do not read and write the same text by them. Where
they differ, DuckDB's meaning is the one that counts:

- text as a number: DuckDB takes 1_000 and no suffix, Java takes `1.5d`;
- text as a time: `sql.microseconds` admits only ISO 8601, of which Spark lacks 2026/01/31 and a
  zone after the minutes;
- a timestamp is no number in DuckDB, and seconds since 1970 in Spark;
- times and numbers as text: zones, nanoseconds, 12345678.0 and 1.2345678E7.

Text is compared and ordered by the bytes of its UTF-8 in both, NaN is the largest number and equal
to itself in both; sqlglot writes NULLS LAST, which is DuckDB's default, into every ORDER BY.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from sqlglot import exp, parse_one

from unrolled.data.sql import NANOSECONDS, ZONED

_BLANK = r"[ \\t\\n\\x0B\\f\\r]"
_DIGITS = "[0-9]+(_[0-9]+)*"
_NUMBER = (
    rf"^{_BLANK}*[+]?-?({_DIGITS}[.]?|({_DIGITS})?[.]{_DIGITS})([eE][-+]?{_DIGITS})?"
    rf"{_BLANK}*\\z"
)
_WHOLE = "1e15"  # From here on DuckDB writes 1e+15.


def to_spark(query: str, types: Mapping[str, str]) -> str:
    """A statement in Spark's dialect.

    Args:
        query: In DuckDB's.
        types: DuckDB's types of the views' columns, by their names there: c0, c1, ..., l0, l1, ...
    """
    statement = parse_one(query, read="duckdb")
    # What stands inside first: the level-order walk, backwards.
    for node in reversed(list(statement.walk())):
        translated = _translated(node, types)
        if translated is not node:
            node.replace(translated)
    return str(statement.sql("spark"))


def _translated(node: exp.Expression, types: Mapping[str, str]) -> exp.Expression:
    if isinstance(node, exp.Anonymous) and node.name.upper() == "EPOCH_US":
        return _microseconds(node.expressions[0], types)
    if isinstance(node, exp.Anonymous) and node.name.upper() == "EPOCH_NS":
        # Spark reads nanoseconds as they stand in the file.
        return node.expressions[0]
    if isinstance(node, exp.RegexpReplace):
        return _regexp_replace(node)
    if isinstance(node, exp.TryCast):
        return _try_cast(node, types)
    if isinstance(node, exp.Cast) and node.to.is_type("text", "varchar"):
        return _text(node, types)
    return node


def _type(node: exp.Expression, types: Mapping[str, str]) -> str:
    return types.get(node.name, "") if isinstance(node, exp.Column) else ""


def _spark(template: str, value: exp.Expression) -> exp.Expression:
    return parse_one(template.replace("{x}", value.sql("spark")), read="spark")


def _microseconds(value: exp.Expression, types: Mapping[str, str]) -> exp.Expression:
    return _spark("UNIX_MICROS(CAST({x} AS TIMESTAMP))", value)


def _regexp_replace(node: exp.RegexpReplace) -> exp.Expression:
    r"""With Java's `$1` for DuckDB's `\1`."""
    replacement = node.args["replacement"]
    java = re.sub(r"\\([0-9])", r"$\1", replacement.this)
    if java != replacement.this:
        replacement.set("this", java)
    return node


def _try_cast(node: exp.TryCast, types: Mapping[str, str]) -> exp.Expression:
    value, kind = node.this, _type(node.this, types)
    if node.to.is_type("timestamptz"):
        zoned = r"REGEXP_REPLACE({x}, '^([^:]*:[0-9]+)(Z|[-+ ])', '$1:00$2')"
        dashed = f"REGEXP_REPLACE({zoned}, '^([0-9]+)/([0-9]+)/', '$1-$2-')"
        return _spark(f"TRY_CAST({dashed} AS TIMESTAMP)", value)
    if not node.to.is_type("double"):
        return node
    if _is_timestamp(kind):
        return _spark("CAST(NULL AS DOUBLE)", value)
    if kind in ("BOOLEAN", "FLOAT", "DOUBLE") or ("INT" in kind and kind not in _WIDE):
        return node
    return _spark(
        f"CASE WHEN {{x}} RLIKE '{_NUMBER}' "
        f"THEN TRY_CAST(REGEXP_REPLACE({{x}}, '^{_BLANK}*[+]|_', '') AS DOUBLE) END",
        value,
    )


_WIDE = ("UBIGINT", "HUGEINT", "UHUGEINT")


def _is_timestamp(kind: str) -> bool:
    return kind.startswith(("TIMESTAMP", "DATE"))


def _text(node: exp.Cast, types: Mapping[str, str]) -> exp.Expression:
    value, kind = node.this, _type(node.this, types)
    if kind in NANOSECONDS:
        zone = ", '+00'" if kind in ZONED else ""
        fraction = "RTRIM('0', LPAD(CAST(PMOD({x}, 1000000000) AS STRING), 9, '0'))"
        return _spark(
            "CONCAT(CAST(TIMESTAMP_SECONDS(FLOOR({x} / 1000000000)) AS STRING), "
            f"IF(PMOD({{x}}, 1000000000) = 0, '', CONCAT('.', {fraction})){zone})",
            value,
        )
    if kind == "TIMESTAMP WITH TIME ZONE":
        return _spark("CONCAT(CAST({x} AS STRING), '+00')", value)
    if kind in ("FLOAT", "DOUBLE"):
        # Other numbers as Java writes them: no key and no type of an event is one.
        return _spark(
            f"CASE WHEN ABS({{x}}) < {_WHOLE} AND {{x}} = FLOOR({{x}}) "
            "THEN CONCAT(CAST(CAST({x} AS BIGINT) AS STRING), '.0') ELSE CAST({x} AS STRING) END",
            value,
        )
    return node
