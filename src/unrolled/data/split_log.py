"""Which sequences train, validate and test."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from unrolled.data.label_log import SPLITS, Bytes, one_word_each
from unrolled.data.log import LogColumns
from unrolled.data.sequences import Integers, Sequences
from unrolled.data.words import as_text

_DAY = 86_400


def splits(
    found: Sequences, columns: LogColumns, words: Mapping[str, pa.Array], where: str
) -> tuple[Bytes, Integers]:
    """The split of each sequence, an index of `SPLITS` or -1; and the sequences in store order.

    Raises:
        UserError: When the column of the splits says something else.
    """
    alive = np.flatnonzero(found.alive)
    split = np.full(len(found), -1, np.int8)
    by_time = _in_order_of_time(found, alive)
    if columns.split is not None:
        said = one_word_each(found, columns, "split", columns.split, words["split"], SPLITS, where)
        for index, word in enumerate(SPLITS):
            split[said == word] = index
        if not (split == 1).any():
            train = by_time[split[by_time] == 0]
            split[train[_first_from(len(train), 1 - columns.val_fraction, after=True) :]] = 1
        return split, alive[np.argsort(found.first_row[alive])]
    if columns.split_by == "user":
        where_on_circle = _hash_places(found, alive)
        split[alive] = 0
        split[alive[where_on_circle < columns.test_fraction + columns.val_fraction]] = 1
        split[alive[where_on_circle < columns.test_fraction]] = 2
    elif columns.test_days is not None:
        val_from, test_from = days_begin(found, columns)
        split[alive] = 2 * (found.ends[alive] >= test_from)
        train = by_time[split[by_time] == 0]
        if val_from is not None:
            split[train[found.ends[train] >= val_from]] = 1
        else:
            split[train[_first_from(len(train), 1 - columns.val_fraction, after=True) :]] = 1
    else:
        val_from = 1 - columns.val_fraction - columns.test_fraction
        split[alive] = 0
        split[by_time[_first_from(len(by_time), val_from) :]] = 1
        split[by_time[_first_from(len(by_time), 1 - columns.test_fraction) :]] = 2
    return split, by_time


def days_begin(found: Sequences, columns: LogColumns) -> tuple[float | None, float]:
    """When the days of validation and test begin, seconds since 1970; None without `val_days`.

    A sequence belongs to them when it ends at that time or later, as in GRU4Rec's preparation of
    RSC15. They are counted back from the last event of the sequences that the filters keep; where
    all sequences end at midnight, times are dates, and from the end of the last one.
    """
    assert columns.test_days is not None
    ends = found.ends[found.alive]
    last = float(ends.max()) + (_DAY if not (ends % _DAY).any() else 0)
    test_from = last - _DAY * columns.test_days
    if columns.val_days is None:
        return None, test_from
    return test_from - _DAY * columns.val_days, test_from


def _in_order_of_time(found: Sequences, sequences: Integers) -> Integers:
    """Order of the sequences by their first event; equal times are ordered by the row."""
    order = sequences[np.argsort(found.begins[sequences])]
    begins = found.begins[order]
    same = begins[1:] == begins[:-1]
    # Sorting by two keys takes five times as long, and only those of equal time need it.
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    among = np.lexsort((found.first_row[order[tied]], begins[tied]))
    order[tied] = order[tied][among]
    return order


def _first_from(count: int, share: float, *, after: bool = False) -> int:
    """The first of `count` in a row whose middle stands at or after a share of the way."""
    if count == 0:
        return 0
    near = np.arange(max(int(share * count) - 3, 0), min(int(share * count) + 3, count))
    places = (near + 0.5) / count
    found = near[places > share if after else places >= share]
    return int(found[0]) if len(found) else count


def _hash_places(found: Sequences, sequences: Integers) -> npt.NDArray[np.float64]:
    """A number from 0 to 1 for each sequence that depends on its user's name alone."""
    keys, index = np.unique(found.keys[sequences], return_inverse=True)
    names = as_text(found.spool.ids.take(pa.array(keys)))
    _, offsets_buffer, data = names.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64, len(names) + 1, 8 * names.offset)
    text = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    text = text[offsets[0] : offsets[-1]].astype(np.uint64) + np.uint64(1)
    lengths = np.diff(offsets)
    # A polynomial in the bytes modulo 2^64, then the finaliser of SplitMix64 (Steele et al. 2014).
    powers = np.cumprod(np.full(int(lengths.max()) + 1, 0x9E3779B97F4A7C15, np.uint64))
    within = np.arange(len(text)) - np.repeat(offsets[:-1] - offsets[0], lengths)
    sums = np.zeros(len(text) + 1, np.uint64)
    np.cumsum(text * powers[within], out=sums[1:])
    mixed = np.diff(sums[offsets - offsets[0]])
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    places: npt.NDArray[np.float64] = ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) / 2**53
    return places[index]
