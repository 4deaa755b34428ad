"""The batch: what every encoder, read-out and task takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class SequenceBatch:
    """Sequences padded to the longest of the batch.

    Args:
        features: Each `[batch, time]` or `[batch, time, feature]`; zero past a sequence's end.
        lengths: `[batch]`, int64, > 0, on the CPU (where packing wants it).
        targets: The task's own shape; `[batch]`, int64, for one label a sequence.
        ids: `[batch]`, int64, index of the sequence in its source.
        weight: Multiplies the mean loss of this rank's part of a global batch, so that the mean
            over ranks is the mean over the global batch; 1 on a single process.
    """

    features: dict[str, Tensor]
    lengths: Tensor
    targets: Tensor
    ids: Tensor
    weight: float = 1.0

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
        )
