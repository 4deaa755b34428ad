"""Writing a store: the encoded events in the order of the store, and Arrow files around them."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from filelock import FileLock, Timeout

from unrolled.data.sequences import Booleans, Integers, Piece, Sequences, Small
from unrolled.data.tables import first_line
from unrolled.errors import UserError

Encode = Callable[[Piece], npt.NDArray[Any]]

_BYTES_IN_MEMORY = 128 << 20
"""Of the columns that are put in order at once; a larger store takes several passes."""

_LOCK = "in-use.lock"
_NEW_SECONDS = 60


def write_columns(
    found: Sequences,
    order: Integers,
    encoders: Mapping[str, tuple[type, Encode]],
    folder: Path,
    advance: Callable[[int], None] = lambda events: None,
) -> None:
    """Write each column's kept events to a file, the sequences in `order`.

    Args:
        found: The sequences.
        order: Those to write, in their order.
        encoders: For each column the type of its values, and what gives those of a piece.
        folder: Where the files go, each under its column's index.
        advance: Called with the number of events done.
    """
    kept = found.kept[order]
    total = int(kept.sum())
    begins = np.full(len(found), -1, np.int64)
    before = np.cumsum(kept)
    before -= kept
    begins[order] = before
    del before
    width = sum(np.dtype(dtype).itemsize for dtype, _ in encoders.values())
    room = max(_BYTES_IN_MEMORY // max(width, 1), 1)
    files = [(folder / str(index)).open("wb") for index in range(len(encoders))]
    try:
        for low in range(0, max(total, 1), room):
            high = min(low + room, total)
            parts: list[npt.NDArray[Any]] = [
                np.empty(high - low, dtype) for dtype, _ in encoders.values()
            ]
            for piece in found.pieces():
                keep, to = _destinations(found, begins, piece)
                inside = slice(None) if room >= total else (to >= low) & (to < high)
                to = to[inside] - low
                for part, (_, encode) in zip(parts, encoders.values(), strict=True):
                    part[to] = encode(piece)[keep][inside]
                advance(len(to))
            for file, part in zip(files, parts, strict=True):
                part.tofile(file)
    finally:
        for file in files:
            file.close()


def _destinations(found: Sequences, begins: Integers, piece: Piece) -> tuple[Booleans, Integers]:
    """Which events of a piece are written, and as the how manieth."""
    part = slice(piece.first, piece.last)
    wanted = begins[part] >= 0
    keep = found.kept_in(piece)
    if not wanted.all():
        keep = keep & np.repeat(wanted, piece.lengths)
    counts = np.where(wanted, found.kept[part], 0)
    before = np.cumsum(counts) - counts
    return keep, np.arange(int(counts.sum())) + np.repeat(begins[part] - before, counts)


def list_batch(
    folder: Path,
    columns: Mapping[str, type],
    ids: pa.Array,
    labels: pa.Array,
    lengths: Small,
    start: int,
) -> pa.RecordBatch:
    """Sequences as one record batch over the memory-mapped files that `write_columns` wrote.

    Args:
        folder: Of the files.
        columns: The type of each.
        ids: Of the sequences.
        labels: Of the sequences, int32.
        lengths: Of the sequences.
        start: The first event of the first of them.
    """
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    count, events = len(lengths), int(offsets[-1])
    arrays, fields = [ids, labels], [pa.field("id", ids.type), pa.field("label", pa.int32())]
    for index, (name, dtype) in enumerate(columns.items()):
        kind = pa.from_numpy_dtype(dtype)
        size = np.dtype(dtype).itemsize
        values = pa.py_buffer(b"")
        if events:
            with pa.memory_map(str(folder / str(index))) as mapped:
                mapped.seek(start * size)
                values = mapped.read_buffer(events * size)
        inner = pa.Array.from_buffers(kind, events, [None, values])
        # 64-bit offsets: a list column of 32 bits ends at 2^31 events.
        lists = pa.large_list(pa.field("item", kind))
        buffers = [None, pa.py_buffer(offsets)]
        arrays.append(pa.Array.from_buffers(lists, count, buffers, children=[inner]))
        fields.append(pa.field(name, lists))
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def write_arrow(rows: pa.RecordBatch | pa.Table, path: Path) -> None:
    """One record batch, so that each column is one buffer that can be mapped into memory."""
    table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
    options = pa.ipc.IpcWriteOptions(allow_64bit=True)
    with (
        pa.OSFile(str(path), "wb") as sink,
        pa.ipc.new_file(sink, table.schema, options=options) as writer,
    ):
        # A table without rows has no batch, and a file that is read needs one.
        if not len(table):
            writer.write_batch(pa.RecordBatch.from_pylist([], table.schema))
        writer.write_table(table.combine_chunks(), max_chunksize=max(len(table), 1))


@contextmanager
def appears_complete(path: Path) -> Iterator[Path]:
    """A folder to fill that gets its name only when it is full.

    Raises:
        UserError: When it can't be written.
    """
    _remove_abandoned(path.parent)
    # Not the process's number, which a killed process of another container may have had.
    partial = path.with_name(f".{path.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        partial.mkdir(parents=True)
        lock = FileLock(partial / _LOCK)
        lock.acquire()
    except OSError as error:
        raise UserError(f"{path.parent}: can't make the event store: {error.strerror}") from error
    try:
        yield partial
        lock.release()
        (partial / _LOCK).unlink(missing_ok=True)
        try:
            partial.rename(path)
        except OSError as error:
            # Another process has finished the same store in the meantime: it is the same.
            if not (path / "store.json").exists():
                raise UserError(f"{path}: {first_line(error)}") from error
    except OSError as error:
        raise UserError(f"{path}: can't write the event store: {error.strerror}") from error
    except MemoryError as error:
        raise UserError(
            f"{path}: not enough memory for the sequences of this log ({error}); a preparation "
            "needs a byte an event and about 60 a sequence beside data.memory_limit"
        ) from error
    finally:
        lock.release()
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):
            path.parent.rmdir()  # Only when nothing else is in it.


def _remove_abandoned(root: Path) -> None:
    """Remove what killed processes have left: the system has released their locks."""
    for partial in root.glob(".store-*.partial-*"):
        with suppress(OSError, Timeout):
            # A new one may not have its lock yet; a link was not made here.
            if partial.is_symlink():
                continue
            if time.time() - partial.stat().st_mtime > _NEW_SECONDS:
                with FileLock(partial / _LOCK, timeout=0):
                    shutil.rmtree(partial, ignore_errors=True)
