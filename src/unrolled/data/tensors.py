"""Sequences that lie in memory as padded tensors: the source of most synthetic data."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from unrolled.data.batch import SequenceBatch


class TensorSequences:
    """Sequences in memory, on the device that trains.

    Args:
        features: Each `[sequence, time]` or `[sequence, time, feature]`; zero past the end.
        targets: `[sequence]` or `[sequence, time]`; int64 classes or float32 numbers.
        lengths: `[sequence]`, int64; None where all are as long as the tensors.
    """

    def __init__(
        self, features: dict[str, Tensor], targets: Tensor, lengths: Tensor | None = None
    ) -> None:
        self.features = features
        self._targets = targets
        time = next(iter(features.values())).shape[1]
        self.lengths = torch.full((len(targets),), time) if lengths is None else lengths

    def __len__(self) -> int:
        return len(self._targets)

    def to(self, device: torch.device) -> TensorSequences:
        """The sequences on `device`; lengths stay on the CPU."""
        features = {name: values.to(device) for name, values in self.features.items()}
        return TensorSequences(features, self._targets.to(device), self.lengths)

    def first(self, count: int) -> TensorSequences:
        """The first `count` sequences."""
        return self.where(torch.arange(len(self)) < count)

    def take(self, rows: Tensor) -> TensorSequences:
        """The sequences `rows`, `[sequence]` int64 on the CPU."""
        on_device = rows.to(self._targets.device)
        features = {name: values[on_device] for name, values in self.features.items()}
        return TensorSequences(features, self._targets[on_device], self.lengths[rows])

    def where(self, chosen: Tensor) -> TensorSequences:
        """The sequences for which `chosen`, `[sequence]` bool, is true."""
        features = {name: values[chosen] for name, values in self.features.items()}
        return TensorSequences(features, self._targets[chosen], self.lengths[chosen])

    def gather(self, indices: Tensor) -> SequenceBatch:
        """The sequences `indices` as one batch, cut to its longest."""
        lengths = self.lengths[indices]
        longest = int(lengths.max())
        on_device = indices.to(self._targets.device)
        features = {name: v[on_device, :longest] for name, v in self.features.items()}
        targets = self._targets[on_device]
        if targets.dim() == 2:
            targets = targets[:, :longest]
        return SequenceBatch(features, lengths, targets, on_device)

    @property
    def per_step(self) -> bool:
        """Whether each step has a target, or each sequence."""
        return self._targets.dim() > 1

    def cut(
        self, indices: Tensor, first: Tensor, lengths: Tensor, counts: list[int]
    ) -> Iterator[SequenceBatch]:
        """Pieces of sequences as batches without padding: all of a batch cover the same steps.

        Args:
            indices: `[piece]`, the sequences.
            first: `[piece]`, the first step of each piece.
            lengths: `[piece]`, its number of steps.
            counts: Pieces of each batch.
        """
        parts = (values.split_with_sizes(counts) for values in (indices, first, lengths))
        for rows, begins, sizes in zip(*parts, strict=True):
            window = slice(int(begins[0]), int(begins[0] + sizes[0]))
            assert bool((begins == window.start).all() and (begins + sizes == window.stop).all())
            on_device = rows.to(self._targets.device)
            features = {name: values[on_device, window] for name, values in self.features.items()}
            yield SequenceBatch(features, sizes, self._targets[on_device, window], on_device)

    def targets(self) -> Tensor:
        """All targets, in the order of the indices."""
        return self._targets
