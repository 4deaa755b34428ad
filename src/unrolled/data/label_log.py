"""The label and the split of each sequence, and what can be wrong with them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from unrolled.data.log import LogColumns
from unrolled.data.sequences import Booleans, Integers, Sequences
from unrolled.data.words import as_text
from unrolled.errors import UserError, did_you_mean

SPLITS = ("train", "val", "test")
_WORDS = {
    "split": dict(zip(SPLITS, SPLITS, strict=True)) | dict.fromkeys(
        ("dev", "valid", "validation"), "val"
    ),
    "label": {"0": "0", "1": "1", "0.0": "0", "1.0": "1", "false": "0", "true": "1"},
}  # fmt: skip
_NONE = np.iinfo(np.int32).max

Bytes = npt.NDArray[np.int8]


def check_label_rows(found: Sequences, columns: LogColumns, where: str) -> None:
    """Every sequence that is kept needs its row in the label table.

    Raises:
        UserError: When some have none.
    """
    has = np.empty(len(found), np.bool_)
    for piece in found.pieces():
        rows = found.read("has_label_row", piece)
        has[piece.first : piece.last] = rows[piece.heads]
    missing = np.flatnonzero(found.alive & ~has)
    if len(missing):
        raise UserError(
            f"{where}: {len(missing):,} sequences of the log have no row here, "
            f"for example {columns.key} {found.id_of(missing[0])}"
        )


def check_target(found: Sequences, columns: LogColumns, types: pa.Array, where: str) -> None:
    """A log that is trained on has the target event.

    Args:
        found: The sequences.
        columns: What the columns mean.
        types: The event types that the log has.
        where: What messages call the log.

    Raises:
        UserError: When it has none.
    """
    if not found.targets.any():
        target = str(columns.target_event)
        raise UserError(
            f"{where}: no event of type '{target}' (data.source.target_event) in column "
            f"'{columns.event_type}'; {did_you_mean(target, types.to_pylist())}"
        )


def labels(
    found: Sequences, columns: LogColumns, words: Mapping[str, pa.Array], where: str
) -> Bytes:
    """The label of each sequence, `[sequence]`; -1 where it is left out.

    Raises:
        UserError: When a label is neither 0 nor 1.
    """
    if columns.label is None:
        return np.where(found.alive, found.targets, -1).astype(np.int8)
    said = _words(found, columns, "label", columns.label, words["label"], ("0", "1"), where)
    return np.where(said == "", -1, said == "1").astype(np.int8)


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
        said = _words(found, columns, "split", columns.split, words["split"], SPLITS, where)
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
        test_from = found.ends.max() - 86_400 * columns.test_days
        split[alive] = 2 * (found.ends[alive] > test_from)
        train = by_time[split[by_time] == 0]
        if columns.val_days is not None:
            val_from = test_from - 86_400 * columns.val_days
            split[train[found.ends[train] > val_from]] = 1
        else:
            split[train[_first_from(len(train), 1 - columns.val_fraction, after=True) :]] = 1
    else:
        val_from = 1 - columns.val_fraction - columns.test_fraction
        split[alive] = 0
        split[by_time[_first_from(len(by_time), val_from) :]] = 1
        split[by_time[_first_from(len(by_time), 1 - columns.test_fraction) :]] = 2
    return split, by_time


def _in_order_of_time(found: Sequences, sequences: Integers) -> Integers:
    """By the first event, those that begin at the same time by the row."""
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


def check_splits(split: Bytes, label: Bytes | None, columns: LogColumns, where: str) -> None:
    """Refuse splits without a sequence, and labels of one class.

    Raises:
        UserError: With everything that was found.
    """
    name = f"column '{columns.label}'" if columns.label else f"event '{columns.target_event}'"
    problems = []
    for index, word in enumerate(SPLITS):
        inside = split == index
        total = int(inside.sum())
        if total == 0 and not _may_be_empty(columns, word):
            problems.append(f"{where}: the split '{word}' has no sequence")
        elif total and label is not None and (positive := int(label[inside].sum())) in (0, total):
            problems.append(
                f"{where}: the split '{word}' has one class only: all of its {total:,} sequences "
                f"have label {positive // total} ({name}); there is nothing to learn or to judge"
            )
    if problems:
        raise UserError(*problems)


def _may_be_empty(columns: LogColumns, split: str) -> bool:
    if split == "val":
        return columns.val_fraction == 0 and columns.val_days is None
    in_fractions = columns.split is None and columns.test_days is None
    return split == "test" and in_fractions and columns.test_fraction == 0


def _words(
    found: Sequences,
    columns: LogColumns,
    role: str,
    column: str,
    words: pa.Array,
    allowed: tuple[str, ...],
    where: str,
) -> npt.NDArray[np.str_]:
    """The word that each sequence has in a column that must be one a sequence; "" if left out."""
    low, high = np.empty(len(found), np.int32), np.empty(len(found), np.int32)
    for piece in found.pieces():
        codes = found.read(role, piece)
        part = slice(piece.first, piece.last)
        low[part] = np.minimum.reduceat(np.where(codes < 0, _NONE, codes), piece.heads)
        high[part] = np.maximum.reduceat(codes, piece.heads)
    spellings = words.to_pylist()
    meant = np.array([_WORDS[role].get(word.lower(), "") for word in spellings] + [""])
    said = np.where(found.alive & (low == high), meant[np.where(low == _NONE, -1, low)], "")
    odd: Booleans = found.alive & (said == "")
    if odd.any():
        where_odd = np.flatnonzero(odd)
        first = int(where_odd[np.argmin(found.first_row[where_odd])])
        least, most = low[first], high[first]
        shown = "no value" if most < 0 else " and ".join(
            dict.fromkeys(repr(spellings[code]) for code in (least, most))
        )  # fmt: skip
        raise UserError(
            f"{where}: column '{column}' must be {', '.join(allowed[:-1])} or {allowed[-1]}, one "
            f"value a sequence; {len(where_odd):,} sequences are not so, for example "
            f"{columns.key} {found.id_of(first)} with {shown}"
        )
    return said
