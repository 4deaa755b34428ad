"""The LightningDataModule over an event store."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import pyarrow as pa
import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from unrolled.data.account import tell_of_query
from unrolled.data.batching import CELLS, Loader, PackedLoader, Source
from unrolled.data.buckets import BucketedLoader
from unrolled.data.check_arrow import open_batch
from unrolled.data.check_store import check_schema
from unrolled.data.engines import EngineName
from unrolled.data.log import EventLog, Table
from unrolled.data.module import SequenceData, Split
from unrolled.data.new_events import encode
from unrolled.data.placement import Placement, place
from unrolled.data.prepare import (
    KnownLaw,
    LogSource,
    fingerprint,
    prepare,
    read_vocabulary,
    require_same_ids,
)
from unrolled.data.schema import UNKNOWN_ID, Categorical, Schema
from unrolled.data.sequences import session_columns
from unrolled.data.store import JaggedSequences, Target, read_meta
from unrolled.data.streams import StreamLoader
from unrolled.data.tuning import HPO_VAL, Share, parts
from unrolled.errors import UserError
from unrolled.plain_files import written_beside

Batching: TypeAlias = Literal["random", "bucketed", "packed", "stream"]


class EventData(SequenceData):
    """Sequences of events from a log, prepared once.

    Args:
        source: The log and what its columns mean.
        store_dir: Folder of the prepared stores.
        target: What is asked of a sequence: its `label`; or after each event what comes next, the
            item (`next_item`) or type and time (`next_event`).
        batch_size: Sequences of an optimizer step, over all processes; of `stream` the number of
            streams.
        eval_batch_size: Sequences of a validation or test batch, over all processes.
        batching: Which sequences make a training batch: `random` takes a fixed number, padded to
            the longest; `packed` the same ones without padding; `bucketed` those of similar
            lengths, by a budget of events; `stream` lays all end to end into parallel streams, read
            a window at a time with the state carried along, for encoders that read forward only.
            To validate and test, sequences are whole: padded with `random`, in buckets with
            `bucketed`, else packed.
        events_per_batch: Steps of a `bucketed` batch, over all processes and with its padding, at
            most.
        cells_per_batch: Steps of a `random` batch, over all processes and with its padding, at
            most: longer sequences make smaller batches of their own, in which each counts as in any
            other. No sequence may be longer, whatever the batching, but in streams.
        bptt: Steps of a window of `stream`: gradients end at its beginning.
        placement: Where the events lie: on `disk`, memory-mapped; in `memory`; or on the `device`
            that trains, where batches are gathered then. `auto` takes the device where it is a GPU
            with room to spare, else memory for small data, else the disk.
        shuffle: A new order of the training sequences each epoch.
        seed: Of that order.
        memory_limit: Of the preparation's engine, for example 4GB; None takes half of the memory.
        threads: Of the preparation's engine; None takes all cores.
        engine: What prepares the log: `duckdb` on one machine, `spark` beyond it. The store is the
            same.
        workers: Processes that gather batches ahead; 0 gathers in the one that trains, which takes
            at most 2 % of a step. They gather on the CPU: `auto` takes memory or the disk then.
        hpo_val: Share of the validation sequences by which configurations are chosen, apart from
            those by which the checkpoint is.
    """

    def __init__(
        self,
        source: LogSource,
        store_dir: Path,
        target: Target = "label",
        batch_size: PositiveInt = 128,
        eval_batch_size: PositiveInt = 512,
        shuffle: bool = True,
        seed: int = 0,
        batching: Batching = "random",
        events_per_batch: PositiveInt = 2048,
        cells_per_batch: PositiveInt = CELLS,
        bptt: PositiveInt = 20,
        placement: Placement = "auto",
        memory_limit: str | None = None,
        threads: PositiveInt | None = None,
        engine: EngineName = "duckdb",
        workers: NonNegativeInt = 0,
        hpo_val: Share = 0.0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, shuffle, seed, workers, hpo_val)
        if workers and placement == "device":
            raise UserError(
                f"data.workers={workers}: processes gather on the CPU, and data.placement=device "
                "where the model trains; use data.workers=0 or data.placement=memory"
            )
        self.batching: Batching = batching
        self.events_per_batch = events_per_batch
        self.cells_per_batch: int = cells_per_batch
        self.bptt = bptt
        self.placement: Placement = placement
        self.log_source = source
        self.store_dir = Path(store_dir)
        self.target: Target = target
        self.memory_limit = memory_limit
        self.threads = threads
        self.engine: EngineName = engine
        self._store: Path | None = None
        self._schema_dir: Path | None = None

    def prepare_data(self) -> None:
        """Make the store where it is missing; once on a machine."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Find the store."""
        if self._other is None:
            self._store = prepare(
                self.log_source,
                self.store_dir,
                memory_limit=self.memory_limit,
                threads=self.threads,
                engine=self.engine,
            )
            if self._schema_dir is not None:
                require_same_ids(self._schema_dir, self._store)

    @property
    def store(self) -> Path:
        """The folder of the store."""
        if self._store is None:
            self.setup()
        assert self._store is not None
        return self._store

    @property
    def schema(self) -> Schema:
        """The features of the store, or of the run whose schema was taken up."""
        stored = Schema.from_dict(self._meta["schema"])
        if self.target == "label":
            if stored.num_classes is None:
                raise UserError(
                    "data.target=label: these sequences have no label; give data.source.label "
                    "or data.source.target_event, or ask what comes next: task=next_item"
                )
            return stored
        key = "item" if self.target == "next_item" else "event_type"
        asked = self._meta["description"][key]
        ids = {f.name: f.num_ids for f in stored.features if isinstance(f, Categorical)}
        if asked not in ids:
            raise UserError(
                f"data.target={self.target} needs data.source.{key}, a categorical column of the "
                f"log; it is {asked!r}, and the categorical columns are {', '.join(ids) or 'none'}"
            )
        if self.target == "next_event" and self._meta["description"]["time"] is None:
            raise UserError("data.target=next_event needs data.source.time")
        if self.target == "next_event" and (count := self._meta["read"]["backward"]):
            described = self._meta["description"]
            raise UserError(
                f"data.target=next_event: ordered by '{described['order']}', the time "
                f"'{described['time']}' goes back {count:,} times; set data.source.order to the "
                "time column"
            )
        return replace(stored, num_classes=ids[asked], per_step=True, target_feature=asked)

    @property
    def _meta(self) -> dict[str, Any]:
        return read_meta(self._schema_dir or self.store)

    @property
    def _counts(self) -> dict[str, Any]:
        """Sizes of the splits: the store's, whose files were compared with them, once it is open.

        A run's own copy could say anything; new events are predicted without the log.
        """
        meta = self._meta if self._store is None else read_meta(self._store)
        counts: dict[str, Any] = meta["counts"]
        return counts

    @cached_property
    def _other(self) -> pa.Table | None:
        """Other data than a run was trained on, encoded by the run's schema; else None."""
        if self._schema_dir is None:
            return None
        if not self._changed():
            return None
        columns, tables = self.log_source.columns(), self.log_source.tables()
        if isinstance(self.log_source, EventLog):
            tell_of_query(self.log_source, tables["events"])
        return encode(self._schema_dir, columns, tables, labelled=True)

    def _changed(self) -> bool:
        return bool(self._meta["fingerprint"] != fingerprint(self.log_source, self.store_dir))

    def require_unchanged(self) -> None:
        """Refuse a log that has changed since the schema that was taken up was written.

        Raises:
            UserError: When it has: what was held out then may be trained on now.
        """
        if self._schema_dir is not None and self._changed():
            raise UserError(
                "data.source: the log has changed since the run began (its content or its "
                "description); the run's own split does not hold for it. Restore it, or name it "
                "as other data: evaluate RUN data.source.path=FILE"
            )

    def source(self, split: Split) -> JaggedSequences:
        """The sequences of a split, memory-mapped; of other data all are for the test."""
        if self._other is not None:
            return JaggedSequences.from_table(self._rows(split), self.schema, self.target)
        return JaggedSequences.open(self.store / f"{split}-00000.arrow", self.schema, self.target)

    def make_loader(self, source: Source, train: bool, **sharding: Any) -> Loader:
        """By `batching`, from where `placement` puts the events."""
        placed = place(cast(JaggedSequences, source), self.placement, self.device)
        if self.batching == "random":
            return super().make_loader(placed, train, **sharding)
        if self.batching == "bucketed":
            min_share = 0.25 if train else 0.0
            return BucketedLoader(placed, self.events_per_batch, min_share, **sharding)
        if self.batching == "stream" and train:
            return StreamLoader(placed, self.bptt, self.batch_size, **sharding)
        return PackedLoader(placed, self.size(train, sharding["num_ranks"]), **sharding)

    def require_usable(self, splits: Sequence[Split]) -> None:
        """Refuse splits without anything to predict, and sequences too long for any batch.

        Raises:
            UserError: When a split has only one-event sequences, after which nothing comes, or only
                items that training never has; or a sequence is longer than `cells_per_batch`.
        """
        for split in splits:
            self._require_room(self.source(split), partial(self.sequence_ids, split))
        if self.target == "label":
            return
        described = self._meta["description"]
        key = "sequence" if described["sequence"] is not None else "user"
        problems, single = [], []
        for split in splits:
            total = self._count(split)
            source = self.source(split)
            if total and not len(source):
                single.append(f"{total:,} of the split '{split}'")
                continue
            judged: dict[str, JaggedSequences] = {split: source} if total else {}
            if total and split == "val" and self.hpo_val:
                rest, apart = parts(source, self.hpo_val)
                judged = {"val": cast(JaggedSequences, rest), HPO_VAL: cast(JaggedSequences, apart)}
            problems += [
                f"data.target={self.target}: what comes next in '{name}' is never a value of "
                f"'{self.schema.target_feature}' that training has, so there is nothing to "
                "predict; give training more of the log, or split it another way"
                for name, some in judged.items()
                if not some.has_known_target()
            ]
        if single:
            problems.append(
                f"data.target={self.target}: all sequences have one event, {', '.join(single)}, so "
                f"nothing comes next and there is nothing to predict. Look at data.source.{key}="
                f"{described[key]}, which says what belongs together"
                f"{' (and at session_gap)' if described['session_gap'] else ''}; "
                "data.source.min_length=2 leaves such sequences out before the split"
            )
        if problems:
            raise UserError(*problems)

    def _require_room(self, source: JaggedSequences, ids: Callable[[], pa.Array]) -> None:
        """Refuse a sequence that would take a batch of its own and more.

        Raises:
            UserError: When there is one.
        """
        longest = int(source.lengths.max()) if len(source) else 0
        if longest <= self.cells_per_batch or self.batching == "stream":
            return
        described = self._meta["description"]
        key = described["sequence"] or described["user"]
        name = str(ids()[int(source.lengths.argmax())].as_py())
        raise UserError(
            f"{key} {name!r} has {longest:,} events, more "
            f"than data.cells_per_batch={self.cells_per_batch:,}, to which memory is bounded. Set "
            "data.source.max_length to keep the last events of each sequence, cut it by "
            "data.source.session_gap, or raise the bound"
        )

    def _count(self, split: Split) -> int:
        """Sequences of a split, those without a target among them."""
        if self._other is not None:
            return len(self._rows(split))
        return int(self._counts[split]["sequences"])

    def sequences_per_step(self) -> float:
        """Training sequences of an optimizer step, on average."""
        if self.batching != "bucketed":
            return super().sequences_per_step()
        return self.events_per_batch / max(1.0, float(self.source("train").lengths.double().mean()))

    def _rows(self, split: Split) -> pa.Table:
        assert self._other is not None
        return self._other if split == "test" else self._other.slice(0, 0)

    def train_targets(self) -> Tensor:
        """The targets of the training sequences, in no particular order."""
        if self.target != "label":
            return self.source("train").targets()
        count = self._counts["train"]
        targets = torch.zeros(count["sequences"], dtype=torch.int64)
        targets[: count["positive"]] = 1
        return targets

    def class_counts(self) -> Tensor:
        """How often each class is a training target, `[num_classes]` int64."""
        if self.target == "label":
            return super().class_counts()
        assert self.schema.num_classes is not None
        return self.source("train").target_counts(self.schema.num_classes)

    def sequence_ids(self, split: Split) -> pa.Array:
        """The log's own ids of the sequences of a split."""
        if self._other is not None:
            ids = self._rows(split)["id"].combine_chunks()
        else:
            path = self.store / f"{split}-00000.arrow"
            ids = open_batch(pa.memory_map(str(path)).read_buffer(), path, self.schema.features)[
                "id"
            ]
        return ids.take(pa.array(self.source(split).rows.numpy()))

    def sequence_names(self, split: Split) -> pa.Table:
        """The ids as columns: `id`, or the user and the number of the session."""
        return self._names(self.sequence_ids(split), "id")

    def _names(self, ids: pa.Array, column: str) -> pa.Table:
        columns = self.log_source.columns()
        if columns.session_gap is None:
            return pa.table({column: ids})
        # A store of an earlier version does not say.
        kind = self._meta.get("types", {}).get(columns.key, "text")
        return session_columns(ids, columns.key, kind)

    def best_possible(self) -> dict[str, float]:
        """What the law of generated events allows on the test split, where it is known."""
        if not (self.with_tests and isinstance(self.log_source, KnownLaw)):
            return {}
        folder = self._schema_dir or self.store
        columns = [f.name for f in self.schema.features if isinstance(f, Categorical)]
        vocabularies = {name: read_vocabulary(folder, name) for name in columns}
        scores = self.log_source.best_possible(self.source("test"), vocabularies)
        return {f"test/{name}": value for name, value in scores.items()}

    def class_names(self) -> pa.Array | None:
        """What the next items or types are called; the ids that stand for none have no name."""
        if self.target == "label":
            return None
        assert self.schema.target_feature is not None
        names = read_vocabulary(self._schema_dir or self.store, self.schema.target_feature)
        return pa.concat_arrays([pa.nulls(UNKNOWN_ID + 1, names.type), names])

    def read(self, path: Path) -> tuple[pa.Table, JaggedSequences]:
        """New events in the columns of the log; labels are not needed.

        Raises:
            UserError: When a column is missing or a value does not fit.
        """
        columns, log = self.log_source.columns(), self.log_source
        events: Table = path
        if isinstance(log, EventLog):
            events = log.other(path)
            tell_of_query(log, events)
        tables = {"events": events, "labels": None}
        encoded = encode(self._schema_dir or self.store, columns, tables, labelled=False)
        # Without targets every event is a step: what comes after the last one is asked, too.
        source = JaggedSequences.from_table(encoded, self.schema)
        ids = encoded["id"].take(pa.array(source.rows.numpy()))
        self._require_room(source, lambda: ids)
        return self._names(ids, columns.key), source

    def save_schema(self, directory: Path) -> None:
        """Copy what encodes new events: description, statistics and vocabularies."""
        # Without a categorical column there is no folder of vocabularies.
        for file in [self.store / "store.json", *self.store.glob("vocab/*")]:
            copy = directory / file.relative_to(self.store)
            copy.parent.mkdir(parents=True, exist_ok=True)
            with written_beside(copy) as partial:
                shutil.copyfile(file, partial)

    def load_schema(self, directory: Path) -> None:
        """Encode new events by the schema that `save_schema` wrote."""
        if (directory / "store.json").exists():
            check_schema(directory)
            self._schema_dir = directory
            self.__dict__.pop("_other", None)  # It may have been looked at before.
