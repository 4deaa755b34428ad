"""From an event log to an event store: an engine orders the events, numpy makes the store.

    store.json            description, schema, counts, statistics, account, checksums
    train-00000.arrow     one row a sequence, list columns; val and test beside it
    vocab/<column>.parquet

A store's name holds the hash of its source and description, so it is found again; it appears
complete or not at all.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial as bound
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unrolled.data import encode_log as enc
from unrolled.data.account import Progress, report
from unrolled.data.check_store import FORMAT_VERSION, check_store, check_version, read_meta
from unrolled.data.cut_log import cut_sequences
from unrolled.data.engines import EngineName
from unrolled.data.files import Digests
from unrolled.data.label_log import SPLITS, check_label_rows, check_splits, labels, splits
from unrolled.data.log import EventLog, LogColumns, Table, description_json
from unrolled.data.read_log import OpenedLog, open_log
from unrolled.data.resources import available_cores, default_memory_limit
from unrolled.data.schema import UNKNOWN_ID, Categorical, Numeric, Schema
from unrolled.data.sequences import Integers, Sequences
from unrolled.data.spool import Spool
from unrolled.data.write_store import (
    Encode,
    appears_complete,
    list_batch,
    write_arrow,
    write_columns,
)
from unrolled.errors import UserError


class LogSource(Protocol):
    """Anything that gives an event log: files, or a generator."""

    def columns(self) -> LogColumns:
        """What the columns mean."""
        ...

    def fingerprint(self) -> str:
        """A hash that changes when the store would."""
        ...

    def tables(self) -> Mapping[str, Table | None]:
        """`events`, and `labels` where they are a table of their own."""
        ...


def fingerprint(source: LogSource, root: Path) -> str:
    """The fingerprint of a source; hashes of files are remembered in the folder `root`."""
    if not isinstance(source, EventLog):
        return source.fingerprint()
    digests = Digests(root)
    found = source.fingerprint(digests)
    digests.save()
    return found


def store_path(source: LogSource, root: Path) -> Path:
    """Where the store of `source` is, or will be."""
    return _path(fingerprint(source, root), root)


def _path(fingerprint: str, root: Path) -> Path:
    key = hashlib.sha256(f"{FORMAT_VERSION} {fingerprint}".encode()).hexdigest()
    return root / f"store-{key[:16]}"


def prepare(
    source: LogSource,
    root: Path,
    *,
    memory_limit: str | None = None,
    threads: int | None = None,
    engine: EngineName = "duckdb",
    tell: bool = False,
) -> Path:
    """The store of `source` below the folder `root`; made when it is not there yet.

    Args:
        source: The log.
        root: Where stores are.
        memory_limit: Of the engine, for example `4GB`; what does not fit goes to a folder beside
            the store. None takes half of the memory of the machine, or of the limits set on it.
        threads: Of the engine; None takes all cores. The store is the same with any number.
        engine: What reads the log. The store is the same, checksum by checksum.
        tell: Give the account of a store that is there already, too.

    Raises:
        UserError: When the description or the data can't be right, `root` can't be written, or the
            store that is there is damaged.
    """
    problems = source.problems() if isinstance(source, EventLog) else source.columns().problems()
    if problems:
        raise UserError(*(f"data.source: {problem}" for problem in problems))
    found = fingerprint(source, root)
    path = _path(found, root)
    if path.exists():
        check_store(path)
        if tell:
            report(path, read_meta(path))
        return path
    start = time.monotonic()
    columns, tables = source.columns(), source.tables()
    with appears_complete(path) as partial, Progress() as progress:
        work = partial / "work"
        work.mkdir()
        progress.stage("reading")
        with open_log(
            columns,
            tables,
            work,
            memory_limit=memory_limit or default_memory_limit(),
            threads=threads or available_cores(),
            labelled=columns.labelled,
            split=True,
            engine=engine,
        ) as log:
            progress.stage("ordering", log.rows - log.without_id - log.other_types)
            spool = _spool(log, work, progress)
        progress.stage("cutting")
        made = _Store(log, cut_sequences(spool, columns, log.where), partial, progress)
        meta = {"fingerprint": found, **made.write()}
        (partial / "store.json").write_text(json.dumps(meta, indent=2) + "\n")
        made.remove_work()
    report(path, meta, time.monotonic() - start)
    return path


def _spool(log: OpenedLog, work: Path, progress: Progress) -> Spool:
    spool = Spool(work / "events")
    spool.write(log.batches(), log.clock.unit, progress.advance)
    if spool.events == 0:
        raise UserError(f"{log.where}: no event has a value in column '{log.columns.key}'")
    return spool


class _Store:
    """A store in the making.

    Args:
        log: The log, of which the engine is not needed any more.
        found: Its sequences, cut.
        folder: Where the store is made.
        progress: Told of each stage.
    """

    def __init__(self, log: OpenedLog, found: Sequences, folder: Path, progress: Progress) -> None:
        self.log, self.columns, self.found = log, log.columns, found
        self.folder, self.work, self.progress = folder, folder / "work", progress

    def write(self) -> dict[str, Any]:
        """Split, encode and write; what `store.json` says."""
        log, columns, found = self.log, self.columns, self.found
        label, split, order = _label_and_split(log, found, labelled=columns.labelled)
        check_splits(split, label, columns, log.labels_where)
        enc.check_wall_clock(found, columns, log.where)
        if columns.training_items_only:
            self._drop_unseen(split)
            split[~found.alive] = -1
            order = order[found.alive[order]]
            check_splits(split, label, columns, log.labels_where)
        order = np.concatenate([order[split[order] == index] for index in range(len(SPLITS))])
        self.progress.stage("counting")
        vocabularies, unknown = self._vocabularies(split)
        statistics = {
            name: enc.statistics(found, name, at, columns.features[name], split == 0, log.where)
            for name, at in enc.number_columns(columns).items()
        }
        self.progress.stage("writing", int(found.kept[order].sum()))
        encoders = _encoders(log, found, vocabularies, statistics)
        write_columns(found, order, encoders, self.work, self.progress.advance)
        for column, table in vocabularies.items():
            file = vocabulary_path(self.folder, column)
            file.parent.mkdir(exist_ok=True)
            pq.write_table(table, file)
        counts = self._splits(
            order, split, label, {name: kind for name, (kind, _) in encoders.items()}
        )
        files = [f for f in sorted(self.folder.rglob("*")) if f.suffix in (".arrow", ".parquet")]
        digests = Digests()
        return {
            "format_version": FORMAT_VERSION,
            "description": json.loads(description_json(columns)),
            "time_unit": log.clock.unit if log.clock.time == "number" else log.clock.time,
            "schema": Schema(
                tuple(Categorical(c, len(v) + UNKNOWN_ID + 1) for c, v in vocabularies.items())
                + tuple(Numeric(name) for name in statistics),
                num_classes=2 if columns.labelled else None,
            ).to_dict(),
            "statistics": statistics,
            "counts": counts,
            "read": _account(log, found),
            "unknown": unknown,
            "sizes": {str(f.relative_to(self.folder)): f.stat().st_size for f in files},
            "checksums": {str(f.relative_to(self.folder)): digests.of(f) for f in files},
        }

    def remove_work(self) -> None:
        """Remove what only the making needed."""
        shutil.rmtree(self.work)

    def _drop_unseen(self, split: Any) -> None:
        """Drop events of validation and test whose item training has not."""
        found, dropped = self.found, 0
        counts = enc.count_codes(found, "category_0", len(self.log.words["category_0"]), split)
        unseen = counts[0] == 0
        unseen[-1] = False
        for piece in found.pieces():
            held_out = np.repeat(split[piece.first : piece.last] > 0, piece.lengths)
            out = unseen[found.read("category_0", piece)] & held_out & found.kept_in(piece)
            found.kept_in(piece)[...] &= ~out
            dropped += int(out.sum())
        found.drop("events of items that training has not", dropped)
        found.drop_short(self.columns.min_length)

    def _vocabularies(self, split: Any) -> tuple[dict[str, pa.Table], dict[str, Any]]:
        vocabularies, unknown = {}, {}
        for name, at in enc.code_columns(self.columns).items():
            words = _words(self.log, at)
            counts = enc.count_codes(self.found, at, len(words), split)
            vocabularies[name] = enc.vocabulary(words, counts[0, :-1], name, self.log.where)
            new = (counts[0, :-1] == 0) & (counts[1:, :-1].sum(0) > 0)
            unknown[name] = {
                "values": int(new.sum()),
                "events": int(counts[1:, :-1][:, new].sum()),
                "empty": int(counts[:, -1].sum()),
            }
        return vocabularies, unknown

    def _splits(
        self, order: Integers, split: Any, label: Any, columns: dict[str, type]
    ) -> dict[str, dict[str, int]]:
        counts, start = {}, 0
        for index, name in enumerate(SPLITS):
            part = order[split[order] == index]
            batch = _batch(self.found, self.work, columns, part, label, start)
            write_arrow(batch, self.folder / f"{name}-00000.arrow")
            events = int(self.found.kept[part].sum())
            positive = 0 if label is None else int((label[part] == 1).sum())
            counts[name] = {"sequences": len(part), "events": events, "positive": positive}
            start += events
        return counts


def _words(log: OpenedLog, at: str) -> pa.Array:
    return enc.HOURS if at == "hour_of_week" else log.words[at]


def _label_and_split(log: OpenedLog, found: Sequences, *, labelled: bool) -> tuple[Any, Any, Any]:
    columns = log.columns
    if "has_label_row" in found.spool:
        check_label_rows(found, columns, log.labels_where)
    label = labels(found, columns, log.words, log.labels_where) if labelled else None
    split, order = splits(found, columns, log.words, log.labels_where)
    return label, split, order


def _encoders(
    log: OpenedLog,
    found: Sequences,
    vocabularies: Mapping[str, pa.Table],
    statistics: Mapping[str, Any],
) -> dict[str, tuple[type, Encode]]:
    columns = log.columns
    encoders: dict[str, tuple[type, Encode]] = {}
    for name, at in enc.code_columns(columns).items():
        ids = enc.ids_of_codes(_words(log, at), vocabularies[name]["value"])
        encoders[name] = (np.int32, bound(enc.encode_codes, found, at, ids))
    for name, at in enc.number_columns(columns).items():
        kind, of = columns.features[name], statistics[name]
        encoders[name] = (np.float32, bound(enc.encode_numbers, found, at, kind, of))
    if columns.time is not None:
        encoders["event_time"] = (np.float64, bound(found.read, "time"))
    return encoders


def _batch(
    found: Sequences, work: Path, columns: dict[str, type], part: Integers, label: Any, start: int
) -> pa.RecordBatch:
    given = pa.nulls(len(part), pa.int32())
    if label is not None:
        given = pa.array(label[part].astype(np.int32))
    return list_batch(work, columns, found.ids(part), given, found.kept[part], start)


def _account(log: OpenedLog, found: Sequences) -> dict[str, Any]:
    dropped = {f"events without {log.columns.key}": log.without_id}
    if log.columns.keep_types:
        dropped["events of other types than keep_types"] = log.other_types
    return {
        "events": log.rows,
        "sequences": len(found),
        "copies": found.copies,
        "dropped": dropped | found.dropped,
    }


def encode(
    store: Path, columns: LogColumns, tables: Mapping[str, Table | None], *, labelled: bool
) -> pa.Table:
    """New events on the scale of a store: its vocabularies, its statistics.

    Args:
        store: Folder with `store.json` and `vocab/`; a store or a run directory's `schema/`.
        columns: What the columns of the new events mean; the features are the store's. Of what is
            left out, nothing depends on other sequences: neither `min_support` nor
            `training_items_only` counts here.
        tables: `events` and, where labels are wanted and lie elsewhere, `labels`.
        labelled: Whether every sequence needs a label.

    Returns:
        One row a sequence in the order of first appearance: `id`, `label` (null when not labelled)
        and the list columns.

    Raises:
        UserError: When the data do not fit the store's description.
    """
    meta = read_meta(store)
    check_version(store, meta)
    columns = replace(columns, min_support=1, training_items_only=False)
    _check_features(columns, meta)
    with tempfile.TemporaryDirectory(prefix="unrolled-") as folder:
        work = Path(folder)
        with open_log(
            columns,
            tables,
            work,
            memory_limit=default_memory_limit(),
            threads=available_cores(),
            labelled=labelled,
            split=False,
            unit=meta["time_unit"],
        ) as log:
            spool = _spool(log, work, Progress())
        found = cut_sequences(spool, columns, log.where)
        if "has_label_row" in spool:
            check_label_rows(found, columns, log.labels_where)
        label = labels(found, columns, log.words, log.labels_where) if labelled else None
        alive = np.flatnonzero(found.alive)
        order = alive[np.argsort(found.first_row[alive])]
        vocabularies = {
            name: pq.read_table(vocabulary_path(store, name)) for name in enc.code_columns(columns)
        }
        encoders = _encoders(log, found, vocabularies, meta["statistics"])
        write_columns(found, order, encoders, work)
        batch = _batch(found, work, {n: k for n, (k, _) in encoders.items()}, order, label, 0)
        # Out of the files, which are about to go.
        with pa.BufferOutputStream() as sink:
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch)
            return pa.ipc.open_stream(sink.getvalue()).read_all()


def _check_features(columns: LogColumns, meta: dict[str, Any]) -> None:
    trained = LogColumns(**meta["description"]).features
    if columns.features != trained:
        raise UserError(
            f"the features {_listed(columns.features)} are not those that the model was trained "
            f"on: {_listed(trained)}"
        )


def _listed(features: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in features.items())


def vocabulary_path(store: Path, column: str) -> Path:
    """The file of a column's vocabulary, whose name may hold a slash."""
    return store / "vocab" / f"{quote(column, safe=' ')}.parquet"
