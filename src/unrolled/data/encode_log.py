"""Features from values: vocabularies and statistics of the training sequences, and their use.

All arithmetic on numbers is here, in the canonical order of the events, so that a store does not
depend on the engine that read the log nor on how many threads it had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from unrolled.data.log import LogColumns
from unrolled.data.schema import UNKNOWN_ID
from unrolled.data.sequences import Booleans, Integers, Piece, Sequences
from unrolled.data.words import ValueType, matches
from unrolled.errors import UserError

Numbers = npt.NDArray[np.float64]
Statistics = dict[str, Any]

QUANTILES = 1000
QUANTILE_VALUES = 10_000_000
"""Training values that quantiles are taken of at most, evenly spaced over the log."""

HOURS = pa.array(sorted(str(hour) for hour in range(168)), pa.large_string())
_HOUR_CODES = np.argsort(np.argsort([str(hour) for hour in range(168)])).astype(np.int32)
_FIRST_WALL_CLOCK = 1e8  # 1973: less counts from somewhere else than 1970.


def code_columns(columns: LogColumns) -> dict[str, str]:
    """The spool's column of each categorical feature."""
    found = {name: f"category_{index}" for index, name in enumerate(columns.categories)}
    return {**found, "hour_of_week": "hour_of_week"} if columns.hour_of_week else found


def number_columns(columns: LogColumns) -> dict[str, str]:
    """The spool's column of each numeric feature."""
    found = {name: f"number_{index}" for index, name in enumerate(columns.numeric)}
    found |= {"gap": "gap"} if columns.gap else {}
    return found | ({"age": "age"} if columns.asked_at is not None else {})


