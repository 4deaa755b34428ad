"""Reading an event store: jagged columns, memory-mapped, one vectorised gather a batch."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from unrolled.data.batch import SequenceBatch
from unrolled.data.schema import Schema
from unrolled.errors import UserError


class JaggedSequences:
    """Sequences as `values` and `offsets`, Arrow's list layout.

    Args:
        columns: For each feature its values, `[event]`.
        offsets: `[sequence + 1]`, int64; the events of sequence i are offsets[i] .. offsets[i + 1].
        labels: `[sequence]`, int64.
    """

    def __init__(self, columns: dict[str, Tensor], offsets: Tensor, labels: Tensor) -> None:
        self.columns = columns
        self.offsets = offsets
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def from_table(cls, table: pa.Table, schema: Schema) -> JaggedSequences:
        """The list columns of an Arrow table in memory, one row a sequence."""
        batch = table.combine_chunks()
        arrays = {f.name: batch[f.name].combine_chunks() for f in schema.features}
        first = next(iter(arrays.values()))
        return cls(
            {name: torch.from_numpy(a.values.to_numpy().copy()) for name, a in arrays.items()},
            torch.from_numpy(first.offsets.to_numpy().astype(np.int64)),
            torch.from_numpy(batch["label"].fill_null(0).to_numpy().astype(np.int64)),
        )

    @classmethod
    def open(cls, path: Path, schema: Schema) -> JaggedSequences:
        """The Arrow file `path`, memory-mapped: values are read when a batch touches them."""
        with path.open("rb") as file:
            # Copy-on-write, because torch warns of read-only memory although nothing writes.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        whole = pa.py_buffer(mapped)
        batch = pa.ipc.open_file(whole).get_batch(0)

        def values(buffer: pa.Buffer, dtype: Any, count: int) -> Tensor:
            offset = buffer.address - whole.address
            return torch.from_numpy(np.frombuffer(mapped, dtype, count, offset))

        columns = {}
        offsets = None
        for feature in schema.features:
            array = batch[feature.name]
            dtype = array.values.type.to_pandas_dtype()
            columns[feature.name] = values(array.values.buffers()[1], dtype, len(array.values))
            if offsets is None:
                offsets = values(array.buffers()[1], np.int32, len(array) + 1).long()
        assert offsets is not None
        return cls(columns, offsets, torch.from_numpy(batch["label"].to_numpy().astype(np.int64)))

    def gather(self, indices: Tensor) -> SequenceBatch:
        """The sequences `indices` as one batch, padded to its longest."""
        starts = self.offsets[indices]
        lengths = self.offsets[indices + 1] - starts
        steps = torch.arange(int(lengths.max()))
        real = steps < lengths.unsqueeze(1)
        positions = (starts.unsqueeze(1) + steps).masked_fill_(~real, 0)
        features = {
            name: values[positions].masked_fill_(~real, 0) for name, values in self.columns.items()
        }
        return SequenceBatch(features, lengths, self.labels[indices], indices)

    def targets(self) -> Tensor:
        """The labels, `[sequence]` int64."""
        return self.labels


def read_meta(store: Path) -> dict[str, Any]:
    """The contents of `store.json`.

    Raises:
        UserError: When it is missing or not a store's.
    """
    path = store / "store.json"
    try:
        meta: dict[str, Any] = json.loads(path.read_text())
        return meta
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not an event store ({error})") from error
