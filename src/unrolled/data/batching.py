"""Which sequences make a batch: deterministic in (seed, epoch), sharded over ranks.

A loader is an iterable with a position that it can save and take up again in O(1). It asks a
`Source` for whole batches; there is no item-by-item `Dataset` and no collate function, because at
a few milliseconds a step these would cost more than the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from unrolled.data.batch import SequenceBatch


class Source(Protocol):
    """Sequences that can be gathered by index."""

    def __len__(self) -> int:
        """Number of sequences."""
        ...

    def gather(self, indices: Tensor) -> SequenceBatch:
        """The batch of the sequences `indices`, `[batch]` int64 on the CPU."""
        ...

    def targets(self) -> Tensor:
        """All targets, `[sequence]` or `[sequence, time]`, in the order of the indices."""
        ...


class BatchLoader:
    """Batches of a fixed number of sequences; every sequence exactly once an epoch.

    An epoch is cut into `ceil(n / batch_size)` batches whose sizes differ by at most one, so there
    is no small last batch with a noisy gradient. Of each global batch, rank `r` takes every
    `num_ranks`-th sequence: one rank and many see the same batches in the same order.

    Args:
        source: Where the sequences are.
        batch_size: Sequences of a global batch, all ranks together; at most.
        shuffle: A new order each epoch, a function of `(seed, epoch)` alone.
        seed: Of the order.
        rank: This process.
        num_ranks: Number of processes.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self.source = source
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.num_ranks = num_ranks
        self.num_batches = -(-len(source) // batch_size)
        self.epoch = -1
        self.next_batch = 0
        self._resumed = False

    def __len__(self) -> int:
        return self.num_batches

    def order(self, epoch: int) -> Tensor:
        """The sequences of an epoch in their order, `[sequence]` int64."""
        if not self.shuffle:
            return torch.arange(len(self.source))
        generator = torch.Generator().manual_seed(_mix(self.seed, epoch))
        return torch.randperm(len(self.source), generator=generator)

    def __iter__(self) -> Iterator[SequenceBatch]:
        if not self._resumed:
            self.epoch, self.next_batch = self.epoch + 1, 0
        self._resumed = False
        n, order = len(self.source), self.order(self.epoch)
        while self.next_batch < self.num_batches:
            k = self.next_batch
            # Before the yield, so that a state saved while the batch is in use counts it as used.
            self.next_batch += 1
            start, end = k * n // self.num_batches, (k + 1) * n // self.num_batches
            indices = order[start:end][self.rank :: self.num_ranks]
            # Without shuffling (evaluation) a rank may have no share of a tiny last batch.
            if len(indices) == 0:
                continue
            batch = self.source.gather(indices)
            batch.weight = len(indices) * self.num_ranks / (end - start)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The position: epoch and next batch."""
        if self.next_batch == self.num_batches or self.epoch < 0:
            return {"epoch": self.epoch + 1, "next_batch": 0}
        return {"epoch": self.epoch, "next_batch": self.next_batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next iteration go on at the position that `state_dict` gave."""
        self.epoch, self.next_batch = state["epoch"], state["next_batch"]
        self._resumed = True


def _mix(seed: int, epoch: int) -> int:
    # A plain sum would give seed 1's second epoch the order of seed 2's first.
    return (seed * 0x9E3779B97F4A7C15 + epoch * 0xBF58476D1CE4E5B9) % 2**63
