"""From an event log to an event store: one pass of SQL in DuckDB, then Arrow files.

    store.json            description, schema, counts, statistics, checksums
    train-00000.arrow     one row a sequence, list columns; val and test beside it
    vocab/<column>.parquet

A store's name holds the hash of its source and description, so it is found again; it appears
complete or not at all.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from urllib.parse import quote

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unrolled.data.log import LogColumns, description_json
from unrolled.data.read_log import load_events
from unrolled.data.schema import UNKNOWN_ID, Categorical, Numeric, Schema
from unrolled.data.sql import Identifier, feature
from unrolled.data.tables import first_line, one_row
from unrolled.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unrolled.data.store import JaggedSequences

FORMAT_VERSION = 3
SPLITS = ("train", "val", "test")


class LogSource(Protocol):
    """Anything that gives an event log: files, or a generator."""

    def columns(self) -> LogColumns:
        """What the columns mean."""
        ...

    def fingerprint(self) -> str:
        """A hash that changes when the store would."""
        ...

    def tables(self) -> dict[str, Path | pa.Table | None]:
        """`events`, and `labels` where they are a table of their own."""
        ...


@runtime_checkable
class KnownLaw(Protocol):
    """A source whose events follow a known law."""

    def best_possible(
        self, sequences: JaggedSequences, vocabularies: Mapping[str, pa.Array]
    ) -> dict[str, float]:
        """The best any model can score on `sequences`; by metric, without the split.

        Args:
            sequences: Of the store; their `target` is what is asked.
            vocabularies: The values of each categorical column in the order of their ids, from the
                first after the unknown one.
        """
        ...


def store_path(source: LogSource, root: Path) -> Path:
    """Where the store of `source` is, or will be."""
    key = hashlib.sha256(f"{FORMAT_VERSION} {source.fingerprint()}".encode()).hexdigest()
    return root / f"store-{key[:16]}"


def prepare(source: LogSource, root: Path) -> Path:
    """The store of `source` below the folder `root`; made when it is not there yet.

    Raises:
        UserError: When the description or the data can't be right, or `root` can't be written.
    """
    path = store_path(source, root)
    if (path / "store.json").exists():
        return path
    columns = source.columns()
    if columns.problems():
        raise UserError(*(f"data.source: {problem}" for problem in columns.problems()))
    tables = source.tables()
    where = _where(tables)
    with _connect(where) as connection:
        read = load_events(connection, columns, tables, labelled=columns.labelled)
        vocabularies = {c: _build_vocabulary(connection, c, where) for c in columns.categories}
        statistics = {f: _statistics(connection, f, where) for f in _numeric(columns)}
        schema = Schema(
            tuple(Categorical(c, len(v) + UNKNOWN_ID + 1) for c, v in vocabularies.items())
            + tuple(Numeric(f) for f in _numeric(columns)),
            num_classes=2 if columns.labelled else None,
        )
        with _appears_complete(path) as partial:
            (partial / "vocab").mkdir()
            for column, vocabulary in vocabularies.items():
                _write_parquet(connection, vocabulary, _vocabulary_path(partial, column))
            counts = {}
            for split in SPLITS:
                table = _encode(connection, columns, vocabularies, statistics, split)
                _write_arrow(table, partial / f"{split}-00000.arrow")
                counts[split] = _count(table)
            meta = {
                "format_version": FORMAT_VERSION,
                "fingerprint": source.fingerprint(),
                "description": json.loads(description_json(columns)),
                "schema": schema.to_dict(),
                "statistics": statistics,
                "counts": counts,
                "read": read,
                "checksums": {
                    str(f.relative_to(partial)): _checksum(f)
                    for f in sorted(partial.rglob("*"))
                    if f.is_file()
                },
            }
            (partial / "store.json").write_text(json.dumps(meta, indent=2) + "\n")
    _report(path, meta)
    return path


def encode(
    store: Path,
    columns: LogColumns,
    tables: dict[str, Path | pa.Table | None],
    *,
    labelled: bool,
) -> pa.Table:
    """New events on the scale of a store: its vocabularies, its statistics.

    Args:
        store: Folder with `store.json` and `vocab/`; a store or a run directory's `schema/`.
        columns: What the columns of the new events mean; the features are the store's.
        tables: `events` and, where labels are wanted and lie elsewhere, `labels`.
        labelled: Whether every sequence needs a label.

    Returns:
        One row a sequence in the order of first appearance: `id`, `label` (null when not labelled)
        and the list columns.

    Raises:
        UserError: When the data do not fit the store's description.
    """
    meta = json.loads((store / "store.json").read_text())
    trained = meta["description"]
    features = {
        **({trained["item"]: "categorical"} if trained["item"] else {}),
        **dict.fromkeys(trained["categorical"], "categorical"),
        **trained["numeric"],
        **({"gap": "log"} if trained["gap"] else {}),
    }
    given = {**dict.fromkeys(columns.categories, "categorical"), **_numeric(columns)}
    if given != features:
        raise UserError(
            f"the features {_listed(given)} are not those that the model was trained on: "
            f"{_listed(features)}"
        )
    with _connect(_where(tables)) as connection:
        load_events(connection, columns, tables, labelled=labelled, split=False)
        vocabularies = {
            c: connection.sql(
                "SELECT * FROM read_parquet($path) ORDER BY id",
                params={"path": str(_vocabulary_path(store, c))},
            ).to_arrow_table()
            for c in columns.categories
        }
        return _encode(connection, columns, vocabularies, meta["statistics"], None)


def _where(tables: dict[str, Path | pa.Table | None]) -> str:
    events = tables["events"]
    return str(events) if isinstance(events, Path) else "<generated events>"


def _listed(features: dict[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in features.items())


@contextmanager
def _connect(where: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory whose errors tell about the events that lie at `where`."""
    try:
        with duckdb.connect() as connection:
            # Ids in a fixed order and float sums in a fixed order: the same store on any machine.
            connection.execute("SET threads = 1")
            # A time without a zone means the same wherever it is read.
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("SET enable_progress_bar = false")
            yield connection
    except duckdb.Error as error:
        raise UserError(f"{where}: {first_line(error)}") from error


