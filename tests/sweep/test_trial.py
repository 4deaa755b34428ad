"""One trial: however its process ends, the ledger says how. Its processes are small scripts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small import write_sweep

from unrolled.run.directory import RunDirectory
from unrolled.run.warm import Process, Server
from unrolled.sweep import trial as trial_module
from unrolled.sweep.devices import Lease
from unrolled.sweep.folder import SweepFolder, open_sweep
from unrolled.sweep.ledger import Claim, Ledger
from unrolled.sweep.record import Trial, Work
from unrolled.sweep.show import ordered
from unrolled.sweep.trial import TrialProcess, command, typed_command

HEAD = (
    "import json, os, signal, sys, time\n"
    """
def status(**changes):
    path = 'status.json'
    old = json.load(open(path))
    open(path + '.part', 'w').write(json.dumps({**old, **changes}))
    os.replace(path + '.part', path)
def log(*rows):
    open('metrics.csv', 'w').write('step,train/loss,val/loss\\n' + ''.join(r + '\\n' for r in rows))
"""
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SweepFolder]:
    def make(trials: int = 1, time_limit: float | None = None, **changes: Any) -> SweepFolder:
        monkeypatch.chdir(tmp_path)
        write_sweep(tmp_path, **changes)
        return open_sweep(Path("x.yaml"), None, trials, [], time_limit=time_limit)

    return make


def claimed(ledger: Ledger) -> Claim:
    claim = ledger.claim()
    assert claim is not None
    return claim


@pytest.fixture
def server() -> Iterator[Server]:
    """One that has imported nothing, also not what the trial's config names."""
    server = Server((), dict(os.environ))
    server.open()
    yield server
    server.close()


