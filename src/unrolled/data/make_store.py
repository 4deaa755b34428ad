"""A store in the making: split, counted, encoded, written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from functools import partial as bound
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from unrolled.data import encode_log as enc
from unrolled.data.account import Progress
from unrolled.data.check_splits import check_splits, odd_splits
from unrolled.data.check_store import FORMAT_VERSION
from unrolled.data.files import Digests
from unrolled.data.label_log import SPLITS, check_label_rows, check_target, labels
from unrolled.data.log import LogColumns, description_json
from unrolled.data.odd_sequences import far_longer, sorted_ties
from unrolled.data.read_log import OpenedLog
from unrolled.data.schema import UNKNOWN_ID, Categorical, Numeric, Schema
from unrolled.data.sequences import Integers, Sequences
from unrolled.data.split_log import splits
from unrolled.data.store_meta import vocabulary_file
from unrolled.data.words import ValueType, value_type
from unrolled.data.write_store import Encode, list_batch, write_arrow, write_columns


class Store:
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
        check_splits(found, split, label, columns, log.labels_where)
        enc.check_wall_clock(found, columns, log.where)
        if columns.training_items_only:
            self._drop_unseen(split)
            split[~found.alive] = -1
            order = order[found.alive[order]]
            check_splits(found, split, label, columns, log.labels_where)
        warnings = odd_splits(found, split, label, columns)
        warnings += far_longer(found, columns)
        if columns.item is not None and "same_order" in found.spool:
            warnings += sorted_ties(found, columns, log.words["category_0"])
        order = np.concatenate([order[split[order] == index] for index in range(len(SPLITS))])
        found.forget_order()
        self.progress.stage("counting")
        vocabularies, ids, unknown = self._vocabularies(split)
        statistics = {
            name: enc.statistics(found, name, at, columns.features[name], split == 0, log.where)
            for name, at in enc.number_columns(columns).items()
        }
        # How many training events have no value: part of the account, not of the scale.
        missing = {name: scale.pop("missing") for name, scale in statistics.items()}
        self.progress.stage("writing", int(found.kept[order].sum()))
        encoders = encoders_of(log, found, ids, statistics)
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
            "time_unit": log.clock.spelling,
            **({"asked_unit": log.clock.asked.spelling} if log.clock.asked is not None else {}),
            "schema": Schema(
                tuple(Categorical(c, len(v) + UNKNOWN_ID + 1) for c, v in vocabularies.items())
                + tuple(Numeric(name) for name in statistics),
                num_classes=2 if columns.labelled else None,
            ).to_dict(),
            "types": _types(log),
            "statistics": statistics,
            "counts": counts,
            "read": _account(log, found),
            "unknown": unknown,
            "warnings": warnings,
            "missing": missing,
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

    def _vocabularies(
        self, split: Any
    ) -> tuple[dict[str, pa.Table], dict[str, npt.NDArray[np.int32]], dict[str, Any]]:
        """The vocabulary, the id of each code and what is unknown, of each categorical feature."""
        vocabularies, ids, unknown = {}, {}, {}
        for name, at in enc.code_columns(self.columns).items():
            words, kind = coded_words(self.log, at)
            counts = enc.count_codes(self.found, at, len(words), split)
            vocabularies[name] = enc.vocabulary(words, counts[0, :-1], name, self.log.where)
            known = vocabularies[name]["value"].combine_chunks()
            ids[name] = enc.ids_of_codes(words, kind, known, kind)
            new = (ids[name][:-1] == UNKNOWN_ID) & (counts[1:, :-1].sum(0) > 0)
            unknown[name] = {
                "values": int(new.sum()),
                "events": int(counts[1:, :-1][:, new].sum()),
                "empty": int(counts[:, -1].sum()),
            }
        return vocabularies, ids, unknown

    def _splits(
        self, order: Integers, split: Any, label: Any, columns: dict[str, type]
    ) -> dict[str, dict[str, int]]:
        counts, start = {}, 0
        for index, name in enumerate(SPLITS):
            part = order[split[order] == index]
            batch = batch_of(self.found, self.work, columns, part, label, start)
            write_arrow(batch, self.folder / f"{name}-00000.arrow")
            events = int(self.found.kept[part].sum())
            positive = 0 if label is None else int((label[part] == 1).sum())
            counts[name] = {"sequences": len(part), "events": events, "positive": positive}
            start += events
        return counts


def type_words(columns: LogColumns) -> str:
    """The words of the event types, where they are used."""
    if columns.event_type not in columns.categories:
        return "type"
    return f"category_{columns.categories.index(columns.event_type)}"


def coded_words(log: OpenedLog, at: str) -> tuple[pa.Array, ValueType]:
    """The words of the codes of a column of the spool, in order, and the type of their values."""
    return (enc.HOURS, "integer") if at == "hour_of_week" else (log.words[at], log.types[at])


def _label_and_split(log: OpenedLog, found: Sequences, *, labelled: bool) -> tuple[Any, Any, Any]:
    columns = log.columns
    if "has_label_row" in found.spool:
        check_label_rows(found, columns, log.labels_where)
    if columns.target_event is not None:
        check_target(found, columns, log.words[type_words(columns)], log.where)
    label = labels(found, columns, log.words, log.labels_where) if labelled else None
    split, order = splits(found, columns, log.words, log.labels_where)
    return label, split, order


def encoders_of(
    log: OpenedLog,
    found: Sequences,
    ids: Mapping[str, npt.NDArray[np.int32]],
    statistics: Mapping[str, Any],
) -> dict[str, tuple[type, Encode]]:
    """How each column of a store is computed.

    Args:
        log: The log.
        found: Its sequences, cut.
        ids: The id of each code, by categorical feature.
        statistics: The scale of each numeric feature.
    """
    columns = log.columns
    encoders: dict[str, tuple[type, Encode]] = {}
    for name, at in enc.code_columns(columns).items():
        encoders[name] = (np.int32, bound(enc.encode_codes, found, at, ids[name]))
    for name, at in enc.number_columns(columns).items():
        kind, of = columns.features[name], statistics[name]
        encoders[name] = (np.float32, bound(enc.encode_numbers, found, at, kind, of))
    if columns.time is not None:
        encoders["event_time"] = (np.float64, bound(found.read, "time"))
    return encoders


def batch_of(
    found: Sequences, work: Path, columns: dict[str, type], part: Integers, label: Any, start: int
) -> pa.RecordBatch:
    given = pa.nulls(len(part), pa.int32())
    if label is not None:
        given = pa.array(label[part].astype(np.int32))
    return list_batch(work, columns, found.ids(part), given, found.kept[part], start)


def _types(log: OpenedLog) -> dict[str, ValueType]:
    """The type of the values of each categorical feature, and of the sequences' or users' ids."""
    columns = enc.code_columns(log.columns)
    found = {name: coded_words(log, at)[1] for name, at in columns.items()}
    return {**found, log.columns.key: value_type(log.given.columns[log.columns.key].type)}


def _account(log: OpenedLog, found: Sequences) -> dict[str, Any]:
    columns = log.columns
    dropped = {f"events without {columns.key}": log.without_id}
    if columns.keep_types:
        dropped["events of other types than keep_types"] = log.other_types
    return {
        "events": log.rows,
        "sequences": len(found),
        "times": None if columns.time is None else [found.first_time, found.last_time],
        "longest": dict(zip(("id", "events"), found.longest(), strict=True)),
        "largest": dict(zip(("id", "events"), found.largest(), strict=True)),
        "with_id": found.spool.events,
        "copies": found.copies,
        "backward": found.backward,
        "dropped": dropped | found.dropped,
    }


def vocabulary_path(store: Path, column: str) -> Path:
    """The file of a column's vocabulary."""
    return store / vocabulary_file(column)
