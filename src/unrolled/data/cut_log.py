"""From ordered events to sequences: sessions, their end before the target, what is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from unrolled.data.log import LogColumns
from unrolled.data.sequences import Booleans, Integers, Piece, Sequences, Small
from unrolled.data.spool import Spool
from unrolled.errors import UserError

_NEVER = np.iinfo(np.int64).max


def cut_sequences(spool: Spool, columns: LogColumns, where: str) -> Sequences:
    """Cut sessions, cut before the target, apply what stands before the split in `log`.

    Raises:
        UserError: When the time goes back, duplicates are refused, or nothing is left.
    """
    gap = None if columns.session_gap is None else 60 * columns.session_gap
    found = _begin(spool, gap, timed=columns.time is not None)
    found.gap_unit = columns.gap_unit
    for piece in found.pieces():
        _measure(found, columns, piece, where)
    found.drop_short(columns.min_length)
    if columns.min_support > 1:
        _drop_rare(found, columns)
        found.drop_short(columns.min_length)
    if columns.max_length is not None:
        _drop_early(found, columns.max_length)
    if not found.alive.any():
        filters = [f"min_length={columns.min_length}"]
        filters += [f"min_support={columns.min_support}"] if columns.min_support > 1 else []
        raise UserError(
            f"{where}: no sequence is left of {len(found):,} after {' and '.join(filters)}"
            + (f" and the cut before '{columns.target_event}'" if columns.target_event else "")
            + (f" and the cut at '{columns.asked_at}'" if columns.asked_at else "")
        )
    return found


def _begin(spool: Spool, gap_seconds: float | None, *, timed: bool) -> Sequences:
    heads, keys, before = [], [], -np.inf
    users = 0
    # Half of the memory, in all but the largest of logs.
    small: type[np.signedinteger[Any]] = np.int32 if spool.events < 2**31 else np.int64
    for start, stop in spool.plain_pieces():
        new = spool.read("new_key", start, stop)
        owner = users - 1 + np.cumsum(new)
        users += int(new.sum())
        if gap_seconds is not None:
            time = spool.read("time", start, stop)
            new = new | (np.diff(time, prepend=before) > gap_seconds)
            before = time[-1]
        at = np.flatnonzero(new)
        heads.append(at + start)
        keys.append(owner[at].astype(small))
    bounds = np.concatenate([*heads, [spool.events]]).astype(np.int64)
    key = np.concatenate(keys)
    count = len(key)
    numbers: Small | None = None
    if gap_seconds is not None:
        first = np.flatnonzero(np.diff(key, prepend=-1))
        numbers = np.arange(1, count + 1, dtype=small)
        numbers -= np.repeat(first.astype(small), np.diff(first, append=count))
    return Sequences(
        spool, bounds, key, numbers,
        keep=np.ones(spool.events, np.bool_),
        kept=np.zeros(count, small),
        first_row=np.empty(count, small),
        begins=np.empty(count),
        ends=np.empty(count if timed else 0),
        targets=np.zeros(count, np.bool_),
        alive=np.ones(count, np.bool_),
    )  # fmt: skip


def _measure(found: Sequences, columns: LogColumns, piece: Piece, where: str) -> None:
    """What is known of each sequence, and its end before the target."""
    part = slice(piece.first, piece.last)
    found.first_row[part] = np.minimum.reduceat(found.read("row", piece), piece.heads)
    found.begins[part] = found.first_row[part]
    if columns.time is not None:
        time = found.read("time", piece)
        found.begins[part] = np.minimum.reduceat(time, piece.heads)
        found.ends[part] = np.maximum.reduceat(time, piece.heads)
        found.first_time = min(found.first_time, float(found.begins[part].min()))
        found.last_time = max(found.last_time, float(time.max()))
        if columns.own_order is not None:
            _check_forward(found, columns, piece, time, where)
    if "same_order" in found.spool:
        _look_for_copies(found, columns, piece, where)
    if columns.asked_at is not None:
        _end_at_moment(found, columns, piece, where)
    if columns.target_event is None:
        return
    events = np.arange(piece.stop - piece.start)
    is_target = found.read("is_target", piece)
    first = np.minimum.reduceat(np.where(is_target, events, _NEVER), piece.heads)
    has = first != _NEVER
    # By the order itself, not by the position: an event at the very time of the target may be part
    # of it (a payment), whichever stands first in the file.
    ties = np.maximum.accumulate(np.where(found.read("same_order", piece), 0, events))
    end = np.where(has, ties[np.where(has, first, 0)], _NEVER)
    keep, before = found.kept_in(piece), int(found.kept_in(piece).sum())
    keep &= events < np.repeat(end, piece.lengths)
    if columns.time is not None:
        # The answer is known at the first target: the sequence ends there, not at its last input.
        until = keep.copy()
        until[first[has]] = True
        _find_ends(found, piece, until)
    found.targets[part] = has
    found.drop(f"events at or after the first '{columns.target_event}'", before - int(keep.sum()))


def _end_at_moment(found: Sequences, columns: LogColumns, piece: Piece, where: str) -> None:
    """Leave out what happens at or after the moment of asking, with which the sequence ends.

    Raises:
        UserError: When the events of a sequence name two moments.
    """
    asked = found.read("asked_time", piece)
    first = asked[piece.heads]
    # Of a sequence that the label table lacks it is NaN; `check_label_rows` tells.
    differ = np.flatnonzero(np.abs(asked - np.repeat(first, piece.lengths)) > 0)
    if len(differ):
        owner = np.searchsorted(piece.heads, differ, "right") - 1
        raise UserError(
            f"{where}: column '{columns.asked_at}' must be one value a sequence "
            f"(data.source.asked_at); {len(np.unique(owner)):,} sequences or more have several, "
            f"for example {columns.key} {found.id_of(piece.first + int(owner[0]))}"
        )
    keep = found.kept_in(piece)
    out = keep & (found.read("time", piece) >= asked)
    keep &= ~out
    found.ends[piece.first : piece.last] = first
    found.drop(f"events at or after the moment of asking, '{columns.asked_at}'", int(out.sum()))


def _find_ends(found: Sequences, piece: Piece, until: Booleans) -> None:
    """When each sequence ends: the time of the last of its events `until`, `[event]`."""
    time = np.where(until, found.read("time", piece), -np.inf)
    found.ends[piece.first : piece.last] = np.maximum.reduceat(time, piece.heads)


def _check_forward(
    found: Sequences,
    columns: LogColumns,
    piece: Piece,
    time: npt.NDArray[np.float64],
    where: str,
) -> None:
    steps = np.diff(time, prepend=time[:1])
    steps[piece.heads] = 0
    back = np.flatnonzero(steps < 0)
    found.backward += len(back)
    if len(back) and (columns.gap or columns.session_gap is not None):
        sequence = piece.first + int(np.searchsorted(piece.heads, back[0], "right")) - 1
        raise UserError(
            f"{where}: ordered by '{columns.order}', the time '{columns.time}' goes back "
            f"{len(back):,} times, for example in sequence {found.id_of(sequence)}; "
            "set data.source.order to the time column"
        )


def _drop_rare(found: Sequences, columns: LogColumns) -> None:
    """Leave out events of items with fewer than `min_support` events; one without item stays."""
    counts = np.zeros(1, np.int64)
    for piece in found.pieces():
        codes = found.read("category_0", piece)
        counts = _add_counts(counts, codes[found.kept_in(piece)], int(codes.max()) + 2)
    rare = counts < columns.min_support
    rare[0] = False
    dropped = 0
    for piece in found.pieces():
        out = rare[found.read("category_0", piece) + 1] & found.kept_in(piece)
        found.kept_in(piece)[...] &= ~out
        dropped += int(out.sum())
        if len(found.ends) and columns.asked_at is None and out.any():
            part = slice(piece.first, piece.last)
            before = found.ends[part].copy()
            _find_ends(found, piece, found.kept_in(piece))
            found.ends[part] = np.where(found.targets[part], before, found.ends[part])
    what = f"events of items with fewer than min_support={columns.min_support} events"
    found.drop(what, dropped)


def _add_counts(counts: Integers, codes: npt.NDArray[np.int32], size: int) -> Integers:
    """`counts[code + 1]`, of at least `size`, with some more codes; -1 is no value."""
    more = np.bincount(codes + 1, minlength=max(len(counts), size))
    more[: len(counts)] += counts
    return more


def _drop_early(found: Sequences, max_length: int) -> None:
    """Keep the last `max_length` events of each sequence."""
    dropped = 0
    for piece in found.pieces():
        keep = found.kept_in(piece)
        done = np.cumsum(keep)
        total = np.add.reduceat(keep, piece.heads, dtype=np.int64)
        # The kept events up to the end of the sequence, less those up to here: how many follow.
        follow = np.repeat(np.cumsum(total), piece.lengths) - done
        out = keep & (follow >= max_length)
        keep &= ~out
        dropped += int(out.sum())
    found.drop(f"events before the last max_length={max_length}", dropped)
    found.count()


def _look_for_copies(found: Sequences, columns: LogColumns, piece: Piece, where: str) -> None:
    """Count exact copies of an event, and do with them what `duplicates` says."""
    same = found.read("same_order", piece)
    # Only events that are equal in order to a neighbour can be copies.
    near = np.flatnonzero(same | np.append(same[1:], False))
    if not len(near):
        return
    names = [n for n in found.spool.dtypes if n.startswith(("category_", "number_", "type"))]
    names += ["time"] if columns.own_order is not None and "time" in found.spool else []
    values = [found.read(name, piece)[near] for name in names]
    # NaN, a missing number, is equal to itself here.
    keys = [np.cumsum(~same)[near], *(_bits(v) for v in values)]
    order = np.lexsort((near, *keys))
    equal = np.ones(len(near) - 1, np.bool_)
    for key in keys:
        equal &= key[order[1:]] == key[order[:-1]]
    copies = np.sort(near[order[1:][equal]])
    if not len(copies):
        return
    found.copies += len(copies)
    if columns.duplicates == "error":
        sequence = piece.first + int(np.searchsorted(piece.heads, copies[0], "right")) - 1
        row = int(found.read("row", piece)[copies[0]]) + 1
        raise UserError(
            f"{where}: {len(copies):,} events or more are exact copies of another in all columns "
            f"that are used, for example row {row:,}, of sequence {found.id_of(sequence)}; "
            "data.source.duplicates=drop drops them"
        )
    if columns.duplicates == "drop":
        found.kept_in(piece)[copies] = False
        found.drop("exact copies of an event", len(copies))


def _bits(values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    return values.view(np.int64) if values.dtype == np.float64 else values
