"""What stands in the files of W&B's client: the last step that an earlier part of a run has there.

`run-ID.wandb` is a log of records as LevelDB's: after a header of 7 bytes, blocks of 32 KiB with
chunks of (checksum 4, length 2, kind 1) bytes and their content; a record that does not fit into
its block goes on in the next.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_BLOCK = 32 * 1024
_FILE_HEADER, _CHUNK_HEADER = 7, 7
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def last_step(run_dir: Path) -> int:
    """The last step of a run whose row is in the files of W&B below a run directory; -1 for none.

    A row that W&B's process took and did not write, because it was killed, is in no file.
    """
    files = (run_dir / "wandb").glob("*run-*/run-*.wandb")
    return max(map(_last_step_in, files), default=-1)


def _last_step_in(path: Path) -> int:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    content = path.read_bytes()
    # The steps go up: the last row is that which counts.
    for block in reversed(range(0, len(content), _BLOCK)):
        found = -1
        for data in _records(content, block):
            record = Record()
            try:
                record.ParseFromString(data)
            except DecodeError:
                break
            if record.WhichOneof("record_type") == "history":
                found = max(found, record.history.step.num)
        if found >= 0:
            return found
    return -1


def _records(content: bytes, block: int) -> Iterator[bytes]:
    """The records that begin in the block at an offset, as far as they were written."""
    place = max(block, _FILE_HEADER)
    parts: list[bytes] = []
    while place + _CHUNK_HEADER <= len(content):
        if place % _BLOCK > _BLOCK - _CHUNK_HEADER:
            # Too little room for a header: padding.
            place += _BLOCK - place % _BLOCK
            continue
        if place >= block + _BLOCK and not parts:
            return
        length, kind = struct.unpack_from("<HB", content, place + 4)
        place += _CHUNK_HEADER
        data = content[place : place + length]
        place += length
        if kind not in (_WHOLE, _FIRST, _MIDDLE, _LAST) or len(data) < length:
            return
        if kind in (_WHOLE, _FIRST):
            parts = [data]
        elif parts:
            parts.append(data)
        if kind in (_WHOLE, _LAST) and parts:
            yield b"".join(parts)
            parts = []