def read_vocabulary(store: Path, column: str) -> pa.Array:
    """The values of a categorical column in the order of their ids, as text.

    Args:
        store: Folder with `vocab/`; a store or a run directory's `schema/`.
        column: A categorical column of the store.
    """
    return pq.read_table(_vocabulary_path(store, column), columns=["value"])[
        "value"
    ].combine_chunks()


def _vocabulary_path(store: Path, column: str) -> Path:
    # A column's name may hold a slash.
    return store / "vocab" / f"{quote(column, safe=' ')}.parquet"


def _numeric(columns: LogColumns) -> dict[str, str]:
    features: dict[str, str] = dict(columns.numeric)
    if columns.gap:
        features["gap"] = "log"
    return features


def _build_vocabulary(connection: duckdb.DuckDBPyConnection, column: str, where: str) -> pa.Table:
    name = feature(column)
    vocabulary = connection.sql(
        f"""
        SELECT value,
               (row_number() OVER (ORDER BY count DESC, value) + {UNKNOWN_ID})::INTEGER AS id,
               count
        FROM (SELECT {name} AS value, count(*) AS count
              FROM events JOIN sequences USING (sequence_id)
              WHERE split = 'train' AND {name} IS NOT NULL GROUP BY 1)
        ORDER BY id
        """
    ).to_arrow_table()
    if len(vocabulary) == 0:
        raise UserError(f"{where}: column '{column}' has no value in the training sequences")
    return vocabulary


def _statistics(connection: duckdb.DuckDBPyConnection, column: str, where: str) -> dict[str, float]:
    name = feature(column)
    mean, deviation = one_row(
        connection,
        f"""
        SELECT avg({name}), stddev_pop({name})
        FROM events JOIN sequences USING (sequence_id) WHERE split = 'train'
        """,
    )
    if mean is None:
        raise UserError(f"{where}: column '{column}' has no value in the training sequences")
    if not (math.isfinite(mean) and math.isfinite(deviation)):
        raise UserError(f"{where}: column '{column}' has values too large to be standardised")
    # A constant column becomes 0 everywhere rather than a division by zero.
    return {"mean": mean, "std": deviation or 1.0}


