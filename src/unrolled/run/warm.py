"""Processes that are forked from one that has imported what a training needs.

Most of the time from the start of a process to its first step goes into imports. A server imports
once and does nothing else: it draws no random number, starts no thread and leaves the GPU alone.
Each process is forked from that state, with the environment and the session of a new process, and
then does what a new process would do, to the last bit.

The server ends when whoever started it is gone, and the forked processes are asked to stop when
the server is gone (see `parent`). Not the `forkserver` of `multiprocessing`: its processes live on
without their server, whoever started them then takes them for failed, and they end without the
functions of `atexit`, by which W&B's logger finishes.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from unrolled.run.fork_server import LARGEST_MESSAGE
from unrolled.run.interruption import EXIT_CODE

MODULES = ("unrolled.run.training", "unrolled.run.predictions", "unrolled.report.plots",
           "hydra.utils", "duckdb", "pandas", "wandb")  # fmt: skip
"""What a training imports, beside what its config names; pyarrow looks for pandas."""

COMMAND = [sys.executable, "-P", "-m", "unrolled.run.fork_server"]
SECONDS_TO_FORK = 60.0
"""After so long a server that is up and does not answer counts as dead."""


class Process(Protocol):
    """What `subprocess.Popen` and `ForkedProcess` have in common."""

    pid: int

    def poll(self) -> int | None:
        """The exit code; None while the process runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; the exit code, or minus the number of a signal."""

    def terminate(self) -> None:
        """Send SIGTERM."""

    def kill(self) -> None:
        """Send SIGKILL."""


class ForkedProcess:
    """A process that the server has forked.

    Args:
        pid: Its number.
        handle: A file descriptor of it, which is readable when it has ended.
        answers: From where the server's exit code comes.
    """

    def __init__(self, pid: int, handle: int, answers: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._handle = handle
        self._answers = answers

    def fileno(self) -> int:
        """To wait for several of them."""
        return self._handle

    def poll(self) -> int | None:
        """The exit code; None while the process runs."""
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process.

        Args:
            timeout: Seconds; None waits for ever.

        Returns:
            The exit code, or minus the number of a signal. 130, as of one that was interrupted,
            where the server died first and nobody knows.

        Raises:
            subprocess.TimeoutExpired: When it has not ended by then.
        """
        if self.returncode is None:
            if not _readable(self._handle, timeout):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            with self._answers:
                answer = self._answers.recv(LARGEST_MESSAGE)
            self.returncode = int(answer) if answer else EXIT_CODE
            os.close(self._handle)
        return self.returncode

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)


class Server:
    """A process from which others are forked.

    Args:
        modules: To import.
        variables: The environment of the server. Threads and the memory allocator read their
            settings from it, for all that is forked.
    """

    def __init__(self, modules: tuple[str, ...], variables: dict[str, str]) -> None:
        self.modules = modules
        self.variables = variables
        self.process: subprocess.Popen[bytes] | None = None
        self.is_up = False
        self.is_gone = not can_fork()
        self._requests: socket.socket | None = None

    def open(self, modules: Iterable[str] = ()) -> None:
        """Start the server, unless there is or was one; it imports for some seconds.

        Args:
            modules: Further ones.
        """
        if self.process is not None or self.is_gone:
            return
        own, of_server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with of_server:
            self.process = subprocess.Popen(
                [*COMMAND, str(of_server.fileno()), *self.modules, *modules],
                env=self.variables, pass_fds=[of_server.fileno()], stdin=subprocess.DEVNULL,
                # What an import prints is not what a worker has to say.
                stdout=2,
                # Ctrl-C in a terminal is not for the server.
                start_new_session=True,
            )  # fmt: skip
        own.settimeout(SECONDS_TO_FORK)
        self._requests = own

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the server is up or has died.

        Args:
            timeout: Seconds; None waits for ever.

        Returns:
            Whether it is one of the two.
        """
        if self._requests is None or self.is_up or self.is_gone:
            return True
        if not _readable(self._requests.fileno(), timeout):
            return False
        self.is_up = bool(self._requests.recv(LARGEST_MESSAGE))
        self.is_gone = not self.is_up
        return True

    def start(
        self,
        function: Callable[..., int | None],
        arguments: tuple[Any, ...],
        variables: dict[str, str],
        output: int,
        errors: int,
    ) -> ForkedProcess:
        """Fork a process, in a session of its own and in this process's working directory.

        Args:
            function: What it does; its result is the exit code, None is 0.
            arguments: Of the function.
            variables: The environment of the process.
            output: A file descriptor for its standard output.
            errors: And for its standard error.

        Raises:
            OSError: When the server has died; it is not started again.
        """
        self.open()
        self.wait()
        if self._requests is None or self.is_gone:
            raise BrokenPipeError("there is no server to fork from")
        folder = Path.cwd()
        answers, of_server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        answers.settimeout(SECONDS_TO_FORK)
        try:
            with of_server:
                request = pickle.dumps((function, arguments, variables, str(folder)))
                passed = [of_server.fileno(), output, errors]
                socket.send_fds(self._requests, [request], passed)
            pid, (handle,), _, _ = socket.recv_fds(
                answers, LARGEST_MESSAGE, 1, socket.MSG_CMSG_CLOEXEC
            )
        except (OSError, ValueError) as error:
            answers.close()
            self.close()
            raise BrokenPipeError(f"the server did not fork: {error}") from error
        answers.settimeout(None)
        return ForkedProcess(int(pid), handle, answers)

    def close(self) -> None:
        """End the server; what it has forked is asked to stop."""
        self.is_gone = True
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        if self._requests is not None:
            self._requests.close()


def can_fork() -> bool:
    """Whether this system can fork a process that has imported torch, and wait for its end.

    macOS, whose own libraries start threads, can't; nor can a kernel before Linux 5.3.
    """
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


def _readable(descriptor: int, timeout: float | None) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if timeout is None else timeout * 1000))
