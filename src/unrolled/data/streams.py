"""Parallel streams cut into windows, for models that carry their state along.

Sequences are laid end to end into streams that are read side by side, some `bptt` steps at a time
(truncated backpropagation through time, Williams & Peng 1990). A window is cut where a sequence
starts: its pieces are the rows of a batch, and each row knows which row of the batch before it goes
on with, if any. With one step a window these are the session-parallel mini-batches of GRU4Rec
(Hidasi et al. 2016, section 3.1.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from unrolled.data.batch import SequenceBatch
from unrolled.data.batching import Loader, Source
from unrolled.errors import UserError


class StreamSource(Source, Protocol):
    """Sequences of which pieces can be gathered."""

    lengths: Tensor
    """`[sequence]`, int64, on the CPU."""

    @property
    def per_step(self) -> bool:
        """Whether each step has a target, or each sequence."""
        ...

    def cut(
        self, indices: Tensor, first: Tensor, lengths: Tensor, counts: list[int]
    ) -> Iterator[SequenceBatch]:
        """Pieces of the sequences `indices`, each `lengths` steps from `first` on, as batches.

        All `[piece]` int64 on the CPU; `counts` pieces make a batch, the longest first. A
        sequence's target goes to the piece that has its last step; the others have none.
        """
        ...


@dataclass
class Pieces:
    """Pieces of sequences in the order of the batches, `[piece]` int64 each.

    Args:
        sequence: Index in the source.
        first: The piece's first step in the sequence.
        length: Number of steps.
        continues: The row of the batch before that it goes on with; -1 at a sequence's start.
        weight: `[batch]`, see `SequenceBatch`.
        ends: `[batch + 1]`, where each batch begins and ends.
    """

    sequence: Tensor
    first: Tensor
    length: Tensor
    continues: Tensor
    weight: list[float]
    ends: list[int]


class StreamLoader(Loader):
    """Windows of all streams at once, from the first step to the last.

    The sequences of an epoch are laid end to end and cut, where one starts, into streams of nearly
    equal length, and each stream into the same number of windows, as even as can be. So each batch
    has every stream, none is left alone at the end, and each process, which has every
    `num_ranks`-th stream, always has its share.

    Args:
        source: The sequences.
        bptt: Steps of a window, at most. Where streams differ by more than a window can even out
            (in essence with `bptt=1`), some windows of the longer ones have a step or two more.
        num_streams: At most so many; fewer where a stream would not be twice as long as the longest
            sequence. None: each sequence is a stream of its own; then they must be of one length,
            and all windows but the last have exactly `bptt` steps.
        shuffle: A new order of the sequences each epoch, a function of `(seed, epoch)` alone.
        seed: Of the order.
        rank: This process.
        num_ranks: Number of processes.
    """

    source: StreamSource

    def __init__(
        self,
        source: StreamSource,
        bptt: int,
        num_streams: int | None = None,
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        super().__init__(source, shuffle=shuffle, seed=seed, rank=rank, num_ranks=num_ranks)
        self.bptt = bptt
        lengths = source.lengths
        self.num_events = int(lengths.sum())
        longest = int(lengths.max()) if len(lengths) else 0
        self.separate = num_streams is None
        if num_streams is None:
            assert self.num_events == longest * len(lengths), "streams of one length"
            self.num_streams = len(lengths)
            self.num_batches = -(-longest // bptt)
            return
        self.num_streams = min(num_streams, max(1, self.num_events // max(2 * longest, 1)))
        # A stream ends where the sequence in which its share of the events ends is over.
        slack = longest - 1 if self.num_streams > 1 else 0
        share = self.num_events // self.num_streams
        most = -(-self.num_events // self.num_streams) + slack
        self.num_batches = min(-(-most // bptt), share - slack) if self.num_events else 0

    def require_shares(self) -> None:
        """There is a stream for each process.

        Raises:
            UserError: When there is not.
        """
        if self.num_streams < self.num_ranks:
            raise UserError(
                f"{self.num_streams} train streams are too few for {self.num_ranks} processes; "
                "the number of streams is data.batch_size, and each is at least twice as long as "
                "the longest sequence"
            )

    def begin(self, epoch: int) -> None:
        """Cut the epoch's streams."""
        if self.num_batches:
            self.pieces = self.plan(epoch)

    def batches(self, first: int, end: int) -> Iterator[SequenceBatch | None]:
        """This rank's pieces of some windows."""
        pieces = self.pieces
        rows = slice(pieces.ends[first], pieces.ends[end])
        counts = [pieces.ends[k + 1] - pieces.ends[k] for k in range(first, end)]
        if rows.start == rows.stop:
            yield from [None] * len(counts)
            return
        cut = self.source.cut(
            pieces.sequence[rows], pieces.first[rows], pieces.length[rows], counts
        )
        goes_on = pieces.continues[rows].split_with_sizes(counts)
        for batch, k, continues in zip(cut, range(first, end), goes_on, strict=True):
            batch.weight = pieces.weight[k]
            batch.continues = continues
            yield batch

    def plan(self, epoch: int) -> Pieces:
        """This rank's pieces of an epoch."""
        order = self.order(epoch)
        lengths = self.source.lengths[order]
        starts = lengths.cumsum(0) - lengths
        cuts = self._cuts(starts)
        # Where a sequence starts or a window does, a piece starts.
        begins: Tensor = torch.unique(torch.cat([starts, cuts]))
        window = torch.searchsorted(cuts, begins, right=True) - 1
        stream, batch = window // self.num_batches, window % self.num_batches
        place = torch.searchsorted(starts, begins, right=True) - 1
        first = begins - starts[place]
        length = begins.diff(append=begins.new_tensor([self.num_events]))
        asked = batch
        if not self.source.per_step:
            asked = batch[first + length == lengths[place]]
        asked = asked.bincount(minlength=self.num_batches)

        mine = (stream % self.num_ranks == self.rank).nonzero()[:, 0]
        first, length, batch = first[mine], length[mine], batch[mine]
        counts = batch.bincount(minlength=self.num_batches)
        ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        # By batch, and the longest first.
        longest = int(length.max()) if len(length) else 0
        rows = (batch * (longest + 1) - length).argsort(stable=True)
        row = torch.empty_like(rows)
        row[rows] = torch.arange(len(rows)) - ends[batch[rows]]
        # Pieces still stand stream by stream: one goes on with the piece before it.
        continues = row.roll(1).where(first > 0, -1)
        weight = counts * self.num_ranks / asked.clamp(min=1)
        return Pieces(
            order[place[mine]][rows],
            first[rows],
            length[rows],
            continues[rows],
            weight.tolist(),
            ends.tolist(),
        )

    def _cuts(self, starts: Tensor) -> Tensor:
        """Where the windows start, stream by stream, `[stream * window]`."""
        windows = torch.arange(self.num_batches)
        if self.separate:
            return (starts.unsqueeze(1) + windows * self.bptt).flatten()
        shares = torch.arange(self.num_streams) * self.num_events // self.num_streams
        begins = starts[torch.searchsorted(starts, shares)]
        sizes = begins.diff(append=begins.new_tensor([self.num_events]))
        return (begins.unsqueeze(1) + windows * sizes.unsqueeze(1) // self.num_batches).flatten()
