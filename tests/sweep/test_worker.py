"""A worker: what ends a trial, and what ends the worker. No trial is computed here."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small import CONTENT, write_sweep

from unrolled.errors import UserError
from unrolled.run.directory import RunDirectory
from unrolled.run.parent import VARIABLE
from unrolled.sweep import trial as trial_module
from unrolled.sweep import worker as worker_module
from unrolled.sweep.devices import Devices
from unrolled.sweep.failures import MOST_ALIKE
from unrolled.sweep.folder import SweepFolder, open_sweep
from unrolled.sweep.study import WorkerError
from unrolled.sweep.trial import TrialProcess
from unrolled.sweep.worker import Worker

Job = Callable[[TrialProcess], Any]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv(VARIABLE, raising=False)


def sweep(tmp_path: Path, trials: int, **changes: Any) -> SweepFolder:
    return open_sweep(write_sweep(tmp_path, **changes), None, trials, [])


def worker(folder: SweepFolder) -> Worker:
    return Worker(folder, Devices([], folder.path), None)


@pytest.fixture
def works(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Job]], None]:
    """Let functions do the work of trials, one after the other; the last one of all others."""

    def let(jobs: list[Job]) -> None:
        def work(process: TrialProcess, lease: object) -> None:
            (jobs.pop(0) if len(jobs) > 1 else jobs[0])(process)

        monkeypatch.setattr(TrialProcess, "work", work)

    return let


def finish(process: TrialProcess) -> None:
    process.ledger.finish(process.trial, 0.5, [0.5])


def fail(error: str) -> Job:
    return lambda process: process.ledger.fail(process.trial, error)


def fail_later(error: str) -> Job:
    def job(process: TrialProcess) -> None:
        process.run.path.mkdir()
        (process.run.path / "metrics.csv").write_text("step,val/loss\n1,0.5\n")
        process.ledger.fail(process.trial, error)

    return job


def crash(process: TrialProcess) -> None:
    raise TypeError("not what was thought of")


def states(folder: SweepFolder) -> list[tuple[str, str | None]]:
    return [(trial.state, trial.error) for trial in folder.ledger().trials()]


def test_what_nobody_thought_of_ends_the_trial_and_not_the_sweep(
    tmp_path: Path, works: Callable[[list[Job]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sweep(tmp_path, 2)
    works([crash, finish])
    assert worker(folder).work() == 0
    assert states(folder) == [
        ("failed", "TypeError: not what was thought of"),
        ("finished", None),
    ]
    # For workers.log.
    assert "in crash" in capsys.readouterr().err


def test_the_same_failure_again_and_again_ends_the_worker(
    tmp_path: Path, works: Callable[[list[Job]], None]
) -> None:
    folder = sweep(tmp_path, 30)
    # Numbers and ids differ from trial to trial.
    errors = (f"x/{i:010x}/store: no space, {i} bytes\nmore {i}" for i in range(40))
    works([fail("other"), lambda process: fail(next(errors))(process)])
    with pytest.raises(WorkerError, match="3 trials in a row failed with the same error: x/0"):
        worker(folder).work()
    assert len(states(folder)) == 1 + MOST_ALIKE


@pytest.mark.parametrize(
    "jobs",
    [
        [fail("a"), fail("a"), finish] * 2,
        [fail("a"), fail("b")] * 3,
        [fail("OutOfMemoryError: CUDA out of memory")] * 6,
        [fail_later("took longer than the time limit of 9 s")] * 6,
    ],
    ids=["others finish", "different ones", "memory", "after values were logged"],
)
def test_trials_may_fail_by_themselves(
    tmp_path: Path, works: Callable[[list[Job]], None], jobs: list[Job]
) -> None:
    folder = sweep(tmp_path, 6)
    works(list(jobs))
    assert worker(folder).work() == 0
    assert len(states(folder)) == 6


def test_data_that_no_trial_can_have_here_end_the_worker_and_leave_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(config: dict[str, Any]) -> None:
        raise UserError("UNROLLED_DATA is not set")

    folder = sweep(tmp_path, 5)
    with monkeypatch.context() as patched:
        patched.setattr(trial_module, "prepare_data", missing)
        for _ in range(10):
            with pytest.raises(WorkerError, match="UNROLLED_DATA is not set"):
                worker(folder).work()
    assert states(folder) == [("running", None)]
    # Where they are there, another worker takes it.
    claim = folder.ledger().claim()
    assert claim is not None
    TrialProcess(folder, folder.ledger(), claim.trial, lambda: False).prepare()
    assert RunDirectory(folder.path / claim.trial.id).status()["state"] == "created"


def test_data_that_only_one_trial_has_are_its_own_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def impossible(config: dict[str, Any]) -> None:
        raise UserError(f"{config['task']['_target_']}: no sequence is left")

    parameters = {**CONTENT["parameters"], "task": {"values": ["bitcount", "parity"]}}
    folder = sweep(tmp_path, 2, parameters=parameters)
    monkeypatch.setattr(trial_module, "prepare_data", impossible)
    worker(folder).work()
    assert [state for state, _ in states(folder)] == ["failed", "failed"]


def test_a_run_directory_that_can_not_be_made_ends_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise UserError("runs: can't make the run directory: No space left on device")

    folder = sweep(tmp_path, 5)
    monkeypatch.setattr(RunDirectory, "create", full)
    with pytest.raises(WorkerError, match="No space left"):
        worker(folder).work()
    assert states(folder) == [("running", None)]


def test_a_worker_whose_engine_was_gone_before_it_looked_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sweep(tmp_path, 5)
    # The engine's number, which is not that of whoever has adopted this process.
    monkeypatch.setenv(VARIABLE, "1" if os.getppid() != 1 else "2")
    assert worker(folder).work() == 130
    assert states(folder) == []
    monkeypatch.setenv(VARIABLE, str(os.getppid()))
    assert not worker(folder).asked_to_stop()


def test_a_worker_tells_why_it_can_not_work_and_has_the_threads_of_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sweep(tmp_path, 5)
    monkeypatch.setattr(Worker, "listen", lambda worker: None)
    # So that it is taken back.
    monkeypatch.setenv("OMP_NUM_THREADS", "99")
    assert worker_module.main(str(folder.path), ["--config-dir=nope"]) == 2
    assert "--config-dir nope: no such folder" in capsys.readouterr().out
    assert states(folder) == []
    assert os.environ["OMP_NUM_THREADS"] == str(folder.plan.threads)


def test_a_full_disk_stops_the_worker_with_one_line_and_costs_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sweep(tmp_path, 5)
    monkeypatch.setattr(Worker, "listen", lambda worker: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "99")

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(worker_module.TrialProcess, "work", full)
        assert worker_module.main(str(folder.path), []) == 2
    assert capsys.readouterr().out == f"{folder.path}: No space left on device\n"
    assert states(folder) == [("running", None)]
