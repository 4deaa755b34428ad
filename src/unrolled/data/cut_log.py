"""From single events to sequences: their order, their end before the target, their lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from unrolled.data.log import LogColumns
from unrolled.data.sql import feature
from unrolled.data.tables import one_row
from unrolled.errors import UserError


def cut_sequences(
    connection: duckdb.DuckDBPyConnection,
    columns: LogColumns,
    where: Path,
    wanted: dict[str, str],
) -> dict[str, Any]:
    """Number the events, cut before the target, apply the lengths."""
    total, without_id, sequences = one_row(
        connection,
        "SELECT count(*), count(*) FILTER (WHERE sequence_id IS NULL), "
        "count(DISTINCT sequence_id) FROM read_events",
    )
    target = "NULL"
    if columns.target_event is not None:
        # By the order itself, not by the position: an event at the very time of the target may be
        # part of it (a payment), whichever stands first in the file.
        target = "min(CASE WHEN event_type = $target THEN event_order END) OVER per_sequence"
    # Of the whole sequence, also where only its last events are kept.
    start = "min(event_time)" if columns.time is not None else "min(source_row)"
    connection.execute(
        f"""
        CREATE TABLE numbered AS
        SELECT *, {target} AS first_target, {start} OVER per_sequence AS start,
               min(source_row) OVER per_sequence AS first_row FROM (
            SELECT *, row_number() OVER (PARTITION BY sequence_id
                                         ORDER BY event_order, source_row) AS position
            FROM read_events WHERE sequence_id IS NOT NULL)
        WINDOW per_sequence AS (PARTITION BY sequence_id)
        """,
        {"target": columns.target_event} if columns.target_event is not None else {},
    )
    gap = ""
    if columns.gap:
        gap = f""", ln(1 + coalesce(event_time - lag(event_time)
                  OVER (PARTITION BY sequence_id ORDER BY position), 0)
                  / {columns.gap_unit!r}::DOUBLE) AS {feature("gap")}"""
        backwards = one_row(
            connection,
            """
            SELECT count(*), any_value(sequence_id::VARCHAR) FROM (
                SELECT sequence_id, event_time - lag(event_time) OVER
                    (PARTITION BY sequence_id ORDER BY position) AS step FROM numbered)
            WHERE step < 0
            """,
        )
        if backwards[0]:
            raise UserError(
                f"{where}: ordered by '{columns.order}', the time '{columns.time}' goes back "
                f"{backwards[0]:,} times, for example in sequence {backwards[1]}; "
                "set data.source.order to the time column"
            )
    kept = "first_target IS NULL OR event_order < first_target"
    longest = columns.max_length
    last_events = f"QUALIFY position > max(position) OVER per_sequence - {longest}"
    connection.execute(
        f"""
        CREATE TABLE events AS
        SELECT * EXCLUDE (event_order) {gap} FROM numbered
        WHERE {kept}
        WINDOW per_sequence AS (PARTITION BY sequence_id)
        {last_events if longest is not None else ""}
        """
    )
    label = "(max(first_target) IS NOT NULL)::INTEGER" if columns.target_event else "NULL::INTEGER"
    carried = "".join(
        f", min({key}_value) AS {key}_value, max({key}_value) AS {key}_value_max" for key in wanted
    )
    connection.execute(
        f"""
        CREATE TABLE sequences AS
        SELECT sequence_id, count(*) AS length, min(start) AS start, min(first_row) AS first_row,
               {label} AS label {carried}
        FROM events GROUP BY sequence_id HAVING count(*) >= {columns.min_length}
        """
    )
    left = one_row(connection, "SELECT count(*) FROM sequences")[0]
    if left == 0:
        raise UserError(
            f"{where}: no sequence is left of {sequences:,} after min_length={columns.min_length}"
            + (f" and the cut before '{columns.target_event}'" if columns.target_event else "")
        )
    return {
        "events": total,
        "sequences": sequences,
        "dropped": {
            f"events without {columns.sequence} dropped": without_id,
            "sequences without enough events dropped": sequences - left,
        },
    }
