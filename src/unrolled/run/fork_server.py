"""The process from which others are forked: `python -m unrolled.run.fork_server SOCKET MODULE...`.

It imports the modules, says so, and forks a process for each request that comes by the socket,
until nobody has its other end. Of each process it tells the number and a handle, and at its end the
exit code.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import select
import socket
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from unrolled.run.parent import for_children
from unrolled.run.process import run_process

LARGEST_MESSAGE = 2**20
"""Bytes of a request or of an answer."""

Job = Callable[[], int | None]


def main(descriptor: int, modules: list[str]) -> int | None:
    """Import, then fork what is asked for; in a forked process, do its job and return its code."""
    for module in modules:
        # What is not there is told by whoever needs it.
        with suppress(ImportError):
            importlib.import_module(module)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise RuntimeError("an import has taken up the GPU, which no forked process could use then")
    # The garbage collector writes to what it looks at, and what is written to is copied.
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=descriptor) as requests:
        with suppress(BrokenPipeError):
            requests.send(b"up")
        job = _serve(requests)
    # In a forked process, taking down the libraries would copy all of their memory first.
    return job() if job is not None else None


def _serve(requests: socket.socket) -> Job | None:
    """Fork until nobody is there to ask; in a forked process, its job."""
    for_processes = for_children()
    processes: dict[int, tuple[int, socket.socket]] = {}
    while True:
        poll = select.poll()
        for descriptor in [requests.fileno(), *processes]:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll():
            if descriptor in processes:
                _report(descriptor, *processes.pop(descriptor))
                continue
            try:
                request, descriptors, _, _ = socket.recv_fds(
                    requests, LARGEST_MESSAGE, 3, socket.MSG_CMSG_CLOEXEC
                )
            except ConnectionResetError:
                return None
            if not request:
                return None
            answers, output, errors = socket.socket(fileno=descriptors[0]), *descriptors[1:]
            with warnings.catch_warnings():
                # Python warns of the thread of pyarrow's allocator, which knows of forks.
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                # Nobody may take this process for the server.
                for other in [answers, *(asked for _, asked in processes.values())]:
                    other.close()
                for handle in processes:
                    os.close(handle)
                return partial(_begin, request, output, errors, for_processes)
            os.close(output)
            os.close(errors)
            handle = os.pidfd_open(pid)
            processes[handle] = pid, answers
            with suppress(OSError):
                socket.send_fds(answers, [str(pid).encode()], [handle])


def _report(handle: int, pid: int, answers: socket.socket) -> None:
    _, status = os.waitpid(pid, 0)
    with answers, suppress(OSError):
        answers.send(str(os.waitstatus_to_exitcode(status)).encode())
    os.close(handle)


def _begin(request: bytes, output: int, errors: int, of_server: dict[str, str]) -> int | None:
    """Make the process what a new one is, and do its job."""
    os.setsid()
    for given, place in ((output, 1), (errors, 2)):
        os.dup2(given, place)
        os.close(given)
    function, arguments, variables, folder = pickle.loads(request)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables | of_server)
    sys.argv[1:] = map(str, arguments)
    code: int | None = function(*arguments)
    return code


if __name__ == "__main__":
    run_process(lambda: main(int(sys.argv[1]), sys.argv[2:]))
