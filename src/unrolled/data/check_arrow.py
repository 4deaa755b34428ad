"""Whether the files of a store hold what store.json says: lengths, offsets, types and ids.

Arrow believes the offsets that a file gives, and so does a gather. An offset beyond the values, or
an id beyond an embedding, reads memory that belongs to nobody: the process dies.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unrolled.data.schema import UNKNOWN_ID, Categorical, Numeric
from unrolled.errors import UserError

_MAGIC = b"ARROW1\0\0"

TIMES = "event_time"
"""The column of the times of the events."""

BROKEN = (pa.ArrowException, OSError, ValueError, LookupError, TypeError, MemoryError,
          StopIteration)  # fmt: skip
"""Arrow's errors for bytes that are not a file of its own."""


def open_batch(
    whole: pa.Buffer, path: Path, features: Sequence[Categorical | Numeric]
) -> pa.RecordBatch:
    """The record batch of a split, of the right types and with offsets that lie inside.

    Args:
        whole: The bytes of the file.
        path: The file's name in messages.
        features: The features of the store, in their order.

    Raises:
        UserError: When it is not what a store has.
    """
    try:
        if bytes(whole[: len(_MAGIC)]) != _MAGIC:
            raise UserError(f"{path}: is no Arrow file")
        # Message by message: a file's reader unpacks what is compressed before it can be asked.
        messages = pa.ipc.MessageReader.open_stream(pa.BufferReader(whole[len(_MAGIC) :]))
        schema = pa.ipc.read_schema(messages.read_next_message())
        if problem := _problem_of_types(schema, features):
            raise UserError(f"{path}: {problem}")
        batches = list(islice(messages, 2))
        if len(batches) != 1:
            raise UserError(f"{path}: has {'more' if batches else 'less'} than one record batch")
        if _is_compressed(batches[0]):
            raise UserError(f"{path}: its columns are compressed, as no store has them")
        batch = pa.ipc.read_record_batch(batches[0], schema)
        batch.validate(full=True)
        lists = [batch[name] for name in batch.schema.names[2:]]
        if any(array.null_count or array.values.null_count for array in lists):
            raise UserError(f"{path}: has sequences or events without a value")
        offsets = [array.offsets.to_numpy() for array in lists]
        if any(not np.array_equal(own, offsets[0]) for own in offsets[1:]):
            raise UserError(f"{path}: its columns have sequences of different lengths")
        if any((own[0], own[-1]) != (0, len(array.values)) for own, array in
               zip(offsets, lists, strict=True)):  # fmt: skip
            raise UserError(f"{path}: has events that belong to no sequence")
        if empty := int((offsets[0][1:] == offsets[0][:-1]).sum()):
            raise UserError(f"{path}: has {empty:,} sequences without an event")
    except UserError:
        raise
    except BROKEN as error:
        reason = _first_line(error)
        raise UserError(f"{path}: can't be read as a file of a store: {reason}") from error
    return batch


def check_ids(batch: pa.RecordBatch, path: Path, features: Sequence[Categorical | Numeric]) -> None:
    """Refuse ids beyond a vocabulary, and labels that are neither 0 nor 1.

    Raises:
        UserError: When there are any.
    """
    for feature in features:
        if isinstance(feature, Categorical):
            ids = batch[feature.name].values.to_numpy()
            wrong = int(((ids < UNKNOWN_ID) | (ids >= feature.num_ids)).sum()) if len(ids) else 0
            if wrong:
                raise UserError(
                    f"{path}: {wrong:,} values of '{feature.name}' are no ids of its vocabulary, "
                    f"which are {UNKNOWN_ID} to {feature.num_ids - 1}"
                )
    labels = batch["label"].fill_null(0).to_numpy()
    if len(labels) and not ((labels == 0) | (labels == 1)).all():
        raise UserError(f"{path}: has labels that are neither 0 nor 1")


def read_vocabulary_table(path: Path, num_ids: int) -> pa.Table:
    """The table of a column's vocabulary.

    Args:
        path: The file.
        num_ids: Ids of the column, those of padding and of unknown values included.

    Raises:
        UserError: When it is not one with so many values.
    """
    try:
        with pq.ParquetFile(path) as file:
            rows, names = file.metadata.num_rows, file.schema_arrow.names
            if "value" not in names or rows != num_ids - UNKNOWN_ID - 1:
                raise UserError(
                    f"{path}: has {rows:,} values, and store.json says {num_ids - UNKNOWN_ID - 1:,}"
                )
            table = file.read()
        table.validate(full=True)
        if table["value"].null_count:
            raise UserError(f"{path}: has values that are null")
    except UserError:
        raise
    except BROKEN as error:
        raise UserError(f"{path}: can't be read as a vocabulary: {_first_line(error)}") from error
    return table


def _problem_of_types(schema: pa.Schema, features: Sequence[Categorical | Numeric]) -> str | None:
    kinds = {f.name: pa.int32() if isinstance(f, Categorical) else pa.float32() for f in features}
    names = list(schema.names)
    if names[-1:] == [TIMES] and TIMES not in kinds:
        kinds[TIMES] = pa.float64()
    if names != ["id", "label", *kinds]:
        return f"has the columns {', '.join(names)}, not id, label, {', '.join(kinds)}"
    for name, kind in kinds.items():
        if (found := schema.field(name).type) not in (pa.large_list(kind), pa.list_(kind)):
            return f"column '{name}' is of the type {found}, not lists of {kind}"
    if schema.field("label").type not in (pa.int32(), pa.int64()):
        return f"its labels are of the type {schema.field('label').type}"
    if (kind := schema.field("id").type).num_fields or pa.types.is_dictionary(kind):
        return f"its ids are of the type {kind}"
    return None


def _is_compressed(batch: pa.ipc.Message) -> bool:
    """Whether a record batch has compressed buffers: the fourth field of its table (Message.fbs).

    pyarrow tells by unpacking them alone. The metadata are a flatbuffer, verified when the message
    was read: a table begins with its distance from a list of where its fields are, 0 for none.
    """
    data = bytes(batch.metadata)

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], "little")

    def field(table: int, index: int) -> int | None:
        fields = table - int.from_bytes(data[table : table + 4], "little", signed=True)
        at = 4 + 2 * index
        place = number(fields + at, 2) if at < number(fields, 2) else 0
        return table + place if place else None

    header = field(number(0, 4), 2)
    return header is not None and field(header + number(header, 4), 3) is not None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
