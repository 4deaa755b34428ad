"""Reading an event store: jagged columns, memory-mapped, one vectorised gather a batch."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from unrolled.data.batch import NO_TARGET, SequenceBatch
from unrolled.data.check_store import read_meta
from unrolled.data.schema import Schema

__all__ = ["JaggedSequences", "Target", "read_meta"]

Target: TypeAlias = Literal["label", "next_item", "next_event"]
"""What is asked of a sequence: its label, or at every event but the last what comes next: the item,
or the type and the time."""


class JaggedSequences:
    """Sequences as `values` and `offsets`, Arrow's list layout.

    Where the next event is the target, the last event of a sequence is a target only: a sequence
    of n events has n - 1 steps, and one of a single event none.

    Args:
        columns: For each feature its values, `[event]`.
        offsets: `[sequence + 1]`, int64; the events of sequence i are offsets[i] .. offsets[i + 1].
        labels: `[sequence]`, int64; None where there are none.
        times: `[event]`, float64 seconds; None where there are none.
        target: What is asked.
        target_feature: The categorical feature whose next value is asked; None for labels.
    """

    def __init__(
        self,
        columns: dict[str, Tensor],
        offsets: Tensor,
        labels: Tensor | None = None,
        times: Tensor | None = None,
        target: Target = "label",
        target_feature: str | None = None,
    ) -> None:
        self.columns = columns
        self.offsets = offsets
        self.labels = labels
        self.times = times
        self.target: Target = target
        self.target_feature = target_feature
        lengths = offsets.diff() - int(target != "label")
        # Sequences without a step are no sequences of this source; `rows` are those of the store.
        self.rows = (
            torch.arange(len(lengths)) if target == "label" else (lengths > 0).nonzero()[:, 0]
        )
        self.starts = offsets[self.rows]
        self.lengths = lengths[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def from_table(
        cls, table: pa.Table, schema: Schema, target: Target = "label"
    ) -> JaggedSequences:
        """The list columns of an Arrow table in memory, one row a sequence."""
        batch = table.combine_chunks()
        names = [f.name for f in schema.features]
        times = ["event_time"] if "event_time" in batch.column_names else []
        arrays = {name: batch[name].combine_chunks() for name in [*names, *times]}
        offsets = next(iter(arrays.values())).offsets.to_numpy().astype(np.int64)
        values = {name: torch.from_numpy(a.values.to_numpy().copy()) for name, a in arrays.items()}
        return cls(
            {name: values[name] for name in names},
            torch.from_numpy(offsets),
            torch.from_numpy(batch["label"].fill_null(0).to_numpy().astype(np.int64)),
            values.get("event_time"),
            target,
            schema.target_feature,
        )

    @classmethod
    def open(cls, path: Path, schema: Schema, target: Target = "label") -> JaggedSequences:
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
        names = [f.name for f in schema.features]
        times = ["event_time"] if "event_time" in batch.schema.names else []
        for name in [*names, *times]:
            array = batch[name]
            dtype = array.values.type.to_pandas_dtype()
            columns[name] = values(array.values.buffers()[1], dtype, len(array.values))
            if offsets is None:
                wide = pa.types.is_large_list(array.type)
                kind = np.int64 if wide else np.int32
                offsets = values(array.buffers()[1], kind, len(array) + 1).long()
        assert offsets is not None
        labels = batch["label"].fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        return cls(
            {name: columns[name] for name in names},
            offsets,
            torch.from_numpy(labels),
            columns.get("event_time"),
            target,
            schema.target_feature,
        )

    def gather(self, indices: Tensor) -> SequenceBatch:
        """The sequences `indices` as one batch, padded to its longest.

        Targets are `[batch]` labels; `[batch, time]` ids of the next item; or, for the next event,
        `[batch, time, 2]` float64: the id of its type and the seconds until it. Padding has
        `NO_TARGET` or NaN.
        """
        lengths = self.lengths[indices]
        steps = torch.arange(int(lengths.max()))
        real = steps < lengths.unsqueeze(1)
        positions = (self.starts[indices].unsqueeze(1) + steps).masked_fill_(~real, 0)
        features = {
            name: values[positions].masked_fill_(~real, 0) for name, values in self.columns.items()
        }
        if self.target == "label":
            assert self.labels is not None
            targets = self.labels[self.rows[indices]]
        else:
            none = NO_TARGET if self.target == "next_item" else float("nan")
            targets = self.targets_at(positions)
            targets = targets.masked_fill_(
                ~real.view(*real.shape, *[1] * (targets.dim() - 2)), none
            )
        return SequenceBatch(features, lengths, targets, indices)

    def targets_at(self, positions: Tensor) -> Tensor:
        """The targets of the steps at `positions`, `[...]`: `[...]` or `[..., 2]`."""
        assert self.target_feature is not None
        following = self.columns[self.target_feature][positions + 1]
        if self.target == "next_item":
            return following.long()
        assert self.times is not None
        until = self.times[positions + 1] - self.times[positions]
        return torch.stack([following.double(), until], -1)

    def targets(self) -> Tensor:
        """All targets: labels `[sequence]`, or those of all steps, `[step]` or `[step, 2]`."""
        if self.target == "label":
            assert self.labels is not None
            return self.labels
        first = self.lengths.cumsum(0) - self.lengths
        steps = torch.arange(int(self.lengths.sum()))
        return self.targets_at(steps + (self.starts - first).repeat_interleave(self.lengths))
