"""The engine: how it deals with its workers, which are scripts here, and what it tells."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small import write_sweep

from unrolled.run.directory import RunDirectory
from unrolled.sweep import engine as engine_module
from unrolled.sweep.engine import MOST_REPLACED, Engine, show_status, sum_up
from unrolled.sweep.folder import SweepFolder, open_sweep
from unrolled.sweep.record import Trial

Make = Callable[..., tuple[SweepFolder, Engine]]
WORKER = Engine._worker


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine_module, "LOOK_EVERY", 0.01)

    def engine(
        script: str = "", trials: int = 3, workers: int = 1, **changes: Any
    ) -> tuple[SweepFolder, Engine]:
        folder = open_sweep(write_sweep(tmp_path, **changes), None, trials, [])
        monkeypatch.setattr(Engine, "_worker", lambda engine: [sys.executable, "-Sc", script])
        return folder, Engine(folder, workers)

    return engine


def finish(folder: SweepFolder, *values: float) -> None:
    ledger = folder.ledger()
    for value in values:
        claim = ledger.claim()
        assert claim is not None
        run = RunDirectory(folder.path / claim.trial.id)
        run.path.mkdir()
        run.write("command.txt", f"what was typed for {value}\n")
        ledger.finish(claim.trial, value, [value])
        claim.release()


def fail(folder: SweepFolder, error: str) -> None:
    ledger = folder.ledger()
    claim = ledger.claim()
    assert claim is not None
    ledger.fail(claim.trial, error)
    claim.release()


def test_a_worker_has_the_arguments_and_the_number_of_its_engine(make: Make) -> None:
    folder, engine = make("import os, sys; print(os.environ['UNROLLED_PARENT']); sys.exit(2)")
    assert engine.run() == 2
    assert engine.problem == str(os.getpid())
    folder.sweep.extra = ["--allow=mine"]
    module = ["-P", "-m", "unrolled.sweep.worker"]
    assert WORKER(engine)[1:] == [*module, str(folder.path), "--allow=mine"]


def test_the_mistake_of_one_worker_stops_all_and_is_told(
    make: Make, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # The first one to come can't work, the other one would work for ever.
    script = f"""
import os, sys, time
try:
    os.mkdir({str(tmp_path / "first")!r})
except OSError:
    time.sleep(60)
print("UNROLLED_DATA is not set")
sys.exit(2)
"""
    folder, engine = make(script, workers=2)
    fail(folder, "x")
    assert engine.run() == 2
    assert capsys.readouterr().out.endswith(
        "UNROLLED_DATA is not set\n"
        "stopped; when that is mended, the same command goes on\n"
        "--retry-failed runs the failed trial again\n"
    )


def test_workers_that_only_die_are_not_replaced_for_ever(
    make: Make, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    engine = make(f"open({str(tmp_path / 'died')!r}, 'a').write('x'); raise OSError")[1]
    assert engine.run() == 1
    assert len((tmp_path / "died").read_text()) == 1 + MOST_REPLACED
    assert "the workers have died; runs/sweeps/x/workers.log says why" in capsys.readouterr().out


def test_workers_that_bring_trials_to_their_ends_may_die_more_often(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    died = tmp_path / "died"
    died.write_text("")
    script = f"import time; open({str(died)!r}, 'a').write('x'); time.sleep(0.3); raise OSError"
    folder, engine = make(script, trials=2)
    monkeypatch.setattr(engine_module, "MOST_REPLACED", 2)

    def tell(trials: list[Trial]) -> None:
        if not trials and len(died.read_text()) == 2:
            finish(folder, 0.5)

    monkeypatch.setattr(engine, "_tell", tell)
    assert engine.run() == 1
    # Three without the trial, and two from then on.
    assert 3 < len(died.read_text()) <= 5


def test_failed_trials_run_again_by_one_option(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, engine = make()
    fail(folder, "no space left")
    fail(folder, "no space left")
    engine.retry_failed()
    assert "2 failed trials run again" in capsys.readouterr().out
    assert [trial.state for trial in folder.ledger().trials()] == ["running", "running"]
    engine.retry_failed()
    assert "no trial has failed" in capsys.readouterr().out


def test_the_summary_has_the_best_trial_and_the_command_it_was_run_by(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, engine = make(trials=4)
    finish(folder, 0.5, 0.25, 0.75)
    fail(folder, "RuntimeError: broken\nand more")
    best = folder.ledger().trials()[1]
    assert sum_up(folder, folder.ledger(), engine.console) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"4 of 4 trials, 3 finished, 1 failed, best val/loss 0.25 ({best.id})\n")
    assert "failed: RuntimeError: broken\n" in out
    assert "--retry-failed runs the failed trial again\n" in out
    assert "best: what was typed for 0.25\n" in out
    assert (folder.path / "summary" / "trials.csv").read_text().count("\n") == 1 + 4 + 1


def test_a_sweep_without_a_result_has_failed(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, engine = make(trials=1)
    fail(folder, "x")
    assert sum_up(folder, folder.ledger(), engine.console) == 1
    assert capsys.readouterr().out.endswith("no trial has finished\n")


def test_the_status_has_those_at_work_first_and_says_what_it_leaves_out(
    make: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = make(trials=6)
    monkeypatch.setattr("unrolled.sweep.show.MOST_ROWS", 3)
    finish(folder, 0.5, 0.25, 0.75)
    ledger = folder.ledger()
    at_work, left = ledger.claim(), ledger.claim()
    assert at_work is not None
    assert left is not None
    left.release()
    show_status(SweepFolder(folder.path))
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0].startswith("3 of 6 trials, 3 finished, 1 running, 1 waiting, best val/loss")
    rows = [line.split()[:2] for line in lines[3:6]]
    assert rows[:2] == [[at_work.trial.id, "running"], [left.trial.id, "waiting"]]
    assert rows[2][1] == "finished"
    assert lines[6] == "... and 2 more"


def test_a_second_ctrl_c_ends_the_workers_and_a_second_closed_terminal_does_not(
    make: Make,
) -> None:
    _, engine = make()
    killed: list[str] = []
    worker = SimpleNamespace(kill=lambda: killed.append("worker"))
    engine._processes = [worker]  # type: ignore[list-item]
    engine._handle(signal.SIGHUP, None)
    engine._handle(signal.SIGHUP, None)
    assert (engine.interrupted, killed) == (True, [])
    engine._handle(signal.SIGINT, None)
    assert killed == ["worker"]
