"""Sequences of similar lengths together: hardly any padding, a budget of events a batch."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from unrolled.data.batching import Source, WholeSequences
from unrolled.errors import UserError

JITTER = 0.1
"""A sequence is sorted by its length times a random factor of 1 to 1 + JITTER. It meets others of
nearly its own length only; more jitter mixes them better and pads more."""


class SizedSource(Source, Protocol):
    """Sequences of known lengths."""

    lengths: Tensor
    """`[sequence]`, int64, on the CPU."""


class BucketedLoader(WholeSequences):
    """Batches of about the same number of events; every sequence exactly once an epoch.

    The sequences are sorted by length, blurred by `JITTER`, and cut into
    `ceil(events / events_per_batch)` batches at equal distances in events; the batches come in
    random order. A batch of short sequences has more of them. As the loss is a mean over the
    sequences of a batch, and all batches count alike, a sequence counts in proportion to its
    length.

    Args:
        source: Where the sequences are.
        events_per_batch: Real events of a global batch, all ranks together: on average at most,
            in a single one at most the longest sequence more.
        shuffle: A new order each epoch; without, the sequences come shortest first.
        seed: Of the order.
        rank: This process.
        num_ranks: Number of processes.
    """

    source: SizedSource

    def __init__(
        self,
        source: SizedSource,
        events_per_batch: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        super().__init__(source, shuffle=shuffle, seed=seed, rank=rank, num_ranks=num_ranks)
        self.events_per_batch = events_per_batch
        self.num_events = int(source.lengths.sum())
        self.num_batches = -(-self.num_events // events_per_batch)

    def plan(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Sort, cut, and shuffle the batches."""
        lengths, count = self.source.lengths, self.num_batches
        if not self.shuffle:
            order, batches = lengths.argsort(stable=True), torch.arange(count)
        else:
            random = self.random(epoch)
            blur = 1 + JITTER * torch.rand(len(lengths), generator=random, dtype=torch.float64)
            order = (lengths * blur).argsort(stable=True)
            batches = torch.randperm(count, generator=random)
        # A sequence belongs to the batch in whose share of the events its first event lies.
        sizes = lengths[order]
        first = sizes.cumsum(0) - sizes
        shares = -(-torch.arange(count + 1) * self.num_events // max(count, 1))
        ends = torch.searchsorted(first, shares)
        return order, torch.stack([ends[:-1], ends[1:]], 1)[batches]

    def require_shares(self) -> None:
        """Each batch has a sequence for each process: its share holds that many of the longest.

        Raises:
            UserError: When it might not.
        """
        longest = int(self.source.lengths.max()) if len(self.source) else 0
        enough = self.num_events >= self.num_batches * longest * self.num_ranks
        if self.num_batches > 1 and not enough:
            raise UserError(
                f"data.events_per_batch={self.events_per_batch} is too small: the longest training "
                f"sequence has {longest} steps, and each of {self.num_ranks} processes needs a "
                f"sequence of each batch; make it at least {2 * longest * self.num_ranks}"
            )
