"""Checkpoint files: written whole or not at all, checked when they are read.

A checkpoint is a zip file as `torch.save` makes it, with a CRC-32 of each of its parts, which
`torch.load` does not look at; `damage` does.
"""

from __future__ import annotations

import os
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from unrolled.errors import UserError
from unrolled.plain_files import written_beside
from unrolled.run.check_checkpoint import require_restorable
from unrolled.run.directory import LAST, PREVIOUS


class NotWrittenError(Exception):
    """A checkpoint could not be written; those before it are as they were."""


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's door to the disk.

    Lightning's own writes to a temporary folder elsewhere and moves the file over, which is a copy
    between two file systems, and never waits for the disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write a checkpoint beside its place, wait for the disk, and put it there.

        The one that was there before stays as previous.ckpt, for last.ckpt.

        Raises:
            NotWrittenError: When the disk is full, or can't be written.
        """
        path = Path(path)
        size = 0
        try:
            path.parent.mkdir(exist_ok=True)
            with written_beside(path, alone=True) as partial:
                with partial.open("wb") as file:
                    pieces = _Pieces(file)
                    torch.save(checkpoint, pieces)  # type: ignore[arg-type]  # All that it calls.
                    size = pieces.size
                    pieces.raise_error()
                    file.flush()
                    os.fsync(file.fileno())
                if path.name == LAST and path.exists():
                    path.replace(path.with_name(PREVIOUS))
            _sync(path.parent)
        except OSError as error:
            raise NotWrittenError(
                f"{path}: the checkpoint of {_readable(size)} could not be written: "
                f"{error.strerror} ({_free(path.parent)} free); those before it are intact"
            ) from error

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Callable[..., Any] | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """The content of a checkpoint to go on from, without executing code in it.

        Raises:
            UserError: As `read_checkpoint` and `require_restorable`.
        """
        checkpoint = read_checkpoint(Path(path))
        require_restorable(checkpoint, Path(path))
        return checkpoint


class _Pieces:
    """Hands what torch writes to a file, and keeps the first error of the disk until torch is done.

    torch ends the process when it can't write. A copy in memory would need as much of it as the
    weights and the optimizer's state do.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.size = 0
        self._file = file
        self._error: OSError | None = None

    def write(self, piece: bytes | memoryview) -> int:
        """Write one piece, or only count it after an error."""
        size = memoryview(piece).nbytes
        self.size += size
        if self._error is None:
            try:
                self._file.write(piece)
            except OSError as error:
                self._error = error
        return size

    def flush(self) -> None:
        """Nothing: the file is flushed when it is complete."""

    def raise_error(self) -> None:
        """Raise the error that was kept."""
        if self._error is not None:
            raise self._error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file.

    Args:
        path: A checkpoint; only tensors and plain data are read, no code is executed.

    Raises:
        UserError: When it is missing, damaged, or holds more than tensors and plain data.
    """
    require_whole(path)
    try:
        # Mapped: torch takes a storage's length from the file's own word and reads beyond its part,
        # but not beyond the end of a map.
        mapped = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        checkpoint = _in_memory(mapped, 2 * path.stat().st_size)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:
        # Whole, but made by somebody else: anything can go wrong. torch's own advice is to load
        # without `weights_only`, which would run code in the file.
        kind = type(error).__name__
        raise UserError(f"{path}: not a checkpoint that can be read ({kind})") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"{path}: not a checkpoint of a run: it has no state_dict")
    return checkpoint


def _in_memory(value: Any, room: int) -> Any:
    """The same content with tensors of its own, in the memory.

    Args:
        value: The content that was read.
        room: Bytes that all tensors may take.

    Raises:
        UserError: When it holds more, or tensors of a kind that no run has.
    """
    taken = 0

    def copied(part: Any) -> Any:
        nonlocal taken
        if isinstance(part, torch.Tensor):
            if part.layout != torch.strided or part.device.type != "cpu" or part.is_quantized:
                raise UserError("holds a tensor that is sparse, quantized or without data")
            taken += part.numel() * part.element_size()
            if taken > room:
                raise UserError("holds tensors that are larger than the file")
            return part.clone(memory_format=torch.contiguous_format)
        if isinstance(part, dict):
            # In place: a state_dict has attributes beside its entries.
            for key in part:
                part[key] = copied(part[key])
            return part
        if isinstance(part, list):
            part[:] = map(copied, part)
            return part
        return tuple(map(copied, part)) if type(part) is tuple else part

    return copied(value)


def require_whole(path: Path) -> None:
    """Refuse a checkpoint that is missing or damaged.

    Raises:
        UserError: When it is.
    """
    if (reason := damage(path)) is not None:
        raise UserError(f"{path}: not a checkpoint that can be read: {reason}")


def damage(path: Path) -> str | None:
    """What is wrong with the bytes of a checkpoint; None where nothing is."""
    if not path.is_file():
        return "there is no such file"
    try:
        with zipfile.ZipFile(path) as file:
            if any(part.compress_type != zipfile.ZIP_STORED for part in file.infolist()):
                # As no run writes it: a small file could fill the memory.
                return "its parts are compressed"
            broken = file.testzip()
    # Flipped bits read as a passage that is encrypted (RuntimeError), or as a compression or a
    # version that `zipfile` does not know (NotImplementedError).
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError,
            ValueError, OverflowError, UnicodeDecodeError) as error:  # fmt: skip
        return f"it is damaged or incomplete ({error or type(error).__name__})"
    return f"its part {broken} is damaged" if broken else None


def to_go_on_from(folder: Path) -> tuple[Path | None, str | None]:
    """The checkpoint with which a run goes on: last.ckpt, or the one before it.

    Args:
        folder: The run's `checkpoints/`.

    Returns:
        The file, None where there is none; and why it is not last.ckpt.

    Raises:
        UserError: When there are some, but all are damaged.
    """
    there = [folder / name for name in (LAST, PREVIOUS) if (folder / name).is_file()]
    reasons: list[str] = []
    for path in there:
        reason = damage(path)
        if reason is None:
            return path, "; ".join(reasons) or None
        reasons.append(f"{path}: {reason}")
    if reasons:
        raise UserError(
            *reasons,
            "there is no other checkpoint to go on from; start a new run, or bring one back from a "
            "backup",
        )
    return None, None


def set_aside(folder: Path) -> None:
    """Keep a damaged last.ckpt from taking the place of the good one before it."""
    (folder / LAST).replace(folder / f"{LAST}.damaged")


def _sync(folder: Path) -> None:
    """Wait until the disk has the names of the files in a folder, where systems know of that."""
    if hasattr(os, "O_DIRECTORY"):
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _free(folder: Path) -> str:
    try:
        return _readable(shutil.disk_usage(folder).free)
    except OSError:
        return "unknown"


def _readable(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
