"""Whether a store is whole: its version, its files, their bytes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from unrolled.data.check_arrow import check_ids, open_batch, read_vocabulary_table
from unrolled.data.files import Digests
from unrolled.data.schema import Categorical, Schema
from unrolled.data.store_meta import StoreMeta, vocabulary_file
from unrolled.errors import UserError

FORMAT_VERSION = 6
READABLE = (5, FORMAT_VERSION)
"""A run of an earlier version is still evaluated and gone on with; a store is made anew."""


def read_meta(store: Path) -> dict[str, Any]:
    """The contents of `store.json`.

    Raises:
        UserError: When it is missing, not a store's, or changed.
    """
    path = store / "store.json"
    try:
        meta = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not an event store ({error}); {_remedy(store)}") from error
    if not isinstance(meta, dict):
        raise UserError(f"{path}: not an event store; {_remedy(store)}")
    check_version(store, meta)
    if meta.get("checksum") != meta_checksum(meta):
        raise UserError(
            f"{path}: has other contents than were written (its checksum differs); {_remedy(store)}"
        )
    try:
        StoreMeta.model_validate_json(json.dumps(meta))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(map(str, problem["loc"])) or "the file"
        raise UserError(f"{path}: {place}: {problem['msg']}; {_remedy(store)}") from error
    return meta


def _remedy(store: Path) -> str:
    if not store.name.startswith("store-"):
        return "the run's schema is damaged: restore it, or train again"
    return (
        f"the event store is damaged: delete the folder {store}, and it is prepared again from "
        "the log"
    )


def meta_checksum(meta: dict[str, Any]) -> str:
    """The checksum over all else that `store.json` says, whatever its layout."""
    rest = {name: value for name, value in meta.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def check_version(store: Path, meta: dict[str, Any]) -> None:
    """Refuse a store or a run's schema that another version has written.

    Raises:
        UserError: When it is so.
    """
    version = meta.get("format_version")
    if version not in READABLE:
        raise UserError(
            f"{store / 'store.json'}: format version {version}, written by another version of "
            f"unrolled; this one reads version {FORMAT_VERSION}. Prepare the log (or train) again"
        )


def check_schema(folder: Path) -> None:
    """Refuse the schema of a run, a copy of store.json and of the vocabularies, that is damaged.

    Raises:
        UserError: When it is.
    """
    meta = read_meta(folder)
    for name, checksum in meta["checksums"].items():
        file = folder / name
        if file.suffix != ".parquet":
            continue
        if not file.is_file() or Digests().of(file) != checksum:
            raise UserError(f"{file}: is missing or was changed; {_remedy(folder)}")
        _look_through(file, meta)


def _look_through(file: Path, meta: dict[str, Any]) -> None:
    features = Schema.from_dict(meta["schema"]).features
    if file.suffix == ".parquet":
        sizes = {
            vocabulary_file(f.name).name: f.num_ids for f in features if isinstance(f, Categorical)
        }
        read_vocabulary_table(file, sizes[file.name])
        return
    batch = open_batch(pa.memory_map(str(file)).read_buffer(), file, features)
    count = meta["counts"][file.name.partition("-")[0]]
    events = len(batch[batch.schema.names[-1]].values)
    if (len(batch), events) != (count["sequences"], count["events"]):
        raise UserError(
            f"{file}: has {len(batch):,} sequences of {events:,} events, and store.json says "
            f"{count['sequences']:,} of {count['events']:,}"
        )
    check_ids(batch, file, features)


def check_store(store: Path) -> None:
    """Refuse a store that is not as it was written.

    The sizes of its files are compared every time. Their checksums are computed, and their content
    is looked through, when they are opened for the first time, and again whenever size, time of
    change or inode differ from then.

    Raises:
        UserError: When a file is missing or changed.
    """
    meta = read_meta(store)
    digests = Digests(store.parent)
    for name, size in meta["sizes"].items():
        file = store / name
        if not file.is_file():
            found = "is missing"
        elif file.stat().st_size != size:
            found = f"has {file.stat().st_size:,} bytes, not the {size:,} that were written"
        elif digests.of(file) != meta["checksums"][name]:
            found = "has other bytes than were written (its checksum differs)"
        else:
            if not digests.is_approved(file, meta["checksum"]):
                _look_through(file, meta)
                digests.approve(file, meta["checksum"])
            continue
        raise UserError(f"{file}: {found}; {_remedy(store)}")
    digests.save()
