"""Reading an event store: jagged columns, memory-mapped, one vectorised gather a batch."""

from __future__ import annotations

import copy
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from unrolled.data.batch import NO_TARGET, SequenceBatch
from unrolled.data.check_arrow import open_batch
from unrolled.data.check_store import read_meta
from unrolled.data.schema import UNKNOWN_ID, Schema

__all__ = ["JaggedSequences", "Target", "read_meta"]

Target: TypeAlias = Literal["label", "next_item", "next_event"]
"""What is asked of a sequence: its label, or at every event but the last what comes next: the item,
or the type and the time."""

MOST_CELLS = 2**20
"""Several padded batches are gathered at once only up to so many cells: nothing is gained by more,
and they lie in memory together."""


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
        self.lengths = offsets.diff()
        if target != "label":
            self.lengths -= 1
        # Sequences without a step are no sequences of this source. Where there are none, nothing is
        # copied: of many millions that counts, and the offsets are pages of the file.
        self._rows: Tensor | None = None
        self.starts = offsets[:-1]
        if target != "label" and not bool((self.lengths > 0).all()):
            self._rows = (self.lengths > 0).nonzero()[:, 0]
            self.starts, self.lengths = self.starts[self._rows], self.lengths[self._rows]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def rows(self) -> Tensor:
        """Which of the store's sequences these are, `[sequence]` int64."""
        return torch.arange(len(self)) if self._rows is None else self._rows

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
            _labels(batch["label"]) if target == "label" else None,
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
        batch = open_batch(whole, path, schema.features)
        if not len(batch):
            return cls.from_table(pa.Table.from_batches([batch]), schema, target)

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
        return cls(
            {name: columns[name] for name in names},
            offsets,
            _labels(batch["label"]) if target == "label" else None,
            columns.get("event_time"),
            target,
            schema.target_feature,
        )

    @property
    def per_step(self) -> bool:
        """Whether each step has a target, or each sequence."""
        return self.target != "label"

    @property
    def device(self) -> torch.device:
        """Where the columns are and batches are gathered."""
        return next(iter(self.columns.values())).device

    @property
    def num_bytes(self) -> int:
        """Size of the columns."""
        times = [] if self.times is None else [self.times]
        return sum(values.nbytes for values in [*self.columns.values(), *times])

    def copy_to(self, device: torch.device) -> JaggedSequences:
        """The sequences with their columns in the memory of `device`; lengths stay on the CPU."""

        def moved(values: Tensor) -> Tensor:
            return values.to(device, copy=True)

        there = copy.copy(self)
        there.columns = {name: moved(values) for name, values in self.columns.items()}
        there.labels = None if self.labels is None else moved(self.labels)
        there.times = None if self.times is None else moved(self.times)
        return there

    def take(self, rows: Tensor) -> JaggedSequences:
        """The sequences `rows`, `[sequence]` int64 on the CPU; no event is copied."""
        some = copy.copy(self)
        some.starts, some.lengths = self.starts[rows], self.lengths[rows]
        some._rows = self.rows[rows]
        some.labels = None if self.labels is None else self.labels[self._put(rows)]
        # There is something between them now.
        some.__dict__.pop("offsets", None)
        return some

    def gather(self, indices: Tensor) -> SequenceBatch:
        """The sequences `indices` as one batch, padded to its longest.

        Targets are `[batch]` labels; `[batch, time]` ids of the next item; or, for the next event,
        `[batch, time, 2]` float64: the id of its type and the seconds until it. Padding has
        `NO_TARGET` or NaN.
        """
        return next(self.gather_several([indices]))

    def gather_several(self, parts: list[Tensor]) -> Iterator[SequenceBatch]:
        """What `gather` gives for each of some parts, faster than one after the other."""
        counts, indices = [len(part) for part in parts], torch.cat(parts)
        lengths = self.lengths.index_select(0, indices)
        longest = [int(own.max()) for own in lengths.split_with_sizes(counts)]
        cells = [count * steps for count, steps in zip(counts, longest, strict=True)]
        if len(parts) > 1 and sum(cells) > MOST_CELLS:
            for part in parts:
                yield self.gather(part)
            return
        width = torch.tensor(longest).repeat_interleave(torch.tensor(counts))
        # Event n of the parts is found at n + here in the columns and goes to cell n + there.
        before = lengths.cumsum(0) - lengths
        here = self._put(self.starts.index_select(0, indices) - before)
        there = self._put(width.cumsum(0) - width - before)
        total = int(lengths.sum())
        rows = torch.arange(len(indices), device=self.device)
        row = rows.repeat_interleave(self._put(lengths), output_size=total)
        event = torch.arange(total, device=self.device)
        positions = here.index_select(0, row).add_(event)
        places = there.index_select(0, row).add_(event)

        def spread(values: Tensor, fill: float = 0.0) -> tuple[Tensor, ...]:
            padded = values.new_full((sum(cells), *values.shape[1:]), fill)
            return padded.index_copy_(0, places, values).split_with_sizes(cells)

        columns = {n: spread(v.index_select(0, positions)) for n, v in self.columns.items()}
        if self.labels is not None and not self.per_step:
            asked = self.labels.index_select(0, self._put(indices))
            targets = asked.split_with_sizes(counts)
        else:
            none = NO_TARGET if self.target == "next_item" else float("nan")
            targets = tuple(
                part.view(-1, steps, *part.shape[1:])
                for part, steps in zip(
                    spread(self.targets_at(positions), none), longest, strict=True
                )
            )
        for k, of_batch in enumerate(lengths.split_with_sizes(counts)):
            features = {name: values[k].view(-1, longest[k]) for name, values in columns.items()}
            yield SequenceBatch(features, of_batch, targets[k], self._put(parts[k]))

    def pack(self, indices: Tensor, counts: list[int]) -> Iterator[SequenceBatch]:
        """The sequences `indices` as packed batches of `counts` sequences each, longest first."""
        lengths = self.lengths[indices]
        batch = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        order = (batch * (int(lengths.max()) + 1) - lengths).argsort(stable=True)
        lengths = lengths[order]
        return self.cut(indices[order], torch.zeros_like(lengths), lengths, counts)

    def cut(
        self, indices: Tensor, first: Tensor, lengths: Tensor, counts: list[int]
    ) -> Iterator[SequenceBatch]:
        """Pieces of sequences as packed batches: no padding anywhere.

        Args:
            indices: `[piece]`, the sequences.
            first: `[piece]`, the first step of each piece.
            lengths: `[piece]`, its number of steps, in each batch the longest first.
            counts: Pieces of each batch.

        Yields:
            Features `[N]`. Targets are `[piece]` labels, `NO_TARGET` where a piece has not the
            last step of its sequence; or `[N]` or `[N, 2]` of the steps, as in `gather`.
        """
        sizes, longest = torch.tensor(counts), int(lengths.max())
        batch = torch.arange(len(counts)).repeat_interleave(sizes)
        ends = (batch * (longest + 1) + lengths).bincount(minlength=len(counts) * (longest + 1))
        # A run: the rows of one step, one for each piece of the batch that has not ended.
        runs = sizes.unsqueeze(1) - ends.view(len(counts), -1).cumsum(1)[:, :-1]
        events = runs.sum(1).tolist()
        flat, total = runs.flatten(), sum(events)
        piece_of_first = (sizes.cumsum(0) - sizes).repeat_interleave(longest)
        shift = self._put(piece_of_first - (flat.cumsum(0) - flat))
        step = torch.arange(longest, device=self.device).repeat(len(counts))
        run = torch.arange(len(flat), device=self.device).repeat_interleave(
            self._put(flat), output_size=total
        )
        piece = torch.arange(total, device=self.device).add_(shift.index_select(0, run))
        begins = self._put(self.starts.index_select(0, indices) + first)
        positions = begins.index_select(0, piece).add_(step.index_select(0, run))
        if self.labels is not None and not self.per_step:
            ended = first + lengths == self.lengths[indices]
            labels = self.labels[self._put(indices)]
            targets = labels.where(self._put(ended), NO_TARGET).split_with_sizes(counts)
        else:
            targets = self.targets_at(positions).split_with_sizes(events)
        columns = {
            name: values.index_select(0, positions).split_with_sizes(events)
            for name, values in self.columns.items()
        }
        parts = zip(
            targets,
            lengths.split_with_sizes(counts),
            self._put(indices).split_with_sizes(counts),
            strict=True,
        )
        for k, (of_batch, piece_lengths, ids) in enumerate(parts):
            features = {name: values[k] for name, values in columns.items()}
            yield SequenceBatch(features, piece_lengths, of_batch, ids, packed=True)

    def _put(self, values: Tensor) -> Tensor:
        return values.to(self.device, non_blocking=True)

    def targets_at(self, positions: Tensor) -> Tensor:
        """The targets of the steps at `positions`, `[...]`: `[...]` or `[..., 2]`."""
        assert self.target_feature is not None
        flat = positions.flatten()
        following = self.columns[self.target_feature].index_select(0, flat + 1)
        following = following.view(positions.shape)
        if self.target == "next_item":
            return following.long()
        assert self.times is not None
        until = self.times.index_select(0, flat + 1) - self.times.index_select(0, flat)
        until = until.view(positions.shape)
        return torch.stack([following.double(), until], -1)

    def targets(self) -> Tensor:
        """All targets: labels `[sequence]`, or those of all steps, `[step]` or `[step, 2]`."""
        if self.target == "label":
            assert self.labels is not None
            return self.labels
        first = self.lengths.cumsum(0) - self.lengths
        steps = torch.arange(int(self.lengths.sum()))
        positions = steps + (self.starts - first).repeat_interleave(self.lengths)
        return self.targets_at(self._put(positions))

    def has_known_target(self) -> bool:
        """Whether any next item or type is one that training has; looks no further than the first.

        A few sequences at a time: those of a large log need not fit in memory.
        """
        for rows in torch.split(torch.arange(len(self)), 1024):
            targets = self.take(rows).targets()
            if bool(
                (targets[:, 0] if self.target == "next_event" else targets).gt(UNKNOWN_ID).any()
            ):
                return True
        return False

    def target_counts(self, size: int) -> Tensor:
        """How often each id below `size` is a target, `[size]` int64; of next items and types.

        A million at a time: all targets of a large log would take more memory than its training.
        """
        assert self.target_feature is not None
        ids = self.columns[self.target_feature]
        counts = torch.zeros(size, dtype=torch.int64)
        for some in torch.split(ids[self.offsets[0] : self.offsets[-1]], MOST_CELLS):
            counts += some.bincount(minlength=size).cpu()
        # All events but the first of each sequence.
        for begins, ends in zip(
            torch.split(self.offsets[:-1], MOST_CELLS),
            torch.split(self.offsets[1:], MOST_CELLS),
            strict=True,
        ):
            first = ids.index_select(0, self._put(begins[begins < ends]))
            counts -= first.bincount(minlength=size).cpu()
        return counts


def _labels(column: pa.Array | pa.ChunkedArray) -> Tensor:
    """Labels `[sequence]` int64, 0 where there is none."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    labels = array.fill_null(0).to_numpy(zero_copy_only=False)
    return torch.from_numpy(labels.astype(np.int64))
