"""The agent that starts several processes: what it makes of how they end.

The processes here are a few lines each, so that all ways to end can be tried in seconds.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from unrolled.run import agent, work
from unrolled.run.directory import RunDirectory
from unrolled.run.failure import FOLDER, Failure, first_failure, give_up
from unrolled.run.interruption import WARNINGS

pytestmark = pytest.mark.process

PRELUDE = """
import os, signal, sys, time
from pathlib import Path
from unrolled.errors import UserError
from unrolled.run.directory import RunDirectory
from unrolled.run.failure import failed, times_restarted
run = RunDirectory(Path(sys.argv[1]))
rank = int(os.environ["RANK"])
"""


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    config = {"trainer": {"accelerator": "cpu", "devices": 2}, "restarts": 0}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    run = RunDirectory(tmp_path)
    run.set_status(state="running")
    return run


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """Take back what an agent changes in its process."""
    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, *WARNINGS]
    before = {number: signal.getsignal(number) for number in numbers}
    environment = dict(os.environ)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    os.environ.clear()
    os.environ |= environment


def start(run: RunDirectory, monkeypatch: pytest.MonkeyPatch, of_process: str) -> int:
    """The exit code of an agent whose processes run these lines."""
    monkeypatch.setattr(agent, "WORK", ("-c", PRELUDE + textwrap.dedent(of_process)))
    return agent.main(str(run.path))


def test_the_process_that_was_killed_is_named_not_the_one_that_noticed(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = start(run, monkeypatch, """
        if rank == 1:
            (run.path / "dies").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        while not (run.path / "dies").exists():
            time.sleep(0.01)
        failed(run, RuntimeError("[gloo/transport/tcp/pair.cc:537] Connection closed by peer"))
        sys.exit(1)
    """)  # fmt: skip
    assert code == work.FAILED
    status = run.status()
    assert status["error"] == "process 1 of 2 was killed by SIGKILL (out of memory?)"
    assert (status["state"], status["user_error"]) == ("failed", False)
    assert not (run.path / FOLDER).exists()


def test_the_first_error_is_told_not_what_others_lost_by_it(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = start(run, monkeypatch, """
        if rank == 1:
            failed(run, ValueError("no room left\\nand more"))
        else:
            while not (run.path / ".failures" / "1.json").exists():
                time.sleep(0.01)
            failed(run, RuntimeError("NCCL communicator was aborted"))
        sys.exit(1)
    """)  # fmt: skip
    assert code == work.FAILED
    assert run.status()["error"] == "process 1 of 2 failed: ValueError: no room left"


def test_a_consequence_is_not_the_cause_even_where_its_clock_is_early() -> None:
    lost = Failure(0, 3, "failed: connection closed", 10.0, consequence=True)
    killed, later = Failure(2, 3, "was killed by SIGKILL", 11.0), Failure(1, 3, "failed: x", 12.0)
    assert first_failure({0: lost, 1: later, 2: killed}) == killed
    assert first_failure({0: lost}).message == "process 0 of 3 failed: connection closed"


def test_a_mistake_of_the_user_is_told_as_it_is(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = start(run, monkeypatch, """
        failed(run, UserError("data.length: too long"))
        sys.exit(2)
    """)  # fmt: skip
    assert code == work.USER_ERROR
    assert (run.status()["error"], run.status()["user_error"]) == ("data.length: too long", True)


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        ("os._exit(7)", "process 0 of 2 ended with exit code 7"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "process 0 of 2 was killed by SIGSEGV"),
    ],
)
def test_a_process_that_ends_without_a_word_is_told_by_its_code(
    ending: str, told: str, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = start(run, monkeypatch, f"{ending} if rank == 0 else time.sleep(60)")
    assert code == work.FAILED
    assert run.status()["error"] == told


def test_a_run_that_another_process_has_is_left_alone(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start(run, monkeypatch, "sys.exit(3 if rank == 0 else time.sleep(60))") == work.IN_USE
    assert run.status() == {"state": "running"}


def test_processes_are_started_again_as_often_as_the_config_says(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.write("config.yaml", yaml.safe_dump({**run.config(), "restarts": 2}))
    code = start(run, monkeypatch, """
        (run.path / f"{times_restarted()}-{rank}").touch()
        if times_restarted() < 2:
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGKILL)
        if rank == 0:
            run.set_status(state="finished")
    """)  # fmt: skip
    assert code == work.FINISHED
    names = {f"{attempt}-{rank}" for attempt in range(3) for rank in range(2)}
    assert names < {p.name for p in run.path.iterdir()}


def test_what_the_user_has_to_mend_is_not_tried_again(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    Failure(1, 2, "data.length: too long", time.time(), user_error=True).write(run)
    monkeypatch.setattr(work, "_log_to_file", lambda *_: None)
    monkeypatch.setattr(work, "_work", lambda *_: 0)
    for restarted, code in (("1", work.USER_ERROR), ("0", work.FINISHED)):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarted)
        assert work.main(str(run.path)) == code


def test_processes_that_were_interrupted_are_not_started_again(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.write("config.yaml", yaml.safe_dump({**run.config(), "restarts": 1}))
    code = start(run, monkeypatch, """
        assert times_restarted() == 0
        if rank == 0:
            run.set_status(state="interrupted")
    """)  # fmt: skip
    assert code == work.INTERRUPTED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_agent_lets_the_processes_save(
    number: signal.Signals, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send() -> None:
        deadline = time.monotonic() + 30
        while len(list(run.path.glob("ready-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        # SLURM's warnings reach the agent too, and are not its own.
        for warning in WARNINGS:
            os.kill(os.getpid(), warning)
        # A closed terminal sends its signal several times, the parent hands it on.
        for _ in range(3):
            os.kill(os.getpid(), number)
            time.sleep(0.1)

    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    threading.Thread(target=send).start()
    code = start(run, monkeypatch, """
        def save(number, frame):
            time.sleep(0.5)
            (run.path / f"saved-{rank}-{number}").touch()
            sys.exit(0)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, save)
        (run.path / f"ready-{rank}").touch()
        time.sleep(60)
    """)  # fmt: skip
    assert code == work.INTERRUPTED
    assert run.status()["state"] == "interrupted"
    saved = {p.name for p in run.path.glob("saved-*")}
    assert saved == {f"saved-{rank}-{int(number)}" for rank in (0, 1)}


def test_a_failure_to_save_after_a_signal_is_told(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send() -> None:
        deadline = time.monotonic() + 30
        while len(list(run.path.glob("ready-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send).start()
    code = start(run, monkeypatch, """
        def save(number, frame):
            if rank == 0:
                failed(run, OSError("No space left on device"))
            sys.exit(1)
        signal.signal(signal.SIGTERM, save)
        (run.path / f"ready-{rank}").touch()
        time.sleep(60)
    """)  # fmt: skip
    assert code == work.FAILED
    assert run.status()["error"] == "process 0 of 2 failed: OSError: No space left on device"


def test_a_machine_that_gave_up_is_not_waited_for(run: RunDirectory) -> None:
    run.write("config.yaml", yaml.safe_dump({"trainer": {"devices": 1, "num_nodes": 2}}))
    give_up(run, 1, "of an earlier attempt")
    code = (
        "import sys, unrolled.run.agent as agent; agent.SECONDS_FOR_THE_OTHERS = 0.2;"
        "sys.exit(agent.main(sys.argv[1]))"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run.path)], env=os.environ | meeting
    ) as process:
        # The agent clears what was left, then waits for the second machine.
        wait_for(lambda: not (run.path / FOLDER).exists())
        time.sleep(0.5)
        give_up(run, 1, "no CUDA device")
        assert process.wait(timeout=30) == work.FAILED
    assert run.status()["error"] == "no CUDA device"


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


def test_no_process_outlives_the_one_that_started_it(tmp_path: Path) -> None:
    child = """
        import signal, sys, time
        from pathlib import Path
        from unrolled.run.parent import watch_parent
        def save(number, frame):
            Path("saved").touch()
            sys.exit()
        signal.signal(signal.SIGTERM, save)
        watch_parent()
        Path("ready").touch()
        time.sleep(60)
    """
    parent = f"""
        import os, subprocess, sys
        from unrolled.run.parent import for_children
        subprocess.run([sys.executable, "-c", {textwrap.dedent(child)!r}],
                       env=dict(os.environ) | for_children())
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(parent)], cwd=tmp_path) as process:
        wait_for((tmp_path / "ready").exists)
        process.kill()
    wait_for((tmp_path / "saved").exists)
