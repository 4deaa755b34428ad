"""Batches of sequences that are too long for a full batch."""

from __future__ import annotations

import math

from torch import Tensor

WIDTH = 0.1
"""Lengths are similar when they differ by at most this share of the shortest."""


def long_batches(lengths: Tensor, batch_size: int, most_cells: int) -> tuple[Tensor, list[int]]:
    """Batches of the sequences that are too long for a full batch.

    Args:
        lengths: `[sequence]`.
        batch_size: Sequences of a full batch.
        most_cells: Steps of a batch, padding included.

    Returns:
        `[sequence]` int64, at least the length, equal for sequences of similar lengths, 0 for
        those that are short enough: the batches are cut from any order in which it falls. And where
        in such an order each batch begins, and the last one ends.
    """
    limit = most_cells // batch_size
    long = lengths > limit
    # Similar lengths can change places: each epoch mixes them anew.
    step = (lengths.double() / (limit + 1)).clamp(min=1).log() / math.log1p(WIDTH)
    longest = ((step.long() + 1) * math.log1p(WIDTH)).exp() * (limit + 1)
    width = longest.long().clamp(max=int(lengths.max())).maximum(lengths).where(long, 0)
    widths = width[long].sort(descending=True).values.tolist()
    ends = [0]
    while ends[-1] < len(widths):
        ends.append(ends[-1] + max(most_cells // widths[ends[-1]], 1))
    ends[-1] = min(ends[-1], len(lengths))
    return width, ends
