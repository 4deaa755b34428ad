"""Sequences that hardly mean what was wanted: one far too long, events sorted by their item."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from unrolled.data.log import LogColumns
from unrolled.data.sequences import Integers, Piece, Sequences
from unrolled.data.sql import quoted

LONG = 2048
"""Shorter sequences are nothing special."""
FAR_LONGER = 50
"""A sequence that is longer than this many times the mean length is reported."""
LEAST_PAIRS = 100
"""Pairs of neighbours of one time and two items, below which nothing is said."""
LEAST_SHARE = 0.05
"""Share of all pairs of neighbours that these must be."""
SORTED = 0.9
"""Share of them that rises (or falls) from which they are called sorted; of baskets in the order of
the till it is about a half."""


def far_longer(found: Sequences, columns: LogColumns) -> list[str]:
    """A message where the longest sequence that is kept is far longer than the mean."""
    longest = int(found.kept.argmax())
    events, mean = int(found.kept[longest]), float(found.kept[found.alive].mean())
    if events < LONG or events < FAR_LONGER * mean:
        return []
    return [
        f"{columns.key} {found.id_of(longest)!r} has {events:,} events, the mean is {mean:,.1f}: "
        "perhaps no visitor but a program, or several in one. data.source.max_length=N keeps the "
        "last N events of each sequence; data.batching=bucketed pads a sequence to others of its "
        "length only"
    ]


def sorted_ties(found: Sequences, columns: LogColumns, words: pa.Array) -> list[str]:
    """A message where events of one time are sorted by their item; at most one.

    Args:
        found: The sequences.
        columns: The meaning of the columns; one is the item.
        words: The items in the order of their codes, as text.
    """
    tied = pairs = 0
    for piece in found.pieces():
        pairs += max(int(found.kept_in(piece).sum()) - len(piece.heads), 0)
        tied += len(_tied(found, piece))
    if tied < LEAST_PAIRS or tied < LEAST_SHARE * pairs:
        return []
    orders = _orders(words)
    rising = np.zeros(len(orders), np.int64)
    differ = 0
    for piece in found.pieces():
        second = _tied(found, piece)
        codes = found.read("category_0", piece)
        before, after = codes[second - 1], codes[second]
        known = (before != after) & (before >= 0) & (after >= 0)
        before, after = before[known], after[known]
        differ += len(before)
        rising += [int((rank[after] > rank[before]).sum()) for rank in orders]
    most = float(np.maximum(rising, differ - rising).max()) / max(differ, 1)
    if differ < max(LEAST_PAIRS, LEAST_SHARE * pairs) or most < SORTED:
        return []
    at = columns.order or columns.time
    assert at is not None
    mixed = ", ".join(quoted(name) for name in (columns.key, at))
    return [
        f"{differ:,} of {pairs:,} pairs of neighbouring events have the same "
        f"'{at}', and in {most:.1%} of them '{columns.item}' is sorted: "
        "that is the order of the file, not of what happened, and task=next_item would learn it. "
        "Give data.source.order a column with the true order; where there is none, mix them: "
        f"data.source.query with ORDER BY {mixed}, hash({mixed}, {quoted(str(columns.item))})"
    ]


def _tied(found: Sequences, piece: Piece) -> Integers:
    """The second event of each pair of neighbours that are kept and equal in order."""
    keep = found.kept_in(piece)
    same = found.read("same_order", piece) & keep
    same[1:] &= keep[:-1]
    same[piece.heads] = False
    return np.flatnonzero(same)


def _orders(words: pa.Array) -> list[npt.NDArray[np.int64]]:
    """The rank of each word as text and, where all are numbers, as a number."""
    kinds = [words]
    with suppress(pa.ArrowInvalid):
        kinds.append(words.cast(pa.float64()))
    return [pc.rank(kind, tiebreaker="dense").to_numpy().astype(np.int64) for kind in kinds]
