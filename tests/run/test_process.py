"""How a process begins and ends: streams that can't fail, an end that keeps what was promised."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from unrolled.run.process import run_process

BEGIN = "from unrolled.run.process import run_process\nimport atexit, os, subprocess, sys\n"
PRINTS = f"""{BEGIN}
def work():
    open('file', 'w').write('its own')
    for _ in range(3):
        print('to stdout', flush=True)
        print('to stderr', file=sys.stderr)
        os.system('echo from a child 2>&1')
    print('to stdout')
    open('end', 'w').write('reached')
    return 7
run_process(work)
"""


def python(code: str, shell: str = "", **named: str) -> subprocess.CompletedProcess[bytes]:
    """A program in a shell, which may redirect its streams."""
    return subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {shell}', sys.executable, code],
        capture_output=True, env={**os.environ, **named}, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    "shell", [">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", ">/dev/full 2>/dev/full"]
)
def test_a_stream_that_takes_nothing_ends_no_process(
    shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = python(PRINTS, shell)
    assert done.returncode == 7
    assert Path("end").read_text() == "reached"
    # Neither was the number of a closed stream given to a file, which would have got the lines.
    assert Path("file").read_text() == "its own"
    if shell == "2>&-":
        assert done.stdout.decode().splitlines() == ["to stdout", "from a child"] * 3 + [
            "to stdout"
        ]
    assert b"Traceback" not in done.stderr


def test_a_pipe_that_nobody_reads_any_more_ends_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", PRINTS], stdout=write, stderr=subprocess.PIPE, timeout=60
    )
    os.close(write)
    # Without an error of the child's shell either: its stdout was led to nowhere.
    assert (done.returncode, done.stderr) == (7, b"to stderr\n" * 3)
    assert Path("end").read_text() == "reached"


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", rb"loss v M\xfcller \u6570"),
        ("iso-8859-1", rb"loss v M" + "ü".encode("latin-1") + rb"ller \u6570"),
        ("cp1252:strict", rb"loss v M" + "ü".encode("cp1252") + rb"ller \u6570"),
        ("utf-8", "loss ↓ Müller 数".encode()),
    ],
)
def test_what_an_encoding_lacks_is_written_in_ascii(encoding: str, expected: bytes) -> None:
    code = f"{BEGIN}run_process(lambda: print('loss ↓ Müller 数'))"
    done = python(code, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == expected + b"\n"


def test_a_name_that_is_no_text_can_be_printed() -> None:
    done = python(rf"{BEGIN}run_process(lambda: print('x\udcff'))", PYTHONIOENCODING="utf-8")
    assert (done.returncode, done.stdout) == (0, rb"x\udcff" + b"\n")


def test_a_stream_that_does_not_wait_loses_nothing() -> None:
    code = f"""{BEGIN}
os.set_blocking(1, False)
run_process(lambda: print('x' * 1_000_000))
"""
    assert len(python(code, "| (sleep 0.3; cat)").stdout) == 1_000_001


def test_the_end_of_a_process_waits_for_threads_and_calls_what_was_asked_for() -> None:
    code = f"""{BEGIN}
import threading, time, multiprocessing
class Unloaded:
    def __del__(self):
        print('modules are taken down')
keep = Unloaded()
def work():
    threading.Thread(target=lambda: (time.sleep(.2), print('thread'))).start()
    child = lambda: (time.sleep(.5), os.write(1, b'child\\n'))
    multiprocessing.get_context('fork').Process(target=child).start()
    atexit.register(print, 'atexit')
    raise SystemExit(3)
run_process(work)
"""
    done = python(code)
    assert (done.returncode, done.stdout.split()) == (3, [b"child", b"thread", b"atexit"])
    done = python(f"{BEGIN}run_process(lambda: sys.exit('no result'))")
    assert (done.returncode, done.stderr) == (1, b"no result\n")


def test_inside_another_program_its_streams_and_its_end_are_left_alone() -> None:
    before = sys.stdout, sys.stderr
    with pytest.raises(SystemExit) as ended:
        run_process(lambda: 5)
    assert ended.value.code == 5
    assert (sys.stdout, sys.stderr) == before
    # Python's profiler runs a program as coverage does, and has something to say afterwards.
    profiled = python(f"import cProfile\ncProfile.run({f'{BEGIN}run_process(int)'!r})")
    assert b"function calls" in profiled.stdout


LISTENS = f"""{BEGIN}
import time
from unrolled.run.interruption import interruption, Interrupted
def work():
    interruption.listen()
    try:
        print('up', flush=True)
        time.sleep(30 if sys.argv[1] == 'waits' else .5)
    except Interrupted as error:
        print(error)
        return 130
run_process(work)
"""


def test_a_closed_terminal_interrupts_and_under_nohup_it_does_not() -> None:
    for program, argument, expected in (
        ([], "waits", (130, b"SIGHUP\n")),
        (["nohup"], "ends", (0, b"")),
    ):
        process = subprocess.Popen(
            [*program, sys.executable, "-c", LISTENS, argument],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGHUP)
        rest, _ = process.communicate(timeout=60)
        assert (process.returncode, rest[-7:]) == expected