def work(
    sweep: SweepFolder, ledger: Ledger, script: str, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> Trial:
    """Let a script do the work of the next trial; what the ledger says then."""
    claim = claimed(ledger)

    def start(run: RunDirectory, variables: dict[str, str], server: Server | None) -> Process:
        environment = {**os.environ, **variables}
        if server is None:
            arguments = [sys.executable, "-c", HEAD + script]
            return subprocess.Popen(arguments, cwd=run.path, env=environment)
        inside = f"import os; os.chdir({str(run.path)!r})\n{HEAD}{script}"
        return server.start(exec, (inside, {}), environment, 1, 2)  # type: ignore[arg-type]

    monkeypatch.setattr(trial_module, "start_in_background", start)
    stop = options.get("asked_to_stop", lambda: False)
    trial = TrialProcess(sweep, ledger, claim.trial, stop, options.get("server"))
    trial.work(Lease(["7"], []))
    claim.release()
    return next(t for t in ledger.trials() if t.id == claim.trial.id)


@pytest.mark.parametrize("is_forked", [False, True], ids=["new", "forked"])
@pytest.mark.parametrize(
    ("script", "state", "error"),
    [
        ("log('1,2,0.5', '2,1,0.3', '3,1,0.4'); status(state='finished')", "finished", None),
        ("log('1,2,'); status(state='finished')", "failed",
         "the run never logged val/loss: has it a validation set?"),
        ("log('1,2,nan'); status(state='finished')", "failed", "val/loss is not finite: nan"),
        ("log('1,2,0.5', '2,nan,'); time.sleep(60)", "failed", "the training loss is not finite"),
        ("status(state='failed', error='OutOfMemoryError: CUDA'); sys.exit(1)", "failed",
         "OutOfMemoryError: CUDA"),
        ("os.kill(os.getpid(), 9)", "failed",
         "the run stopped without a word: its process ended by signal 9"),
        ("sys.exit(4)", "failed", "the run stopped without a word: exit code 4"),
        ("raise ValueError", "failed", "the run stopped without a word: exit code 1"),
        ("time.sleep(60)", "failed", "took longer than the time limit of 1.5 s"),
    ],
    ids=["finished", "no metric", "not finite", "loss not finite", "failed", "killed", "exits",
         "raises", "hangs"],
)  # fmt: skip
def test_how_a_trial_ends_is_noted_and_the_sweep_goes_on(
    folder: Callable[..., SweepFolder], monkeypatch: pytest.MonkeyPatch,
    server: Server, is_forked: bool, script: str, state: str, error: str | None,
) -> None:  # fmt: skip
    sweep = folder(trials=2, time_limit=1.5)
    ledger = sweep.ledger()
    noted = work(sweep, ledger, script, monkeypatch, server=server if is_forked else None)
    assert (noted.state, noted.error) == (state, error)
    assert noted.value == (0.3 if state == "finished" else None)
    assert claimed(ledger).trial.id != noted.id


def test_a_run_that_does_not_leave_when_it_is_asked_to_is_killed(
    folder: Callable[..., SweepFolder], monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    sweep = folder(time_limit=1.0)
    monkeypatch.setattr(trial_module, "TO_SAVE", 0.3)
    script = "signal.signal(signal.SIGTERM, lambda *a: None); time.sleep(60)"
    noted = work(sweep, sweep.ledger(), script, monkeypatch, server=server)
    assert noted.error == "took longer than the time limit of 1 s"


def test_a_trial_that_others_are_better_than_is_pruned(
    folder: Callable[..., SweepFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = folder(trials=3, early_terminate={"type": "hyperband", "min_iter": 2})
    ledger = sweep.ledger()
    for value in ("0.1", "0.2"):
        done = f"log('1,1,0.9', '2,1,{value}'); status(state='finished')"
        assert work(sweep, ledger, done, monkeypatch).state == "finished"
    noted = work(sweep, ledger, "log('1,1,0.9', '2,1,0.8'); time.sleep(60)", monkeypatch)
    assert (noted.state, noted.value) == ("pruned", 0.8)
    assert ledger.is_over()


HPO = {
    "metric": {"name": "hpo_val/loss"},
    "parameters": {
        "task": {"value": "bitcount"},
        "optimizer.lr": {"min": 0.01, "max": 0.1},
        "data.hpo_val": {"value": 0.5},
    },
}


@pytest.mark.parametrize(
    ("metrics", "state", "value", "error"),
    [
        ({"hpo_val/loss": {"value": 0.7}, "test/loss": {"value": 0.1}}, "finished", 0.7, None),
        ({"hpo_val/loss": {"value": None}}, "failed", None, "hpo_val/loss is not finite"),
        ({}, "failed", None,
         "the run's metrics.json has no hpo_val/loss: was data.hpo_val judged?"),
    ],
    ids=["finished", "not finite", "not judged"],
)  # fmt: skip
def test_what_is_judged_once_is_the_value_whatever_the_validation_says(
    folder: Callable[..., SweepFolder], monkeypatch: pytest.MonkeyPatch,
    metrics: dict[str, Any], state: str, value: float | None, error: str | None,
) -> None:  # fmt: skip
    sweep = folder(**HPO)
    script = (
        "log('1,2,0.5', '2,1,0.3', '3,1,0.4');"
        f"json.dump({{'metrics': {metrics!r}}}, open('metrics.json', 'w'));"
        "status(state='finished')"
    )
    noted = work(sweep, sweep.ledger(), script, monkeypatch)
    assert (noted.state, noted.value, noted.error) == (state, value, error)
    assert noted.watched == (0.3 if state == "finished" else None)


def test_early_termination_goes_by_the_validation_and_who_is_stopped_does_not_win(
    folder: Callable[..., SweepFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = folder(trials=3, early_terminate={"type": "hyperband", "min_iter": 2}, **HPO)
    ledger = sweep.ledger()
    for value in ("0.1", "0.2"):
        done = (
            f"log('1,1,0.9', '2,1,{value}');"
            "json.dump({'metrics': {'hpo_val/loss': {'value': 7.5}}}, open('metrics.json', 'w'));"
            "status(state='finished')"
        )
        assert work(sweep, ledger, done, monkeypatch).state == "finished"
    noted = work(sweep, ledger, "log('1,1,0.9', '2,1,0.8'); time.sleep(60)", monkeypatch)
    assert (noted.state, noted.value, noted.watched) == ("pruned", None, 0.8)
    assert [t.value for t in ordered(sweep.sweep, ledger.trials())] == [7.5, 7.5, None]


def test_what_is_interrupted_stays_in_the_ledger_and_goes_on_in_its_run_directory(
    folder: Callable[..., SweepFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = folder()
    ledger = sweep.ledger()
    times = iter([False, True])
    asked = work(
        sweep, ledger, "time.sleep(60)", monkeypatch, asked_to_stop=lambda: next(times, True)
    )
    assert asked.state == "running"
    run = RunDirectory(sweep.path / asked.id)
    assert run.status()["state"] == "interrupted"
    (run.path / "kept").write_text("")
    done = "log('1,1,0.5'); assert os.path.exists('kept'); status(state='finished')"
    assert work(sweep, ledger, done, monkeypatch).state == "finished"


def test_the_time_limit_is_of_all_who_work_on_a_trial(
    folder: Callable[..., SweepFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = folder(time_limit=100.0)
    ledger = sweep.ledger()
    claim = claimed(ledger)
    ledger._study.note_work(claim.trial, Work(None, before=1000.0))
    claim.release()
    noted = work(sweep, ledger, "time.sleep(30)", monkeypatch)
    assert noted.error == "took longer than the time limit of 100 s"


def test_a_trial_that_does_not_save_in_time_is_not_lost(
    folder: Callable[..., SweepFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = folder()
    ledger = sweep.ledger()
    monkeypatch.setattr(trial_module, "TO_SAVE", 0.3)
    script = "signal.signal(signal.SIGTERM, lambda *a: open('asked', 'w')); time.sleep(60)"
    times = iter([False] * 8)
    asked = work(sweep, ledger, script, monkeypatch, asked_to_stop=lambda: next(times, True))
    assert asked.state == "running"
    assert RunDirectory(sweep.path / asked.id).status()["state"] == "interrupted"
    done = "log('1,1,0.5'); status(state='finished')"
    assert work(sweep, ledger, done, monkeypatch).state == "finished"


@pytest.mark.parametrize("state", ["running", "finished", "failed"])
def test_a_trial_whose_server_is_killed_is_not_lost(
    folder: Callable[..., SweepFolder],
    monkeypatch: pytest.MonkeyPatch,
    server: Server,
    state: str,
) -> None:
    sweep = folder()
    ledger = sweep.ledger()
    assert server.process is not None
    script = f"log('1,1,0.5'); status(state={state!r}); os.kill(os.getppid(), 9); time.sleep(0.3)"
    noted = work(sweep, ledger, script, monkeypatch, server=server)
    if state != "running":
        value = 0.5 if state == "finished" else None
        assert (noted.state, noted.value) == (state, value)
        return
    assert noted.state == "running"
    assert RunDirectory(sweep.path / noted.id).status()["state"] == "interrupted"
    assert claimed(ledger).trial.id == noted.id


@pytest.mark.parametrize("state", ["finished", "failed"])
def test_a_run_that_ended_after_its_worker_died_is_only_noted(
    folder: Callable[..., SweepFolder], monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    sweep = folder()
    ledger = sweep.ledger()
    claim = claimed(ledger)
    process = TrialProcess(sweep, ledger, claim.trial, lambda: False)
    process.prepare()
    (process.run.path / "metrics.csv").write_text("step,val/loss\n1,0.25\n")
    process.run.set_status(state=state, error="ValueError: x" if state == "failed" else None)
    claim.release()
    noted = work(sweep, ledger, "open('ran', 'w')", monkeypatch)
    assert noted.state == state
    assert not (process.run.path / "ran").exists()


@pytest.mark.parametrize("power_cut", [False, True])
def test_a_directory_that_was_left_half_made_is_made_anew(
    folder: Callable[..., SweepFolder], monkeypatch: pytest.MonkeyPatch, server: Server,
    power_cut: bool,
) -> None:  # fmt: skip
    sweep = folder()
    ledger = sweep.ledger()
    claim = claimed(ledger)
    half = sweep.path / claim.trial.id
    half.mkdir()
    (half / "config.yaml").write_text("task:\n  _tar")
    if power_cut:
        # Files without their content.
        (half / "status.json").write_text("")
    claim.release()
    script = (
        "log('1,1,0.5'); open('device', 'w').write(os.environ['CUDA_VISIBLE_DEVICES']);"
        "status(state='finished')"
    )
    noted = work(sweep, ledger, script, monkeypatch, server=server)
    assert noted.state == "finished"
    assert (half / "device").read_text() == "7"
    assert RunDirectory(half).config()["optimizer"]["lr"] == noted.values["optimizer.lr"]
    assert (half / "command.txt").read_text() == command(sweep, noted) + "\n"


def test_the_command_of_a_trial_can_be_typed_where_it_was_run(
    folder: Callable[..., SweepFolder], tmp_path: Path
) -> None:
    sweep = folder()
    ledger = sweep.ledger()
    trial = claimed(ledger).trial
    arguments = f"optimizer.lr={trial.values['optimizer.lr']} task=bitcount"
    threads = f"OMP_NUM_THREADS={sweep.plan.threads}"
    # As whoever has installed the package, who has no train.py.
    assert command(sweep, trial) == f"{threads} unrolled train {arguments}"
    (tmp_path / "train.py").write_text("")
    assert command(sweep, trial) == f"{threads} python train.py {arguments}"
    # What it was run by is told, not how the sweep is run now.
    TrialProcess(sweep, ledger, trial, lambda: False).prepare()
    sweep.sweep.extra = ["--allow=mine"]
    assert typed_command(sweep, trial) == f"{threads} python train.py {arguments}"


def test_the_same_command_goes_on_and_another_space_needs_another_name(
    folder: Callable[..., SweepFolder],
) -> None:
    from unrolled.errors import UserError

    first = folder(trials=3)
    assert folder(trials=5).plan.trials == 5
    assert json.loads((first.path / "plan.json").read_text())["trials"] == 5
    with pytest.raises(UserError, match=r"of another space than .*, with another method;"):
        folder(method="bayes")
    folder(trials=5)
    with pytest.raises(UserError, match="--seed: the sweep in"):
        open_sweep(Path("x.yaml"), None, None, [], seed=4)