def _encode(
    connection: duckdb.DuckDBPyConnection,
    columns: LogColumns,
    vocabularies: dict[str, pa.Table],
    statistics: dict[str, dict[str, float]],
    split: str | None,
) -> pa.Table:
    select, joins = [], []
    for index, (column, vocabulary) in enumerate(vocabularies.items()):
        connection.register(f"vocabulary_{index}", vocabulary)
        joins.append(
            f"LEFT JOIN vocabulary_{index} AS v{index} ON v{index}.value = e.{feature(column)}"
        )
        select.append(
            f"list(coalesce(v{index}.id, {UNKNOWN_ID})::INTEGER ORDER BY e.position)"
            f" AS {Identifier(column)}"
        )
    for column, values in statistics.items():
        # A missing value becomes the training mean, which is 0 on this scale.
        select.append(
            f"list(coalesce((e.{feature(column)} - {values['mean']!r}) / {values['std']!r}, 0)"
            f"::FLOAT ORDER BY e.position) AS {Identifier(column)}"
        )
    if columns.time is not None:
        select.append("list(e.event_time ORDER BY e.position) AS event_time")
    where = "" if split is None else f"WHERE s.split = '{split}'"
    return connection.sql(
        f"""
        SELECT s.sequence_id AS id, s.label, {", ".join(select)}
        FROM sequences AS s JOIN events AS e USING (sequence_id) {" ".join(joins)}
        {where}
        GROUP BY s.sequence_id, s.label, s.rank ORDER BY s.rank
        """
    ).to_arrow_table()


def _write_arrow(table: pa.Table, path: Path) -> None:
    # One record batch, so that each column is one buffer that can be mapped into memory.
    batch = table.combine_chunks()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_table(batch, max_chunksize=max(len(batch), 1))


def _write_parquet(connection: duckdb.DuckDBPyConnection, table: pa.Table, path: Path) -> None:
    connection.register("rows_to_write", table)
    connection.execute(f"COPY rows_to_write TO '{str(path).replace(chr(39), chr(39) * 2)}'")
    connection.unregister("rows_to_write")


def _count(table: pa.Table) -> dict[str, int]:
    events = sum(len(chunk.values) for chunk in table.column(table.num_columns - 1).chunks)
    positive = pc.sum(table["label"]).as_py() or 0
    return {"sequences": len(table), "events": events, "positive": positive}


def _checksum(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _appears_complete(path: Path) -> Iterator[Path]:
    """A folder to fill that gets its name only when it is full."""
    # Not the process's number, which a killed process of another container may have had.
    partial = path.with_name(f".{path.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{path.parent}: can't make the event store: {error.strerror}") from error
    try:
        yield partial
        try:
            partial.rename(path)
        except OSError as error:
            # Another process has finished the same store in the meantime: it is the same.
            if not (path / "store.json").exists():
                raise UserError(f"{path}: {first_line(error)}") from error
    except OSError as error:
        raise UserError(f"{path}: can't write the event store: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):
            path.parent.rmdir()  # Only when nothing else is in it.


def _report(path: Path, meta: dict[str, Any]) -> None:
    lines: Sequence[str] = [
        f"Prepared {path}: {meta['read']['events']:,} events of "
        f"{meta['read']['sequences']:,} sequences read"
        + "".join(f"; {n:,} {what}" for what, n in meta["read"]["dropped"].items() if n)
    ]
    for split, count in meta["counts"].items():
        line = f"  {split:5} {count['sequences']:>9,} sequences {count['events']:>11,} events"
        if meta["schema"]["num_classes"] is not None:
            line += f", {count['positive'] / max(count['sequences'], 1):.2%} positive"
        lines = [*lines, line]
    print("\n".join(lines), file=sys.stderr)
