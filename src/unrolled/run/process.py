"""How a process of ours begins and ends.

It begins with output streams that can't fail: printing is never worth a run. It ends without taking
down the imported libraries, which would take more than a second.
"""

from __future__ import annotations

import atexit
import codecs
import io
import os
import select
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn, TextIO

from unrolled.terminal import say

_IN_ASCII = str.maketrans("↓↑→…•×━╸╺", "v^>.*x---")  # noqa: RUF001
"""Characters of our tables and of Rich's bars; Rich replaces the frames of its tables itself."""


def run_process(work: Callable[[], int | None]) -> NoReturn:
    """Be the process that does `work`: safe streams, the work, and the end.

    Called from inside another program (a test, a notebook, coverage), this only does the work and
    raises `SystemExit`: streams and end are that program's.

    Args:
        work: Its result is the exit code; None is 0.
    """
    if not _is_whole_process():
        sys.exit(work())
    make_streams_safe()
    try:
        code: object = work()
    except SystemExit as error:
        code = error.code
    if not isinstance(code, int | None):
        say(code, stderr=True)
        code = 1
    leave(code or 0)


def leave(code: int) -> NoReturn:
    """End the process as Python does, but for taking down its modules.

    Threads are waited for, and the functions of `atexit` are called: W&B finishes its run, and
    child processes of `multiprocessing` are joined. `multiprocessing` ends its own like this, too.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def make_streams_safe() -> None:
    """Let nothing that is printed raise an error, from here on.

    - What can't be written is dropped: the reader of a pipe or the terminal is gone, the disk is
      full, the stream was closed when the process was started.
    - A character that the stream's encoding lacks is written in ASCII.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Closed: or a file of the run would take this number, and what libraries print.
            _to_nowhere(number)
    codecs.register_error("unrolled", _in_ascii)
    sys.stdout = _safe(sys.stdout, 1)
    sys.stderr = _safe(sys.stderr, 2)


class _Output(io.FileIO):
    """A file descriptor that takes all that is written to it."""

    def write(self, data: Any, /) -> int:
        """Write, or drop what can't be written; the number of bytes."""
        try:
            while (written := super().write(data)) is None:
                # Whoever has the other end made it return at once where there is no room.
                select.select([], [self.fileno()], [])
            return written
        except BrokenPipeError:
            # Also for the processes that are started from here: some die of it.
            _to_nowhere(self.fileno())
        except OSError:
            pass
        return memoryview(data).nbytes


def _safe(stream: TextIO | None, number: int) -> TextIO:
    """A stream that writes like `stream` and can't fail; Python gives None for a closed one."""
    if stream is not None:
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(number, "w", closefd=False)),
        encoding=stream.encoding if stream is not None else "utf-8",
        errors="unrolled",
        line_buffering=number == 2 or os.isatty(number),
    )


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Replacements for characters that an encoding does not have."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(_IN_ASCII)
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end


def _to_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
    os.set_inheritable(number, True)


def _is_whole_process() -> bool:
    """Whether this process was started for what is called now, and there is nobody to go back to.

    Then nothing is below the caller of `run_process` but a module's top level, and Python's own
    `python -m`. A test, a debugger or coverage would be there with functions of their own.
    """
    frame: FrameType | None = sys._getframe(2)
    if frame is not None and frame.f_code.co_name != "<module>":
        # An entry point's function.
        frame = frame.f_back
    while frame is not None:
        if frame.f_code.co_name != "<module>" and frame.f_globals.get("__name__") != "runpy":
            return False
        frame = frame.f_back
    return True
