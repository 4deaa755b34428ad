"""A CSV as DuckDB reads it: in UTF-8, with line ends of one kind.

Any other file is copied piece by piece; the values stay as they are, those with line ends too.
"""

from __future__ import annotations

import codecs
import gzip
import io
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from unrolled.data.files import TextFormat
from unrolled.errors import UserError

_PIECE = 1 << 22  # Bytes or characters that are looked at together.


def is_plain(file: Path, text: TextFormat) -> bool:
    """Whether DuckDB can read the file as it is.

    Raises:
        UserError: When it can't be read, or there is no such encoding.
    """
    if _encoding(text) != "utf-8":
        return False
    with open_bytes(file) as stream:
        # Most files have no carriage return at all, and that is seen fast.
        if not any(b"\r" in piece for piece in _pieces(stream)):
            return True
    lines, windows, quote, inside = 0, 0, text.quote.encode(), False
    with open_bytes(file) as stream:
        for piece in _pieces(stream):
            for index, part in enumerate(piece.split(quote) if quote else [piece]):
                # Every quote, doubled ones too, ends or begins a quoted value.
                inside ^= index > 0
                if not inside:
                    lines += part.count(b"\n")
                    windows += part.count(b"\r\n")
            if windows and lines > windows:
                return False
    return True


def plain_copy(file: Path, text: TextFormat, folder: Path) -> Path:
    """A copy of a CSV that DuckDB can read, below `folder`.

    Raises:
        UserError: When the file is not in its encoding.
    """
    encoding = _encoding(text)
    copy = Path(tempfile.mkdtemp(dir=folder)) / file.name.removesuffix(".gz").removesuffix(".GZ")
    inside = False
    try:
        with (
            open_bytes(file) as raw,
            io.TextIOWrapper(raw, _with_mark(encoding), newline="") as source,
            copy.open("w", encoding="utf-8", newline="") as target,
        ):
            held = ""
            while piece := source.read(_PIECE):
                piece = held + piece
                # A line end may be cut in two.
                held = "\r" if piece.endswith("\r") else ""
                parts = (
                    piece.removesuffix(held).split(text.quote or None) if text.quote else [piece]
                )
                # Every quote, doubled ones too, ends or begins a quoted value.
                for index, part in enumerate(parts):
                    if index:
                        target.write(text.quote)
                        inside = not inside
                    target.write(part if inside else part.replace("\r\n", "\n"))
            target.write(held)
    except UnicodeError as error:
        raise UserError(
            f"{file}: is not in the encoding {text.encoding}: {error}; say with "
            "data.source.encoding which it is"
        ) from error
    return copy


def first_line(file: Path, text: TextFormat) -> str:
    """The first line of a CSV, with its end.

    Raises:
        UserError: When it is not in its encoding.
    """
    encoding = _with_mark(_encoding(text))
    with (
        open_bytes(file) as raw,
        # More than the line is decoded; what is wrong further down is told by what reads it.
        io.TextIOWrapper(raw, encoding, "replace", newline="") as stream,
    ):
        line = stream.readline()
    if "\ufffd" in line:
        raise UserError(
            f"{file}: the first line is not in the encoding {text.encoding}; say with "
            "data.source.encoding which it is in"
        )
    return line


@contextmanager
def open_bytes(file: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked where its name ends in `.gz`.

    Raises:
        UserError: When it can't be unpacked.
    """
    if file.suffix.lower() != ".gz":
        with file.open("rb") as stream:
            yield stream
        return
    try:
        with gzip.open(file) as stream:
            yield cast("IO[bytes]", stream)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{file}: can't be unpacked, it was cut or is no file of gzip's: {error}"
        ) from error


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    """The bytes of a stream; a carriage return is never cut off from its newline."""
    while piece := stream.read(_PIECE):
        while piece.endswith(b"\r") and (more := stream.read(1)):
            piece += more
        yield piece


def _encoding(text: TextFormat) -> str:
    try:
        return codecs.lookup(text.encoding).name
    except LookupError:
        raise UserError(
            f"data.source.encoding: there is no encoding '{text.encoding}'; for example utf-8, "
            "latin-1, cp1252, utf-16"
        ) from None


def _with_mark(encoding: str) -> str:
    # A byte order mark is no part of the first name.
    return "utf-8-sig" if encoding == "utf-8" else encoding
