"""The label and the split of each sequence, and what can be wrong with them."""

from __future__ import annotations

from pathlib import Path

import duckdb

from unrolled.data.log import LogColumns
from unrolled.data.sql import Identifier
from unrolled.data.tables import one_row
from unrolled.errors import UserError

_OTHER_WORDS = ("dev", "valid", "validation")
"""What other logs call `val`."""


def join_labels(
    connection: duckdb.DuckDBPyConnection,
    columns: LogColumns,
    labels: str,
    where: Path,
    wanted: dict[str, str],
) -> None:
    values = "".join(
        f", l.{Identifier(column)} AS {name}_value, l.{Identifier(column)} AS {name}_value_max"
        for name, column in wanted.items()
    )
    key = Identifier(columns.sequence)
    doubled = one_row(
        connection,
        f"SELECT count(*), any_value({key}::VARCHAR) FROM "
        f"(SELECT {key} FROM {labels} WHERE {key} IS NOT NULL GROUP BY 1 HAVING count(*) > 1)",
    )
    if doubled[0]:
        raise UserError(
            f"{where}: {doubled[0]:,} values of '{columns.sequence}' stand in more than one row, "
            f"for example {doubled[1]}"
        )
    missing = one_row(
        connection,
        f"SELECT count(*), any_value(sequence_id::VARCHAR) FROM sequences "
        f"WHERE sequence_id::VARCHAR NOT IN "
        f"(SELECT {key}::VARCHAR FROM {labels} WHERE {key} IS NOT NULL)",
    )
    if missing[0]:
        raise UserError(
            f"{where}: {missing[0]:,} sequences of the log have no row here, "
            f"for example {columns.sequence} {missing[1]}"
        )
    connection.execute(
        f"""
        CREATE OR REPLACE TABLE sequences AS
        SELECT s.* {values}
        FROM sequences AS s JOIN {labels} AS l ON l.{key}::VARCHAR = s.sequence_id::VARCHAR
        """
    )


def check_labels(connection: duckdb.DuckDBPyConnection, columns: LogColumns, where: Path) -> None:
    if columns.label is None:
        return
    _check_words(
        connection, columns, where, "label", columns.label, ("0", "1"),
        ("0", "1", "0.0", "1.0", "true", "false"),
    )  # fmt: skip
    connection.execute(
        "UPDATE sequences "
        "SET label = (lower(label_value::VARCHAR) IN ('1', 'true', '1.0'))::INTEGER"
    )


def split_sequences(
    connection: duckdb.DuckDBPyConnection, columns: LogColumns, where: Path, split: bool
) -> None:
    if not split:
        connection.execute("ALTER TABLE sequences ADD COLUMN split VARCHAR DEFAULT 'test'")
        order = "first_row"
    elif columns.split is not None:
        words = ("train", "val", "test")
        _check_words(
            connection, columns, where, "split", columns.split, words, (*words, *_OTHER_WORDS)
        )
        said = "lower(split_value::VARCHAR)"
        connection.execute("ALTER TABLE sequences ADD COLUMN split VARCHAR")
        connection.execute(
            f"UPDATE sequences SET split = CASE WHEN {said} IN {_OTHER_WORDS} THEN 'val' "
            f"ELSE {said} END"
        )
        order = "first_row"
        if not one_row(connection, "SELECT bool_or(split = 'val') FROM sequences")[0]:
            connection.execute(
                f"""
                UPDATE sequences SET split = 'val' WHERE sequence_id IN (
                    SELECT sequence_id FROM (
                        SELECT sequence_id, (row_number() OVER (ORDER BY start, first_row) - 0.5)
                                            / count(*) OVER () AS place
                        FROM sequences WHERE split = 'train')
                    WHERE place > {1 - columns.val_fraction})
                """
            )
    else:
        val_from = 1 - columns.val_fraction - columns.test_fraction
        connection.execute(
            f"""
            CREATE OR REPLACE TABLE sequences AS
            SELECT *, CASE WHEN place < {val_from} THEN 'train'
                           WHEN place < {1 - columns.test_fraction} THEN 'val'
                           ELSE 'test' END AS split
            FROM (SELECT *, (row_number() OVER (ORDER BY start, first_row) - 0.5)
                            / count(*) OVER () AS place FROM sequences)
            """
        )
        order = "start, first_row"
    connection.execute(
        f"""
        CREATE OR REPLACE TABLE sequences AS
        SELECT sequence_id, label, split, length,
               row_number() OVER (ORDER BY {order}) AS rank FROM sequences
        """
    )


def check_classes(connection: duckdb.DuckDBPyConnection, columns: LogColumns, where: Path) -> None:
    counts = {
        name: (total, positive)
        for name, total, positive in connection.execute(
            "SELECT split, count(*), sum(label)::BIGINT FROM sequences GROUP BY 1"
        ).fetchall()
    }
    label = f"column '{columns.label}'" if columns.label else f"event '{columns.target_event}'"
    problems = []
    for name in ("train", "val", "test"):
        total, positive = counts.get(name, (0, 0))
        if total == 0:
            problems.append(f"{where}: the split '{name}' has no sequence")
        elif positive in (0, total):
            problems.append(
                f"{where}: the split '{name}' has one class only: all of its {total:,} sequences "
                f"have label {positive // total} ({label}); there is nothing to learn or to judge"
            )
    if problems:
        raise UserError(*problems)


def _check_words(
    connection: duckdb.DuckDBPyConnection,
    columns: LogColumns,
    where: Path,
    key: str,
    column: str,
    words: tuple[str, ...],
    spellings: tuple[str, ...],
) -> None:
    value, other = f"{key}_value::VARCHAR", f"{key}_value_max::VARCHAR"
    allowed = ", ".join(f"'{word}'" for word in spellings)
    odd = connection.execute(
        f"""
        SELECT sequence_id::VARCHAR, {value}, {other}, count(*) OVER () FROM sequences
        WHERE {value} IS NULL OR lower({value}) NOT IN ({allowed})
           OR {value} IS DISTINCT FROM {other}
        ORDER BY first_row LIMIT 1
        """
    ).fetchall()
    if not odd:
        return
    sequence, low, high, count = odd[0]
    shown = "no value" if low is None else repr(low) if low == high else f"{low!r} and {high!r}"
    raise UserError(
        f"{where}: column '{column}' must be {', '.join(words[:-1])} or {words[-1]}, one value a "
        f"sequence; {count:,} sequences are not so, for example {columns.sequence} {sequence} "
        f"with {shown}"
    )
