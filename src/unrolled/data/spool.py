"""The ordered stream of events as plain files, a column each, so that no log has to fit in memory.

Every pass over the events reads pieces of the columns that it needs. Pieces end where sequences
end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

PIECE = 1 << 20
"""Events that a pass looks at together, or one sequence where that is longer."""

_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


class Spool:
    """The columns of the ordered events in files.

    Columns: `new_key` (1 where a sequence, or a user, begins), `same_order` (1 where the event is
    equal in order to the one before), `row`, `time` and `asked_time` (float64 seconds) and those of
    the stream.

    Args:
        folder: Where the files are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dtypes: dict[str, np.dtype[Any]] = {}
        self.events = 0
        self.ids: pa.ChunkedArray = pa.chunked_array([pa.array([], pa.null())])

    def write(
        self,
        batches: Iterable[pa.RecordBatch],
        units: Mapping[str, str],
        advance: Callable[[int], None] = lambda events: None,
    ) -> None:
        """Write the stream.

        Args:
            batches: The events, ordered.
            units: The unit of `time`, and of `asked_time` if there is one.
            advance: Called with the number of events of each batch.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        files: dict[str, Any] = {}
        last: dict[str, Any] = {}
        ids = []
        try:
            for batch in batches:
                if not len(batch):
                    continue
                arrays, begins = _arrays(batch, last, units)
                ids.append(batch["sequence_key"].filter(pa.array(begins)))
                for name, array in arrays.items():
                    if name not in files:
                        files[name] = (self.folder / name).open("wb", buffering=0)
                        self.dtypes[name] = array.dtype
                    files[name].write(np.ascontiguousarray(array).data)
                self.events += len(batch)
                last = {n: batch[n].slice(len(batch) - 1) for n in batch.schema.names}
                advance(len(batch))
        finally:
            for file in files.values():
                file.close()
        if ids:
            self.ids = pa.chunked_array(ids)

    def __contains__(self, name: str) -> bool:
        return name in self.dtypes

    def read(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Events `start` to `stop` of a column."""
        dtype = self.dtypes[name]
        return np.fromfile(self.folder / name, dtype, stop - start, offset=start * dtype.itemsize)

    def plain_pieces(self) -> Iterator[tuple[int, int]]:
        """Start and stop of pieces, before the sequences are known."""
        for start in range(0, self.events, PIECE):
            yield start, min(start + PIECE, self.events)


def _arrays(
    batch: pa.RecordBatch, last: dict[str, Any], units: Mapping[str, str]
) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.bool_]]:
    begins = ~_like_before(batch, last, "sequence_key")
    arrays: dict[str, npt.NDArray[Any]] = {"new_key": begins}
    order = "event_order" if "event_order" in batch.schema.names else "event_time"
    if order in batch.schema.names:
        arrays["same_order"] = _like_before(batch, last, order) & ~begins
    arrays["row"] = batch["source_row"].to_numpy()
    for name in batch.schema.names:
        if name in ("sequence_key", "source_row", "event_order"):
            continue
        values = batch[name].to_numpy(zero_copy_only=False)
        name = "time" if name == "event_time" else name
        seconds = name in units
        arrays[name] = values.astype(np.float64) / _PER_SECOND[units[name]] if seconds else values
    return arrays, begins


def _like_before(batch: pa.RecordBatch, last: dict[str, Any], name: str) -> npt.NDArray[np.bool_]:
    """Whether each value is that of the event before; the first of the log is not."""
    values = batch[name]
    same = pc.equal(values.slice(1), values.slice(0, len(values) - 1))
    first = bool(pc.equal(values.slice(0, 1), last[name])[0].as_py()) if last else False
    found: npt.NDArray[np.bool_] = np.empty(len(values), np.bool_)
    found[0] = first
    found[1:] = same.to_numpy(zero_copy_only=False)
    return found
