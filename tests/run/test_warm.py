"""Processes forked from a server: what becomes of them, and that they are like new ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import chaos
import forked
import pytest
from commands import unrolled

from processes import is_running
from unrolled.run import launch
from unrolled.run.directory import RunDirectory
from unrolled.run.warm import ForkedProcess, Server

if sys.platform != "linux":
    pytest.skip("processes are forked on Linux alone", allow_module_level=True)

VARIABLES = {**os.environ, "OF_THE_SERVER": "1"}


@pytest.fixture
def server() -> Iterator[Server]:
    """One that has imported nothing much: `exec` of a script is what is forked from it."""
    server = Server(("json", "there_is_no_such_module"), VARIABLES)
    yield server
    server.close()


@pytest.fixture
def fork(server: Server, tmp_path: Path) -> Callable[..., ForkedProcess]:
    """Fork a process that does a script, its output in `output.txt`."""

    def start(script: str, **variables: str) -> ForkedProcess:
        with (tmp_path / "output.txt").open("ab") as file:
            descriptor = file.fileno()
            return server.start(
                exec, (script, {}), {**os.environ, **variables}, descriptor, descriptor
            )  # type: ignore[arg-type]

    return start


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("script", "code", "told"),
    [
        ("print('done')", 0, "done"),
        ("import sys; sys.exit(7)", 7, ""),
        ("raise ValueError('wrong')", 1, "ValueError: wrong"),
        ("import os; os._exit(3)", 3, ""),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
        ("import os; os.kill(os.getpid(), 15)", -15, ""),
        ("import atexit; atexit.register(print, 'at the end')", 0, "at the end"),
    ],
    ids=["returns", "exit code", "exception", "at once", "killed", "signal", "atexit"],
)
def test_how_a_forked_process_ends_is_told(
    fork: Callable[..., ForkedProcess], tmp_path: Path, script: str, code: int, told: str
) -> None:
    process = fork(script)
    assert process.wait(20) == code
    assert process.poll() == process.returncode == code
    output = (tmp_path / "output.txt").read_text()
    assert told in output if told else not output
    process.kill()


def test_a_forked_process_has_the_environment_and_the_session_of_a_new_one(
    fork: Callable[..., ForkedProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import json, os, sys\n"
        "print(json.dumps({'environment': dict(os.environ), 'pid': os.getpid(),"
        "'folder': os.getcwd(), 'session': os.getsid(0), 'parent': os.getppid(),"
        "'input': sys.stdin.read(),"
        "'open': [os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')"
        " if os.path.exists(f'/proc/self/fd/{n}')]}))"
    )
    # The second is forked while the server has the first.
    first = fork("import time; time.sleep(60)")
    monkeypatch.chdir(tmp_path)
    process = fork(script, CUDA_VISIBLE_DEVICES="3")
    assert process.wait(20) == 0
    found = json.loads((tmp_path / "output.txt").read_text())
    server = str(found["parent"])
    expected = {**os.environ, "CUDA_VISIBLE_DEVICES": "3", "UNROLLED_PARENT": server}
    assert found["environment"] == expected
    assert found["pid"] == found["session"] == process.pid
    assert found["input"] == ""
    assert found["folder"] == str(tmp_path)
    assert not [name for name in found["open"] if "socket" in name or "pidfd" in name]
    first.kill()
    assert first.wait(20) == -9


def test_a_forked_process_is_waited_for_and_stopped_as_a_new_one(
    fork: Callable[..., ForkedProcess],
) -> None:
    process = fork("import time; time.sleep(60)")
    assert process.poll() is None
    began = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)
    assert time.monotonic() - began < 5
    process.terminate()
    assert process.wait(20) == -signal.SIGTERM


def test_what_is_forked_leaves_when_whoever_started_the_server_is_killed(tmp_path: Path) -> None:
    of_job = (
        "import pathlib, signal, sys, time\n"
        "from unrolled.run.parent import watch_parent\n"
        "def saved(*_): pathlib.Path('saved').touch(); sys.exit()\n"
        "signal.signal(signal.SIGTERM, saved)\n"
        "watch_parent()\n"
        "pathlib.Path('began').touch()\n"
        "time.sleep(60)"
    )
    starter = (
        "import os, time\n"
        "from unrolled.run.warm import Server\n"
        "server = Server((), dict(os.environ))\n"
        f"process = server.start(exec, ({of_job!r}, {{}}), dict(os.environ), 1, 2)\n"
        "print(server.process.pid, process.pid, flush=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", starter], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        wait_for((tmp_path / "began").exists)
        assert all(is_running(pid) for pid in pids)
        process.kill()
    wait_for(lambda: not any(is_running(pid) for pid in pids))
    assert (tmp_path / "saved").exists()


def test_without_its_server_a_process_counts_as_interrupted_when_it_has_ended(
    server: Server, fork: Callable[..., ForkedProcess]
) -> None:
    process = fork("import time; time.sleep(60)")
    assert server.process is not None
    server.process.kill()
    server.process.wait()
    assert process.poll() is None
    process.terminate()
    assert process.wait(20) == 130
    with pytest.raises(OSError, match="the server did not fork"):
        fork("print('never')")
    # It is not tried again.
    with pytest.raises(OSError, match="there is no server"):
        fork("print('never')")


def test_a_server_that_can_not_begin_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "breaks_on_import.py").write_text("raise RuntimeError")
    with (tmp_path / "output.txt").open("wb") as file:
        server = Server(("breaks_on_import",), {**VARIABLES, "PYTHONPATH": str(tmp_path)})
        assert server.wait(0)
        server.open()
        wait_for(lambda: server.wait(1))
        assert not server.is_up
        with pytest.raises(OSError, match="there is no server"):
            server.start(print, ("never",), VARIABLES, file.fileno(), file.fileno())
    server.close()


def test_where_there_is_no_server_left_a_new_process_does_the_work(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text("{trainer: {devices: 1}}")
    run = RunDirectory(tmp_path)
    script = "import os, sys; sys.stderr.write(os.environ['CUDA_VISIBLE_DEVICES'])"
    monkeypatch.setattr(launch, "_command", lambda *_: [sys.executable, "-c", script])
    server.close()
    process = launch.start_in_background(run, {"CUDA_VISIBLE_DEVICES": "5"}, server)
    assert isinstance(process, subprocess.Popen)
    assert process.wait(20) == 0
    assert (tmp_path / "train.log").read_text() == "5"


def test_where_nothing_can_be_forked_no_server_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(pid: int) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "pidfd_open", refused)
    server = Server((), VARIABLES)
    server.open()
    assert server.process is None
    assert server.wait()
    with pytest.raises(OSError, match="there is no server to fork from"):
        server.start(print, (), VARIABLES, 1, 2)


@pytest.mark.process
def test_a_forked_run_is_bit_for_bit_that_of_train_py(tmp_path: Path) -> None:
    typed = [*chaos.RUNS["bucketed, dropout"], "logger=wandb", "logger.wandb.mode=offline"]
    other = forked.create([*typed, "seed=5", "embedding.dropout=0.3"], tmp_path / "other")
    assert forked.work_on(other) == [0]
    # Of a server that has forked others before.
    run = forked.create(typed, tmp_path / "forked")
    process = launch.start_in_background(run, {}, forked.SERVER)
    assert isinstance(process, ForkedProcess)
    assert process.wait() == 0
    alone = unrolled("train", *typed, "run_dir=alone", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    expected = chaos.outcome(RunDirectory(tmp_path / "alone"))
    assert chaos.differences(expected, chaos.outcome(run)) == []
    assert chaos.differences(expected, chaos.outcome(other))
    # W&B's logger ends by a function of `atexit`: its file is complete.
    (file,) = run.path.glob("wandb/offline-run-*/run-*.wandb")
    told = subprocess.run(
        ["wandb", "leet", "inspect", str(file)], capture_output=True, text=True, check=True
    )
    assert "\nexit: " in told.stdout


@pytest.mark.process
def test_what_is_forked_has_no_threads_and_no_gpu_of_the_server(tmp_path: Path) -> None:
    script = (
        "import json, os, sys, threading, torch\n"
        "print(json.dumps({'imported': 'lightning' in sys.modules,"
        "'gpu': torch.cuda.is_initialized() or torch.cuda._is_in_bad_fork(),"
        "'threads': [threading.active_count(), len(os.listdir('/proc/self/task'))]}))"
    )
    with (tmp_path / "output.txt").open("wb") as file:
        output = file.fileno()
        process = forked.SERVER.start(exec, (script, {}), dict(os.environ), output, output)  # type: ignore[arg-type]
    assert process.wait() == 0, (tmp_path / "output.txt").read_text()
    found = json.loads((tmp_path / "output.txt").read_text())
    assert found == {"imported": True, "gpu": False, "threads": [1, 1]}
