"""New events on the scale of a store: its vocabularies, its statistics."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from unrolled.data import encode_log as enc
from unrolled.data.account import (
    Progress,
    tell_left_out,
    tell_missing,
    tell_unknown,
    tell_without_id,
)
from unrolled.data.check_store import read_meta
from unrolled.data.cut_log import cut_sequences
from unrolled.data.label_log import check_label_rows, labels
from unrolled.data.log import LogColumns, Table
from unrolled.data.make_store import batch_of, coded_words, encoders_of
from unrolled.data.prepare import read_vocabulary, spooled
from unrolled.data.read_log import OpenedLog, open_log
from unrolled.data.resources import available_cores, default_memory_limit
from unrolled.data.schema import UNKNOWN_ID
from unrolled.data.sequences import Sequences
from unrolled.data.words import comparable
from unrolled.data.write_store import write_columns
from unrolled.errors import UserError


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
            spool = spooled(log, work, Progress())
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
