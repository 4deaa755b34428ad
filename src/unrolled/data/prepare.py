"""From an event log to an event store: an engine orders the events, numpy makes the store.

    store.json            description, schema, counts, statistics, account, checksums (its own, too)
    train-00000.arrow     one row a sequence, list columns; val and test beside it
    vocab/<column>.parquet

A store's name holds the hash of its source and description, so it is found again; it appears
complete or not at all.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from unrolled.data import encode_log as enc
from unrolled.data.account import (
    Progress,
    report,
    tell_left_out,
    tell_missing,
    tell_unknown,
    tell_without_id,
)
from unrolled.data.check_store import FORMAT_VERSION, check_store, meta_checksum, read_meta
from unrolled.data.cut_log import cut_sequences
from unrolled.data.engines import EngineName
from unrolled.data.files import Digests
from unrolled.data.label_log import check_label_rows, labels
from unrolled.data.log import EventLog, LogColumns, Table
from unrolled.data.make_store import (
    Store,
    batch_of,
    coded_words,
    encoders_of,
    vocabulary_path,
)
from unrolled.data.read_log import OpenedLog, open_log
from unrolled.data.resources import available_cores, default_memory_limit
from unrolled.data.schema import UNKNOWN_ID
from unrolled.data.sequences import Sequences
from unrolled.data.spool import Spool
from unrolled.data.words import comparable
from unrolled.data.write_store import (
    appears_complete,
    write_columns,
)
from unrolled.errors import UserError

if TYPE_CHECKING:
    from unrolled.data.store import JaggedSequences


_RULES = 2
"""Version of the rules by which the values of a log are read.

