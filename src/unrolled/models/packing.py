"""Sequences of different lengths as rows without padding: step after step, longest first.

The rows of step 0 come first, then those of step 1, and so on; a sequence that has ended has no row
any more. This is the order of torch's `PackedSequence`. What lies in the padding is never read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unrolled.models.lengths import check_lengths


class Packing:
    """Where each real step of a batch goes.

    N is the number of real steps: the sum of the lengths.

    Args:
        lengths: `[batch]`, int64, on the CPU, 1 .. time.
        batch: Sequences of the padded batch.
        time: Steps of the padded batch.
        device: Of the values.
    """

    def __init__(self, lengths: Tensor, batch: int, time: int, device: torch.device) -> None:
        self.batch, self.time = batch, time
        self.order: Tensor | None = None
        shortest, _ = check_lengths(lengths, batch, time)
        if shortest == time:
            self.sizes = [batch] * time
            return
        ordered, order = lengths.sort(descending=True, stable=True)
        steps = torch.arange(int(ordered[0]))
        real = ordered > steps.unsqueeze(1)  # [time, batch], longest sequence first
        step, rank = real.nonzero(as_tuple=True)
        sizes = real.sum(1)
        # The row of step s of the sequence with rank r is (rows of the steps before s) + r.
        before = sizes.cumsum(0) - sizes
        self.sizes = sizes.tolist()
        self.order = order.to(device, non_blocking=True)
        self.inverse = order.argsort().to(device, non_blocking=True)
        self._rows = (order[rank] * time + step).to(device, non_blocking=True)
        self._ranks = rank.to(device, non_blocking=True)
        self._mirror = (before[ordered[rank] - 1 - step] + rank).to(device, non_blocking=True)

    def pack(self, x: Tensor) -> Tensor:
        """`[batch, time, ...]` to `[N, ...]`."""
        if self.order is None:
            return x.transpose(0, 1).flatten(0, 1)
        return x.flatten(0, 1).index_select(0, self._rows)

    def unpack(self, x: Tensor) -> Tensor:
        """`[N, ...]` to `[batch, time, ...]`, zero past the lengths."""
        if self.order is None:
            return x.view(self.time, self.batch, *x.shape[1:]).transpose(0, 1)
        padded = x.new_zeros(self.batch * self.time, *x.shape[1:])
        return padded.index_copy(0, self._rows, x).view(self.batch, self.time, *x.shape[1:])

    def reverse(self, x: Tensor) -> Tensor:
        """`[N, ...]` with each sequence from its last real step to its first; its own opposite."""
        if self.order is None:
            return x.view(self.time, self.batch, *x.shape[1:]).flip(0).flatten(0, 1)
        return x.index_select(0, self._mirror)

    def per_sequence(self, values: Tensor) -> Tensor:
        """Values of each sequence, `[batch, ...]` longest first, to all its steps: `[N, ...]`."""
        if self.order is None:
            return values.repeat(self.time, *[1] * (values.dim() - 1))
        return values.index_select(0, self._ranks)
