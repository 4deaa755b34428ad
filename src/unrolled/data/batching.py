"""Which sequences make a batch: deterministic in (seed, epoch), sharded over ranks.

A loader is an iterable with a position that it can save and take up again in O(1). It asks a
`Source` for whole batches; there is no item-by-item `Dataset` and no collate function, because at
a few milliseconds a step these would cost more than the model.

`Loader` has the position; `BatchLoader` and `PackedLoader` here, `buckets.BucketedLoader` and
`streams.StreamLoader` say what a batch is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from unrolled.data.batch import SequenceBatch
from unrolled.data.long_sequences import long_batches
from unrolled.errors import UserError


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


class SizedSource(Source, Protocol):
    """Sequences of known lengths."""

    lengths: Tensor
    """`[sequence]`, int64, on the CPU."""


class PackedSource(Source, Protocol):
    """Sequences that can be gathered without padding."""

    def pack(self, indices: Tensor, counts: list[int]) -> Iterator[SequenceBatch]:
        """The sequences `indices` as packed batches of `counts` sequences each.

        In each batch they stand longest first, whatever their order.
        """
        ...


CELLS = 2**18
"""Steps of a padded batch with its padding, at most, where nothing else is said."""
AT_ONCE = 16
"""Batches that are gathered together where that is faster, which for small ones it is."""


class Loader(ABC):
    """An epoch is `num_batches` batches, the same number on each rank.

    Args:
        source: Where the sequences are.
        shuffle: A new order each epoch, a function of `(seed, epoch)` alone.
        seed: Of the order.
        rank: This process.
        num_ranks: Number of processes.
    """

    num_batches: int

    def __init__(
        self,
        source: Source,
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self.source = source
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.num_ranks = num_ranks
        self.epoch = -1
        self.next_batch = 0
        self._resumed = False

    @abstractmethod
    def begin(self, epoch: int) -> None:
        """Work out which batches the epoch has."""

    @abstractmethod
    def batches(self, first: int, end: int) -> Iterator[SequenceBatch | None]:
        """This rank's parts of some of the epoch's batches; None where it has no share.

        Args:
            first: Number of the first batch.
            end: That after the last.
        """

    @abstractmethod
    def require_shares(self) -> None:
        """Refuse what would leave a rank without a share of a batch.

        Raises:
            UserError: When it can happen: in training the others would wait for ever.
        """

    def __len__(self) -> int:
        return self.num_batches

    def random(self, epoch: int) -> torch.Generator:
        """The random numbers of an epoch."""
        return torch.Generator().manual_seed(_mix(self.seed, epoch))

    def order(self, epoch: int) -> Tensor:
        """The sequences of an epoch in their order, `[sequence]` int64."""
        if not self.shuffle:
            return torch.arange(len(self.source))
        return torch.randperm(len(self.source), generator=self.random(epoch))

    def __iter__(self) -> Iterator[SequenceBatch]:
        if not self._resumed:
            self.epoch, self.next_batch = self.epoch + 1, 0
        self._resumed = False
        self.begin(self.epoch)
        while self.next_batch < self.num_batches:
            end = min(self.next_batch + AT_ONCE, self.num_batches)
            for batch in self.batches(self.next_batch, end):
                # Before the yield, so that a state saved while the batch is in use counts it as
                # used.
                self.next_batch += 1
                if batch is not None:
                    yield batch

    def state_dict(self, unused: int = 0) -> dict[str, int]:
        """The position: epoch and next batch.

        Args:
            unused: Batches that were handed out but are not used yet.
        """
        used = self.next_batch - unused
        if used == self.num_batches or self.epoch < 0:
            return {"epoch": self.epoch + 1, "next_batch": 0}
        return {"epoch": self.epoch, "next_batch": used}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next iteration go on at the position that `state_dict` gave."""
        self.epoch, self.next_batch = state["epoch"], state["next_batch"]
        self._resumed = True


class WholeSequences(Loader):
    """Batches of whole sequences, each exactly once an epoch.

    Of each global batch, rank `r` takes every `num_ranks`-th sequence: one rank and many see the
    same batches in the same order. A subclass gives `plan`.
    """

    @abstractmethod
    def plan(self, epoch: int) -> tuple[Tensor, Tensor]:
        """The batches of an epoch.

        Returns:
            The sequences in their order, `[sequence]`, and where in it each batch begins and ends,
            `[batch, 2]`; int64 both.
        """

    def take(self, parts: list[Tensor]) -> Iterator[SequenceBatch]:
        """Batches of some sequences each."""
        several = getattr(self.source, "gather_several", None)
        if several is not None and parts:
            batches: Iterator[SequenceBatch] = several(parts)
            return batches
        return (self.source.gather(indices) for indices in parts)

    def begin(self, epoch: int) -> None:
        """Plan."""
        self._order, bounds = self.plan(epoch)
        self._bounds = bounds.tolist()

    def batches(self, first: int, end: int) -> Iterator[SequenceBatch | None]:
        """This rank's sequences of some batches."""
        bounds = self._bounds[first:end]
        parts = [self._order[a + self.rank : b : self.num_ranks] for a, b in bounds]
        taken = self.take([indices for indices in parts if len(indices)])
        for indices, (a, b) in zip(parts, bounds, strict=True):
            # Without shuffling (evaluation) a rank may have no share of a tiny last batch.
            if len(indices) == 0:
                yield None
                continue
            batch = next(taken)
            batch.weight = len(indices) * self.num_ranks / (b - a)
            batch.step_weight = self.step_weight(b - a)
            yield batch

    def step_weight(self, size: int) -> float:
        """Weight of a batch of `size` sequences beside the others."""
        return 1.0


