"""The batch: what every encoder, read-out and task takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NO_TARGET = -100
"""In the place of a class: this step has no target, as torch's `ignore_index`. A real target is
NaN there."""


def has_target(targets: Tensor) -> Tensor:
    """True where there is a target; padding has none."""
    return ~targets.isnan() if targets.is_floating_point() else targets != NO_TARGET


@dataclass
class SequenceBatch:
    """Sequences padded to the longest of the batch.

    Args:
        features: Each `[batch, time]` or `[batch, time, feature]`; zero past a sequence's end.
        lengths: `[batch]`, int64, > 0, on the CPU (where packing wants it).
        targets: `[batch]`, one for each sequence, or `[batch, time]`, one for each step, with
            `NO_TARGET` or NaN where there is none; int64 classes or float32 numbers.
        ids: `[batch]`, int64, index of the sequence in its source.
        weight: Multiplies the mean loss of this rank's part of a global batch, so that the mean
            over ranks is the mean over the global batch; 1 on a single process.
        continues: In a stream, whether row i goes on where row i of the batch before it stopped;
            None where batches have nothing to do with each other.
    """

    features: dict[str, Tensor]
    lengths: Tensor
    targets: Tensor
    ids: Tensor
    weight: float = 1.0
    continues: bool | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device, non_blocking: bool = False) -> SequenceBatch:
        """The batch on `device`; `lengths` stays where it is."""
        if self.targets.device == device:
            return self
        return SequenceBatch(
            {k: v.to(device, non_blocking=non_blocking) for k, v in self.features.items()},
            self.lengths,
            self.targets.to(device, non_blocking=non_blocking),
            self.ids.to(device, non_blocking=non_blocking),
            self.weight,
            self.continues,
        )
