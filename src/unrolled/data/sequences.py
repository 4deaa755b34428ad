"""The sequences of an ordered log: where each begins and ends, and which of its events are kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from unrolled.data.spool import PIECE, Spool
from unrolled.data.words import ValueType

Integers: TypeAlias = npt.NDArray[np.int64]
Small: TypeAlias = npt.NDArray[Any]
"""int32 where the log has fewer than 2^31 events: half of the memory."""
Booleans: TypeAlias = npt.NDArray[np.bool_]


@dataclass
class Piece:
    """Whole sequences that are looked at together.

    Args:
        first: The first sequence.
        last: One past the last.
        start: The first event.
        stop: One past the last.
        heads: Where each sequence begins, counted from `start`.
        lengths: Events of each sequence as read, those that are left out among them.
    """

    first: int
    last: int
    start: int
    stop: int
    heads: Integers
    lengths: Integers


@dataclass
class Sequences:
    """The sequences of a log; arrays are `[sequence]` in canonical order.

    Args:
        spool: The events.
        bounds: `[sequence + 1]`: the events of sequence i are bounds[i] .. bounds[i + 1].
        keys: Index of the sequence's id in `spool.ids`.
        numbers: 1, 2, ... of a user's sessions; None where a sequence has an id of its own.
        keep: `[event]`: whether the event is part of the input.
        kept: Number of events kept.
        first_row: The least row of its events in the files.
        begins: Time of its first event, seconds; the first row where there is no time.
        ends: Time of its last event that is kept, of its target event or of the moment of asking;
            empty without a time.
        targets: Whether it has a target event.
        alive: Whether the sequence is kept.
        gap_unit: Seconds that count as one in the gap since the previous event.
        first_time: The earliest time of all events that were read, seconds.
        last_time: The latest one.
        copies: Events that are exact copies of an earlier one, whether kept or not.
        backward: How often the time goes back from an event to the next.
        dropped: What was left out so far, and how much of it.
    """

    spool: Spool
    bounds: Integers
    keys: Small
    numbers: Small | None
    keep: Booleans
    kept: Small
    first_row: Small
    begins: npt.NDArray[np.float64]
    ends: npt.NDArray[np.float64]
    targets: Booleans
    alive: Booleans
    gap_unit: float = 1.0
    first_time: float = np.inf
    last_time: float = -np.inf
    copies: int = 0
    backward: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def pieces(self) -> Iterator[Piece]:
        """All sequences, in pieces of about `PIECE` events."""
        first = 0
        while first < len(self):
            limit = self.bounds[first] + PIECE
            last = max(first + 1, int(np.searchsorted(self.bounds, limit, "right")) - 1)
            last = min(last, len(self))
            start, stop = int(self.bounds[first]), int(self.bounds[last])
            bounds = self.bounds[first : last + 1]
            yield Piece(first, last, start, stop, bounds[:-1] - start, np.diff(bounds))
            first = last

    def read(self, name: str, piece: Piece) -> npt.NDArray[Any]:
        """A column's events of a piece."""
        return self.spool.read(name, piece.start, piece.stop)

    def kept_in(self, piece: Piece) -> Booleans:
        """Which events of a piece are kept."""
        return self.keep[piece.start : piece.stop]

    def forget_order(self) -> None:
        """Free what only the split and the order of the sequences needed."""
        self.first_row = self.begins = self.ends = np.empty(0)

    def count(self) -> None:
        """Count the events that are kept."""
        for piece in self.pieces():
            self.kept[piece.first : piece.last] = np.add.reduceat(
                self.kept_in(piece), piece.heads, dtype=np.int64
            )

    def drop_short(self, min_length: int) -> None:
        """Leave out sequences of fewer events than `min_length`."""
        self.count()
        short = self.alive & (self.kept < min_length)
        self.alive &= ~short
        what = f"sequences with fewer than min_length={min_length} events"
        self.drop(what, int(short.sum()))
        if not short.any():
            return
        for piece in self.pieces():
            alive = self.alive[piece.first : piece.last]
            self.kept_in(piece)[...] &= np.repeat(alive, piece.lengths)
        self.kept[short] = 0

    def drop(self, what: str, number: int) -> None:
        """Add to the account."""
        self.dropped[what] = self.dropped.get(what, 0) + number

    def longest(self) -> tuple[str, int]:
        """The id of the sequence with the most events as read, and their number."""
        events = np.diff(self.bounds)
        most = int(events.argmax())
        return self.id_of(most), int(events[most])

    def largest(self) -> tuple[str, int]:
        """The id in the log (of sessions the user's) with the most events, and their number."""
        first = np.flatnonzero(np.diff(self.keys, prepend=-1))
        events = np.diff(self.bounds[np.append(first, len(self))])
        most = int(events.argmax())
        return str(self.spool.ids[int(self.keys[first[most]])].as_py()), int(events[most])

    def id_of(self, sequence: int) -> str:
        """What a sequence is called."""
        return str(self.ids(np.array([sequence]))[0].as_py())

    def ids(self, sequences: Integers) -> pa.Array:
        """The ids of sequences: the log's own, or `<user>/<1, 2, ...>` of sessions."""
        # In pieces: of many sessions the texts that are joined would take more than the result.
        starts = range(0, max(len(sequences), 1), PIECE)
        return pa.concat_arrays([self._ids(sequences[s : s + PIECE]) for s in starts])

    def _ids(self, sequences: Integers) -> pa.Array:
        keys = self.spool.ids.take(pa.array(self.keys[sequences]))
        keys = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
        if self.numbers is not None:
            numbers = pa.array(self.numbers[sequences]).cast(pa.large_string())
            keys = pc.binary_join_element_wise(
                keys.cast(pa.large_string()), numbers, pa.scalar("/", pa.large_string())
            )
        return keys.cast(pa.large_string()) if pa.types.is_string(keys.type) else keys


def session_columns(ids: pa.Array, user: str, kind: ValueType) -> pa.Table:
    """The ids of sessions, `<user>/<1, 2, ...>`, as a column of users and one of numbers.

    Args:
        ids: The ids.
        user: The name of the column of users.
        kind: The type of the log's users.
    """
    parts = pc.split_pattern(ids, "/", max_splits=1, reverse=True)
    users, numbers = pc.list_element(parts, 0), pc.list_element(parts, 1)
    if kind == "integer":
        # Beyond 64 bits, and in new events of another type, they stay text.
        with suppress(pa.ArrowInvalid):
            users = users.cast(pa.int64())
    session = "session" if user != "session" else "session_number"
    return pa.table({user: users, session: numbers.cast(pa.int64())})
