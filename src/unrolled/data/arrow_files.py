"""Arrow IPC as a log: files (Feather) and streams, memory-mapped, read a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa

from unrolled.data.files import require_distinct
from unrolled.errors import UserError

_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


class ArrowFile:
    """An Arrow file or stream, of whose columns those are read that DuckDB can hold.

    Args:
        path: The file.

    Raises:
        UserError: When it is neither, or was cut.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.schema = _open(path).schema
        require_distinct(self.schema.names, path)
        self._fields = [_held(field) for field in self.schema]

    def types(self, connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
        """DuckDB's type of each column; Arrow's own name of a type that DuckDB can't hold."""
        return {
            field.name: _type(connection, held) or f"Arrow's {field.type}"
            for field, held in zip(self.schema, self._fields, strict=True)
        }

    def reader(self, names: list[str]) -> pa.RecordBatchReader:
        """The rows of some columns; they can be read once."""
        wanted = pa.schema([f for f in self._fields if f.name in names])

        def batches() -> Iterator[pa.RecordBatch]:
            for batch in _batches(_open(self.path)):
                yield batch.select(wanted.names).cast(wanted)

        return pa.RecordBatchReader.from_batches(wanted, batches())


def _open(path: Path) -> pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader:
    try:
        file = pa.memory_map(str(path))
        if file.read(6) == b"ARROW1":
            return pa.ipc.open_file(file)
        file.seek(max(file.size() - len(_END_OF_STREAM), 0))
        ended = file.read() == _END_OF_STREAM
        file.seek(0)
        stream = pa.ipc.open_stream(file)
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: can't be read as an Arrow file: {reason}") from error
    if not ended:
        raise UserError(
            f"{path}: can't be read as an Arrow file: the stream has no end; it was cut, or what "
            "wrote it did not close it"
        )
    return stream


def _batches(
    opened: pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader,
) -> Iterator[pa.RecordBatch]:
    if isinstance(opened, pa.ipc.RecordBatchStreamReader):
        yield from opened
        return
    for index in range(opened.num_record_batches):
        yield opened.get_batch(index)


def _held(field: pa.Field) -> pa.Field:
    """The field in a type of the same values that DuckDB knows."""
    return field.with_type(pa.float32()) if field.type == pa.float16() else field


def _type(connection: duckdb.DuckDBPyConnection, field: pa.Field) -> str | None:
    try:
        connection.register("one column", pa.schema([field]).empty_table())
        return str(connection.execute('DESCRIBE SELECT * FROM "one column"').fetchall()[0][1])
    except duckdb.NotImplementedException:
        return None
    finally:
        connection.unregister("one column")
