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
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as pq

from unrolled.data.account import (
    Progress,
    report,
)
from unrolled.data.check_store import FORMAT_VERSION, check_store, meta_checksum, read_meta
from unrolled.data.cut_log import cut_sequences
from unrolled.data.engines import EngineName
from unrolled.data.files import Digests
from unrolled.data.log import EventLog, LogColumns, Table
from unrolled.data.make_store import (
    Store,
    vocabulary_path,
)
from unrolled.data.read_log import OpenedLog, open_log
from unrolled.data.resources import available_cores, default_memory_limit
from unrolled.data.spool import Spool
from unrolled.data.write_store import (
    appears_complete,
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


def fingerprint(source: LogSource, root: Path, *, remember: bool = True) -> str:
    """The fingerprint of a source.

    Args:
        source: The log.
        root: Folder whose `digests.json` has the hashes of files that were read before.
        remember: Whether to write those of files that were read now there.
    """
    if not isinstance(source, EventLog):
        return source.fingerprint()
    digests = Digests(root)
    found = source.fingerprint(digests)
    if remember:
        digests.save()
    return found


def store_path(source: LogSource, root: Path, *, remember: bool = True) -> Path:
    """Where the store of `source` is, or will be; see `fingerprint`."""
    return _path(fingerprint(source, root, remember=remember), root)


def _path(fingerprint: str, root: Path) -> Path:
    key = hashlib.sha256(f"{FORMAT_VERSION} {_RULES} {fingerprint}".encode()).hexdigest()
    return root / f"store-{key[:16]}"


def require_same_ids(schema: Path, store: Path) -> None:
    """Refuse to go on with a run on a store with other ids, other numbers or other splits.

    Args:
        schema: The run's own schema.
        store: The store of the log that the run was trained on, as this version makes it.

    Raises:
        UserError: When an earlier version has read the log in another way.
    """
    trained, found = read_meta(schema), read_meta(store)
    if trained["checksum"] == found["checksum"]:
        return
    same = all(trained[key] == found[key] for key in ("schema", "statistics", "counts")) and all(
        read_vocabulary(schema, feature["name"]).equals(read_vocabulary(store, feature["name"]))
        for feature in trained["schema"]["features"]
        if feature["kind"] == "categorical"
    )
    if not same:
        raise UserError(
            f"{schema}: an earlier version of unrolled has read this log in another way (now an "
            "empty text and NaN are missing values, and what is left out comes before the split), "
            f"so the ids and the splits of the run are not those of the store {store}; train "
            "again, or name other data: evaluate RUN data.source.path=FILE"
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
            spool = spooled(log, work, progress)
        progress.stage("cutting")
        made = Store(log, cut_sequences(spool, columns, log.where), partial, progress)
        meta = {"fingerprint": found, **made.write()}
        meta["checksum"] = meta_checksum(meta)
        (partial / "store.json").write_text(json.dumps(meta, indent=2) + "\n")
        read_meta(partial)  # What is written can be read.
        made.remove_work()
    report(path, meta, time.monotonic() - start)
    return path


def spooled(log: OpenedLog, work: Path, progress: Progress) -> Spool:
    """The events of a log in order, in files below the folder `work`.

    Raises:
        UserError: When no event belongs to a sequence.
    """
    spool = Spool(work / "events")
    units = {"time": log.clock.unit}
    if log.clock.asked is not None:
        units["asked_time"] = log.clock.asked.unit
    spool.write(log.batches(), units, progress.advance)
    if spool.events == 0:
        raise UserError(f"{log.where}: no event has a value in column '{log.columns.key}'")
    return spool