def codes(found: Sequences, column: str, piece: Piece) -> npt.NDArray[np.int32]:
    """The codes of a categorical column, -1 for none, `[event]` of a piece."""
    if column != "hour_of_week":
        return found.read(column, piece)
    # 1970 began on a Thursday.
    hours = (found.read("time", piece) // 3600).astype(np.int64) + 72
    return _HOUR_CODES[hours % 168]


def numbers(found: Sequences, column: str, transform: str, piece: Piece) -> Numbers:
    """The values of a numeric column under their log, NaN for none, `[event]` of a piece."""
    if column == "gap":
        time = found.read("time", piece)
        values = np.diff(time, prepend=time[:1])
        # Since the previous event of the whole sequence, also where that is left out.
        values[piece.heads] = 0
        values /= found.gap_unit
    elif column == "age":
        # Events after the moment are left out; they are read here nevertheless.
        age = found.read("asked_time", piece) - found.read("time", piece)
        values = np.maximum(age, 0) / found.gap_unit
    else:
        values = found.read(column, piece)
    return np.log(1 + values) if transform == "log" else values


def check_wall_clock(found: Sequences, columns: LogColumns, where: str) -> None:
    """Hours of the week need a time that counts from 1970.

    Raises:
        UserError: When it does not.
    """
    first = float(found.begins[found.alive].min())
    if columns.hour_of_week and first < _FIRST_WALL_CLOCK:
        raise UserError(
            f"{where}: hour_of_week needs a time of day; column '{columns.time}' begins at "
            f"{first:g} seconds, which is no time since 1970"
        )


def count_codes(found: Sequences, column: str, size: int, split: npt.NDArray[np.int8]) -> Integers:
    """How often each code stands in each split, `[3, size]`, and at last no value."""
    counts = np.zeros((3, size + 1), np.int64)
    for piece in found.pieces():
        owner = np.repeat(split[piece.first : piece.last], piece.lengths)
        keep = found.kept_in(piece) & (owner >= 0)
        values = codes(found, column, piece)[keep].astype(np.int64)
        values[values < 0] = size
        cells = values + (size + 1) * owner[keep].astype(np.int64)
        counts += np.bincount(cells, minlength=counts.size).reshape(counts.shape)
    return counts


def vocabulary(words: pa.Array, counts: Integers, column: str, where: str) -> pa.Table:
    """`value, id, count`, ids by falling count, then by value.

    Args:
        words: The text of each code, in order.
        counts: How often training has each code, `[code]`.
        column: Its name.
        where: The log.

    Raises:
        UserError: When training has no value.
    """
    seen = np.flatnonzero(counts)
    if not len(seen):
        raise UserError(f"{where}: column '{column}' has no value in the training sequences")
    order = seen[np.argsort(-counts[seen], kind="stable")]
    ids = np.arange(len(order), dtype=np.int32) + UNKNOWN_ID + 1
    return pa.table({"value": words.take(pa.array(order)).cast(pa.string()), "id": ids,
                     "count": counts[order]})  # fmt: skip


def ids_of_codes(
    words: pa.Array, kind: ValueType, values: pa.Array, trained: ValueType
) -> npt.NDArray[np.int32]:
    """The id of each code; the last, which is code -1, is the unknown id.

    Args:
        words: The text of each code, in order.
        kind: The type of the values in the log.
        values: The words of the vocabulary.
        trained: The type of the values that it was made of.
    """
    at = matches(words, kind, values, trained)
    ids = at.fill_null(-1).to_numpy().astype(np.int32) + UNKNOWN_ID + 1
    # What is not in the vocabulary has become index -1, and so id 1.
    return np.append(ids, np.int32(UNKNOWN_ID))


def statistics(
    found: Sequences, name: str, column: str, transform: str, train: Booleans, where: str
) -> Statistics:
    """What scales a numeric feature, of the training sequences alone.

    Returns:
        `mean` and `std`, or `quantiles`; and how many events have no value, `missing`.

    Raises:
        UserError: When there is no value, or none that can be scaled.
    """

    def values(piece: Piece) -> Numbers:
        keep = found.kept_in(piece) & np.repeat(train[piece.first : piece.last], piece.lengths)
        read = numbers(found, column, transform, piece)[keep]
        return read[~np.isnan(read)]

    pieces = list(found.pieces())
    with np.errstate(over="ignore", invalid="ignore"):
        sums = [(len(v), float(v.sum())) for v in map(values, pieces)]
        count = sum(n for n, _ in sums)
        if count == 0:
            raise UserError(f"{where}: column '{name}' has no value in the training sequences")
        missing = {"missing": int(found.kept[train].sum()) - count}
        if transform == "quantile":
            return {"quantiles": _quantiles(values, pieces, count), **missing}
        mean = sum(total for _, total in sums) / count
        squares = sum(float(((values(piece) - mean) ** 2).sum()) for piece in pieces)
    deviation = float(np.sqrt(squares / count))
    if not (np.isfinite(mean) and np.isfinite(deviation)):
        raise UserError(f"{where}: column '{name}' has values too large to be standardised")
    # A constant column becomes 0 everywhere rather than a division by zero.
    return {"mean": mean, "std": deviation or 1.0, **missing}


def _quantiles(values: Callable[[Piece], Numbers], pieces: list[Piece], count: int) -> list[float]:
    every = -(-count // QUANTILE_VALUES)
    taken, before = [], 0
    for piece in pieces:
        read = values(piece)
        taken.append(read[-before % every :: every])
        before += len(read)
    shares = np.linspace(0, 1, QUANTILES + 1)
    found: list[float] = np.quantile(np.concatenate(taken), shares).tolist()
    return found


def scaled(values: Numbers, statistics: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """Values as the model sees them; a missing one becomes 0, the training mean or median."""
    if "quantiles" in statistics:
        knots = np.array(statistics["quantiles"])
        shares = np.linspace(0, 1, len(knots))
        # From both sides, so that a value that fills many quantiles gets their middle.
        rank = np.interp(values, knots, shares) - np.interp(-values, -knots[::-1], -shares[::-1])
        result = (rank / 2 - 0.5) * np.sqrt(12)
    else:
        result = (values - statistics["mean"]) / statistics["std"]
    return np.where(np.isnan(result), 0, result).astype(np.float32)


def encode_codes(
    found: Sequences, column: str, ids: npt.NDArray[np.int32], piece: Piece
) -> npt.NDArray[np.int32]:
    """The ids of a categorical feature, `[event]` of a piece."""
    encoded: npt.NDArray[np.int32] = ids[codes(found, column, piece)]
    return encoded


def encode_numbers(
    found: Sequences, column: str, transform: str, statistics: Mapping[str, Any], piece: Piece
) -> npt.NDArray[np.float32]:
    """The scaled values of a numeric feature, `[event]` of a piece."""
    return scaled(numbers(found, column, transform, piece), statistics)
