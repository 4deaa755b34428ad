"""The batch: what every encoder, read-out and task takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

NO_TARGET = -100
"""In the place of a class: this step has no target, as torch's `ignore_index`. A real target is
NaN there."""


def has_target(targets: Tensor) -> Tensor:
    """True where there is a target; padding has none."""
    return ~targets.isnan() if targets.is_floating_point() else targets != NO_TARGET


def batch_sizes(lengths: Tensor) -> Tensor:
    """How many sequences have each step: torch's `PackedSequence.batch_sizes`.

    Args:
        lengths: `[batch]`, int64, longest first.

    Returns:
        `[time]`, int64.
    """
    return len(lengths) - lengths.bincount().cumsum(0)[:-1]


def pad_steps(values: Tensor, lengths: Tensor, fill: float = 0.0) -> Tensor:
    """Packed steps, `[N, ...]`, as `[batch, time, ...]` with `fill` past the ends.

    Args:
        values: In the order of torch's `PackedSequence`.
        lengths: `[batch]`, longest first.
        fill: What stands in the padding.
    """
    packed = PackedSequence(values, batch_sizes(lengths))
    padded: Tensor = pad_packed_sequence(packed, batch_first=True, padding_value=fill)[0]
    return padded


def pack_steps(values: Tensor, lengths: Tensor) -> Tensor:
    """The opposite of `pad_steps`."""
    return pack_padded_sequence(values, lengths, batch_first=True).data


@dataclass
class SequenceBatch:
    """Sequences of different lengths, padded to the longest or packed.

    Padded, every tensor of steps is `[batch, time, ...]`. Packed, it is `[N, ...]`, N the number
    of real steps, in the order of torch's `PackedSequence`: the sequences stand longest first, and
    step 0 of all sequences comes before step 1 of those that have one.

    Args:
        features: Each `[batch, time]` or `[batch, time, feature]`, zero past a sequence's end; or
            packed, `[N]` or `[N, feature]`.
        lengths: `[batch]`, int64, > 0, on the CPU (where packing wants it).
        targets: `[batch]`, one for each sequence, or `[batch, time]` (packed `[N]`), one for each
            step, with `NO_TARGET` or NaN where there is none; int64 classes or float32 numbers.
        ids: `[batch]`, int64, index of the sequence in its source.
        weight: Multiplies the mean loss of this rank's part of a global batch, so that the mean
            over ranks is the mean over the global batch; 1 on a single process. Rows of a stream
            that have no target have the loss zero, and the weight makes up for them.
        continues: In a stream, `[batch]` int64 on the CPU: the row of the batch before whose
            sequence this row goes on with, or -1 where a sequence starts; None where batches have
            nothing to do with each other.
        packed: Whether the steps are packed.
        step_weight: Multiplies the loss of the whole global batch, all ranks alike. Batches of long
            sequences have fewer of them; weighted by their number each sequence counts as it would
            among ordinary ones.
    """

    features: dict[str, Tensor]
    lengths: Tensor
    targets: Tensor
    ids: Tensor
    weight: float = 1.0
    continues: Tensor | None = None
    packed: bool = False
    step_weight: float = 1.0

    def __len__(self) -> int:
        return len(self.lengths)

    def pad(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """Values of packed steps as `[batch, time, ...]`; all others as they are."""
        if not self.packed or len(values) != int(self.lengths.sum()):
            return values
        return pad_steps(values, self.lengths, fill)

    def to(self, device: torch.device, non_blocking: bool = False) -> SequenceBatch:
        """The batch on `device`; `lengths` and `continues` stay where they are."""
        if self.targets.device == device:
            return self
        return SequenceBatch(
            {k: v.to(device, non_blocking=non_blocking) for k, v in self.features.items()},
            self.lengths,
            self.targets.to(device, non_blocking=non_blocking),
            self.ids.to(device, non_blocking=non_blocking),
            self.weight,
            self.continues,
            self.packed,
            self.step_weight,
        )