A store of other rules is readable, but not taken for that of a log; `require_same_ids` guards the
runs that were trained on one.
"""


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


def read_vocabulary(store: Path, column: str) -> pa.Array:
    """The values of a categorical column in the order of their ids, as text.

    Args:
        store: Folder with `vocab/`; a store or a run directory's `schema/`.
        column: A categorical column of the store.
    """
    return pq.read_table(vocabulary_path(store, column), columns=["value"])[
        "value"
    ].combine_chunks()


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
    key = hashlib.sha256(f"{FORMAT_VERSION} {_RULES} {fingerprint}".encode()).hexdigest()
    return root / f"store-{key[:16]}"


def require_same_ids(schema: Path, store: Path) -> None:
    """Refuse to go on with a run on a store whose ids or numbers mean something else.

    Args:
        schema: The run's own schema.
        store: The store of the log that the run was trained on, as this version makes it.

    Raises:
        UserError: When an earlier version has read the log in another way.
    """
    trained, found = read_meta(schema), read_meta(store)
    if trained["checksum"] == found["checksum"]:
        return
    same = all(trained[key] == found[key] for key in ("schema", "statistics")) and all(
        read_vocabulary(schema, feature["name"]).equals(read_vocabulary(store, feature["name"]))
        for feature in trained["schema"]["features"]
        if feature["kind"] == "categorical"
    )
    if not same:
        raise UserError(
            f"{schema}: an earlier version of unrolled has read this log in another way (now an "
            "empty text and NaN are missing values), so the ids of the run are not those of the "
            f"store {store}; train again, or name the log as other data: evaluate RUN "
            "data.source.path=FILE"
        )


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
        threads: Of DuckDB; None takes all cores. The store is the same with any number. Spark has
            those of its master.
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
        made = Store(log, cut_sequences(spool, columns, log.where), partial, progress)
        meta = {"fingerprint": found, **made.write()}
        meta["checksum"] = meta_checksum(meta)
        (partial / "store.json").write_text(json.dumps(meta, indent=2) + "\n")
        read_meta(partial)  # What is written can be read.
        made.remove_work()
    report(path, meta, time.monotonic() - start)
    return path


def _spool(log: OpenedLog, work: Path, progress: Progress) -> Spool:
    spool = Spool(work / "events")
    units = {"time": log.clock.unit}
    if log.clock.asked is not None:
        units["asked_time"] = log.clock.asked.unit
    spool.write(log.batches(), units, progress.advance)
    if spool.events == 0:
        raise UserError(f"{log.where}: no event has a value in column '{log.columns.key}'")
    return spool


def encode(
    store: Path, columns: LogColumns, tables: Mapping[str, Table | None], *, labelled: bool
) -> pa.Table:
    """New events on the scale of a store: its vocabularies, its statistics.

    Args:
        store: Folder with `store.json` and `vocab/`; a store or a run directory's `schema/`.
        columns: What the columns of the new events mean; the features are the store's. Of what is
            left out, nothing depends on other sequences: neither `min_support` nor
            `training_items_only` counts here, and `min_length` only of labelled sequences. How many
            are left out nevertheless is told on stderr.
        tables: `events` and, where labels are wanted and lie elsewhere, `labels`.
        labelled: Whether every sequence needs a label.

    Returns:
        One row a sequence in the order of first appearance: `id`, `label` (null when not labelled)
        and the list columns.

    Raises:
        UserError: When the data do not fit the store's description.
    """
    meta = read_meta(store)
    columns = replace(columns, min_support=1, training_items_only=False)
    if not labelled:
        columns = replace(columns, min_length=1)
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
            asked_unit=meta.get("asked_unit"),
        ) as log:
            spool = _spool(log, work, Progress())
        found = cut_sequences(spool, columns, log.where)
        if "has_label_row" in spool:
            check_label_rows(found, columns, log.labels_where)
        label = labels(found, columns, log.words, log.labels_where) if labelled else None
        alive = np.flatnonzero(found.alive)
        tell_without_id(log.where, columns.key, log.without_id, log.rows)
        tell_left_out(log.where, columns, len(found), len(alive))
        order = alive[np.argsort(found.first_row[alive])]
        ids = _ids(store, log, found, meta)
        _tell_missing_numbers(log, found, meta)
        encoders = encoders_of(log, found, ids, meta["statistics"])
        write_columns(found, order, encoders, work)
        batch = batch_of(found, work, {n: k for n, (k, _) in encoders.items()}, order, label, 0)
        # Out of the files, which are about to go.
        with pa.BufferOutputStream() as sink:
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch)
            return pa.ipc.open_stream(sink.getvalue()).read_all()


def _ids(
    store: Path, log: OpenedLog, found: Sequences, meta: dict[str, Any]
) -> dict[str, npt.NDArray[np.int32]]:
    """The id of each code, by categorical feature; values that the store has not are told.

    Raises:
        UserError: For a column of a type that can't have the values of the store.
    """
    ids, problems = {}, []
    everything = np.where(found.alive, 0, -1).astype(np.int8)
    for name, at in enc.code_columns(log.columns).items():
        words, kind = coded_words(log, at)
        # A store of an earlier version does not say.
        trained = meta.get("types", {}).get(name, "text")
        known = read_vocabulary(store, name)
        if len(words) and not comparable(kind, trained):
            problems.append(
                f"{log.where}: column '{name}' is of the type {kind}, for example "
                f"{words[0].as_py()}, and {trained} in training, for example {known[0].as_py()}"
            )
            continue
        ids[name] = enc.ids_of_codes(words, kind, known, trained)
        counts = enc.count_codes(found, at, len(words), everything)[0]
        tell_unknown(log.where, name, words, counts, ids[name] == UNKNOWN_ID, known, meta)
        usual = meta["unknown"][name]["empty"] / sum(c["events"] for c in meta["counts"].values())
        tell_missing(log.where, name, int(counts[-1]), int(counts.sum()), usual)
    if problems:
        raise UserError(*problems)
    return ids


def _tell_missing_numbers(log: OpenedLog, found: Sequences, meta: dict[str, Any]) -> None:
    for index, name in enumerate(log.columns.numeric):
        missing = sum(
            int(np.isnan(found.read(f"number_{index}", piece)[found.kept_in(piece)]).sum())
            for piece in found.pieces()
        )
        # A store of an earlier version does not say.
        usual = meta.get("missing", {}).get(name, 0) / meta["counts"]["train"]["events"]
        tell_missing(log.where, name, missing, int(found.kept.sum()), usual)


def _check_features(columns: LogColumns, meta: dict[str, Any]) -> None:
    trained = LogColumns(**meta["description"]).features
    if columns.features != trained:
        raise UserError(
            f"the features {_listed(columns.features)} are not those that the model was trained "
            f"on: {_listed(trained)}"
        )


def _listed(features: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in features.items())