class BatchLoader(WholeSequences):
    """Batches of a fixed number of sequences, padded.

    An epoch is cut into `ceil(n / batch_size)` batches whose sizes differ by at most one, so there
    is no small last batch with a noisy gradient.

    Sequences so long that a full batch of them would have more than `most_cells` steps make
    batches of their own, as many together as there is room for; others fill up the last of these. A
    batch counts in proportion to its sequences: each of them counts alike. Where no sequence is so
    long, nothing differs from a loader without the limit.

    Args:
        source: Where the sequences are.
        batch_size: Sequences of a global batch, all ranks together; at most.
        most_cells: Steps of a global batch with its padding, at most, unless a single sequence is
            longer; None sets no limit, nor has a source without `lengths` one.
        shuffle: A new order each epoch, a function of `(seed, epoch)` alone.
        seed: Of the order.
        rank: This process.
        num_ranks: Number of processes.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        most_cells: int | None = None,
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        super().__init__(source, shuffle=shuffle, seed=seed, rank=rank, num_ranks=num_ranks)
        self.batch_size = batch_size
        self.most_cells = most_cells
        self._width: Tensor | None = None
        long_ends = [0]
        lengths: Tensor | None = getattr(source, "lengths", None)
        longest = 0 if lengths is None or not len(lengths) else int(lengths.max())
        if most_cells is not None and lengths is not None and longest * batch_size > most_cells:
            self._width, long_ends = long_batches(lengths, batch_size, most_cells)
        rest = len(source) - long_ends[-1]
        batches = -(-rest // batch_size)
        ends = long_ends[-1] + torch.arange(batches + 1) * rest // max(batches, 1)
        cut = torch.cat([torch.tensor(long_ends[:-1], dtype=torch.int64), ends])
        self._cut = torch.stack([cut[:-1], cut[1:]], 1)
        self.num_batches = len(self._cut)

    def plan(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Nearly equal parts of the order; batches of long sequences come at random among them."""
        order = self.order(epoch)
        if self._width is None:
            return order, self._cut
        order = order[self._width[order].argsort(stable=True, descending=True)]
        if not self.shuffle:
            return order, self._cut
        # Other numbers than those of the order, which has them from the same start.
        random = self.random(-1 - epoch)
        return order, self._cut[torch.randperm(self.num_batches, generator=random)]

    def step_weight(self, size: int) -> float:
        """The share of the mean batch: as the loss is a mean, each sequence then counts alike."""
        return 1.0 if self._width is None else size * self.num_batches / len(self.source)

    def require_shares(self) -> None:
        """Each batch has a sequence for each process.

        Raises:
            UserError: When one has not.
        """
        smallest = int(self._cut.diff(dim=1).min()) if self.num_batches else self.num_ranks
        if smallest >= self.num_ranks:
            return
        if self._width is not None:
            raise UserError(
                f"data.cells_per_batch={self.most_cells} has room for {smallest} of the longest "
                f"sequences, of up to {int(self._width.max()):,} events, too few for "
                f"{self.num_ranks} processes; cut them by data.source.max_length, or make it larger"
            )
        raise UserError(
            f"data.batch_size={self.batch_size} cuts the {len(self.source)} training "
            f"sequences into {len(self)} batches, too small for {self.num_ranks} processes; "
            f"make it at least {self.num_ranks} and use no more processes than sequences"
        )


class PackedLoader(BatchLoader):
    """The batches of `BatchLoader`, packed: the same sequences without any padding."""

    source: PackedSource

    def take(self, parts: list[Tensor]) -> Iterator[SequenceBatch]:
        """Packed batches of some sequences each."""
        if not parts:
            return iter(())
        return self.source.pack(torch.cat(parts), [len(indices) for indices in parts])


def _mix(seed: int, epoch: int) -> int:
    # A plain sum would give seed 1's second epoch the order of seed 2's first.
    return (seed * 0x9E3779B97F4A7C15 + epoch * 0xBF58476D1CE4E5B9) % 2**63
