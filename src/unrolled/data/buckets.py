"""Sequences of similar lengths together: hardly any padding, a budget of events a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from unrolled.data.batching import SizedSource, WholeSequences
from unrolled.data.long_sequences import WIDTH
from unrolled.errors import UserError


class BucketedLoader(WholeSequences):
    """Batches from buckets of similar lengths; every sequence exactly once an epoch.

    A bucket holds all sequences whose lengths differ by at most `WIDTH`. Its sequences are shuffled
    and cut into nearly equal batches, and the batches of all buckets come in random order. There
    are as many in each epoch.

    A batch of short sequences has more of them. As the loss is a mean over the sequences of a
    batch, and all batches count alike, a sequence counts about in proportion to its length.

    Args:
        source: Where the sequences are.
        events_per_batch: Steps of a global batch, all ranks together and padding included: at most,
            unless a single sequence is longer.
        min_share: A bucket with less than this share of a batch's steps takes in the next shorter
            lengths too, so that no batch is tiny; 0 pads least.
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
        min_share: float = 0.25,
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        super().__init__(source, shuffle=shuffle, seed=seed, rank=rank, num_ranks=num_ranks)
        self.events_per_batch = events_per_batch
        longest = bucket_lengths(source.lengths, min_share * events_per_batch)
        # There are a hundred buckets or so, and may be many millions of sequences.
        self.bucket = torch.searchsorted(longest, source.lengths, out_int32=True).short()
        counts = self.bucket.bincount(minlength=len(longest))
        sizes = (events_per_batch // longest).clamp(min=1)
        ends = [torch.zeros(1, dtype=torch.int64)]
        for count, size in zip(counts.tolist(), sizes.tolist(), strict=True):
            batches = -(-count // size)
            ends.append(ends[-1][-1] + torch.arange(1, batches + 1) * count // batches)
        cut = torch.cat(ends)
        self.bounds = torch.stack([cut[:-1], cut[1:]], 1)
        self.num_batches = len(self.bounds)

    def plan(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Shuffle within the buckets, and the batches."""
        order = self.order(epoch)
        if not self.shuffle:
            return self.source.lengths.argsort(stable=True), self.bounds
        order = order[self.bucket[order].argsort(stable=True)]
        # Other numbers than those of the order, which has them from the same start.
        random = self.random(-1 - epoch)
        return order, self.bounds[torch.randperm(self.num_batches, generator=random)]

    def require_shares(self) -> None:
        """Each batch has a sequence for each process.

        Raises:
            UserError: When one has not.
        """
        smallest = int(self.bounds.diff(dim=1).min()) if self.num_batches else 0
        if self.num_batches and smallest < self.num_ranks:
            raise UserError(
                f"data.events_per_batch={self.events_per_batch} makes batches of {smallest} of the "
                f"longest sequences, too few for {self.num_ranks} processes; make it larger"
            )


def bucket_lengths(lengths: Tensor, min_events: float) -> Tensor:
    """The longest length of each bucket, rising, `[bucket]` int64.

    Args:
        lengths: `[sequence]`, in any order.
        min_events: Steps that a bucket has at least, if all have so many together.
    """
    counts = lengths.bincount()
    values = counts.nonzero()[:, 0]
    before = torch.cat([values.new_zeros(1), (values * counts[values]).cumsum(0)])
    chosen: list[int] = []
    last = len(values) - 1
    while last >= 0:
        chosen.append(last)
        near = int(torch.searchsorted(values, values[last] / (1 + WIDTH)))
        enough = int(torch.searchsorted(before, before[last + 1] - min_events, right=True)) - 1
        first = max(min(near, enough), 0)
        # A rest that is too small belongs to the last bucket.
        last = first - 1 if before[first] >= max(min_events, 1) else -1
    return values[torch.tensor(chosen[::-1], dtype=torch.int64)]
