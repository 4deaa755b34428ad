"""The label of each sequence, and columns that must say one thing for each sequence."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from unrolled.data.log import LogColumns
from unrolled.data.sequences import Booleans, Sequences
from unrolled.data.sql import literal, query_option, quoted
from unrolled.data.words import canonical
from unrolled.errors import UserError, did_you_mean

SPLITS = ("train", "val", "test")
_WORDS = {
    "split": dict(zip(SPLITS, SPLITS, strict=True)) | dict.fromkeys(
        ("dev", "valid", "validation"), "val"
    ),
    "label": dict.fromkeys(("0", "false", "f", "no", "n"), "0") | dict.fromkeys(
        ("1", "true", "t", "yes", "y"), "1"
    ),
}  # fmt: skip
"""The words of a column that says one thing of a sequence, and what they mean, in any case."""
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
        columns: The meaning of the columns.
        types: The event types that the log has.
        where: Name of the log in messages.

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
        UserError: When a label is neither 0 nor 1, nor a word of `_WORDS` for them.
    """
    if columns.label is None:
        return np.where(found.alive, found.targets, -1).astype(np.int8)
    said = one_word_each(found, columns, "label", columns.label, words["label"], ("0", "1"), where)
    return np.where(said == "", -1, said == "1").astype(np.int8)


def one_word_each(
    found: Sequences,
    columns: LogColumns,
    role: str,
    column: str,
    words: pa.Array,
    allowed: tuple[str, ...],
    where: str,
) -> npt.NDArray[np.str_]:
    """The word that each sequence has in a column that must be one a sequence; "" if left out.

    Args:
        found: The sequences.
        columns: The meaning of the columns.
        role: `label` or `split`.
        column: The column's name.
        words: Its values, in the order of their codes.
        allowed: Named in the message.
        where: Name of the log in messages.

    Raises:
        UserError: When a sequence has no such word, or two.
    """
    low, high = np.empty(len(found), np.int32), np.empty(len(found), np.int32)
    for piece in found.pieces():
        codes = found.read(role, piece)
        part = slice(piece.first, piece.last)
        low[part] = np.minimum.reduceat(np.where(codes < 0, _NONE, codes), piece.heads)
        high[part] = np.maximum.reduceat(codes, piece.heads)
    spellings = words.to_pylist()
    plain = canonical(words, "text").to_pylist()  # 1.0 and 1.00 are 1.
    meant = np.array([_WORDS[role].get(word.strip().lower(), "") for word in plain] + [""])
    said = np.where(found.alive & (low == high), meant[np.where(low == _NONE, -1, low)], "")
    odd: Booleans = found.alive & (said == "")
    if odd.any():
        where_odd = np.flatnonzero(odd)
        first = int(where_odd[np.argmin(found.first_row[where_odd])])
        least, most = low[first], high[first]
        shown = "no value" if most < 0 else " and ".join(
            dict.fromkeys(repr(spellings[code]) for code in (least, most))
        )  # fmt: skip
        then = ""
        if role == "label" and 0 <= most == least:
            then = "; a label answers a question by yes or no: "
            name, value = quoted(column), literal(spellings[most])
            query = f"SELECT * REPLACE ({name} = {value} AS {name}) FROM log"
            in_table = "has_label_row" in found.spool
            then += "write its answers there" if in_table else (
                f"ask one, for example with {query_option(query)}"
            )  # fmt: skip
        raise UserError(
            f"{where}: column '{column}' must be {', '.join(allowed[:-1])} or {allowed[-1]}, one "
            f"value a sequence; {len(where_odd):,} sequences are not so, for example "
            f"{columns.key} {found.id_of(first)} with {shown}{then}"
        )
    return said
