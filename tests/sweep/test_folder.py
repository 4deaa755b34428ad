"""The folder of a sweep: who may open it, with which plan, and whose mistake it is."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from small import CONTENT, write_sweep

from unrolled.errors import UserError
from unrolled.run.directory import RunDirectory
from unrolled.sweep import folder as folder_module
from unrolled.sweep.folder import SweepFolder, open_sweep
from unrolled.sweep.study import WorkerError


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def opened(trials: int | None = None, *extra: str, **options: Any) -> SweepFolder:
    return open_sweep(Path("x.yaml"), None, trials, list(extra), **options)


def plan(folder: SweepFolder) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder.path / "plan.json").read_text())
    return content


def test_who_joins_with_a_mistake_is_refused_and_the_plan_stays(tmp_path: Path) -> None:
    write_sweep(tmp_path, parameters={**CONTENT["parameters"], "model": {"value": "mine"}})
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(
        "_target_: unrolled.models.recurrent.GRU\n"
    )
    first = opened(3, "--config-dir=conf")
    before = plan(first)
    with pytest.raises(UserError, match="nope: no such folder"):
        opened(3, "--config-dir=nope")
    # Another checkout, which has not what the sweep is about.
    (tmp_path / "conf" / "model" / "mine.yaml").unlink()
    with pytest.raises(UserError, match="model=mine: no such model"):
        opened(3)
    assert plan(first) == before
    assert first.ledger().trials() == []


def test_a_point_that_no_process_could_compose_has_failed_and_others_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sweep(tmp_path)
    (tmp_path / "conf").mkdir()
    sweep = opened(2, "--config-dir=conf")
    ledger = sweep.ledger()
    compose, bad = folder_module.compose_trial, []

    def without(*arguments: Any) -> Any:
        if not bad:
            bad.append(arguments[1])
        if arguments[1] in bad:
            raise UserError("no such point")
        return compose(*arguments)

    monkeypatch.setattr(folder_module, "compose_trial", without)
    claim = ledger.claim()
    assert claim is not None
    assert [(t.state, t.error) for t in ledger.trials()] == [
        ("failed", "no such point"),
        ("running", None),
    ]
    # What the whole space needs is gone: no trial is to blame.
    (tmp_path / "conf").rmdir()
    claim.release()
    there = SweepFolder(sweep.path)
    with pytest.raises(WorkerError, match="conf: no such folder"):
        there.compose(claim.trial.values)


def test_a_sweep_without_a_metric_is_judged_by_that_of_its_task(tmp_path: Path) -> None:
    path = write_sweep(tmp_path)
    path.write_text(path.read_text().replace("metric:\n  name: val/loss\n", ""))
    first = opened(3)
    assert (first.sweep.metric.name, first.sweep.metric.goal) == ("val/loss", "minimize")
    assert SweepFolder(first.path).sweep.metric.name == "val/loss"
    # The same file goes on, and one that names this metric too.
    assert opened(4).plan.trials == 4
    write_sweep(tmp_path)
    assert opened(5).plan.trials == 5


def test_the_arguments_of_a_process_are_its_own(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        opened(None, f"--config-dir={name}")
    path = opened().path
    assert SweepFolder(path).sweep.extra == ["--config-dir=there"]
    assert SweepFolder(path, ["--config-dir=here"]).sweep.extra == ["--config-dir=here"]
    assert SweepFolder(path, []).sweep.extra == []


def test_who_joins_without_a_number_leaves_that_of_the_trials(tmp_path: Path) -> None:
    write_sweep(tmp_path, run_cap=4)
    assert opened().plan.trials == 4
    assert opened(9).plan.trials == 9
    again = opened()
    assert (again.plan.trials, again.notes) == (9, [])
    write_sweep(tmp_path, run_cap=30)
    again = opened()
    assert (again.plan.trials, again.notes) == (
        9,
        ["run_cap is 30, the sweep has 9 trials: --trials for more"],
    )


def test_there_are_never_fewer_trials_than_have_begun(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    ledger = opened(5).ledger()
    claims = [ledger.claim() for _ in range(3)]
    assert None not in claims
    fewer = opened(4)
    assert (fewer.plan.trials, fewer.notes) == (4, ["4 trials instead of 5"])
    fewer = opened(1)
    assert (fewer.plan.trials, fewer.notes) == (
        3,
        ["3 trials instead of 4: 3 are there already"],
    )


def test_all_trials_of_a_sweep_have_the_same_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8), raising=False)
    write_sweep(tmp_path)
    assert opened(workers=2).plan.threads == 4
    # Joined from elsewhere, by more workers, by another wish.
    assert opened(workers=8).plan.threads == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    joined = opened()
    assert joined.plan.threads == 4
    assert joined.notes[0].startswith("the trials of this sweep have OMP_NUM_THREADS=4")
    assert open_sweep(Path("x.yaml"), "other", None, []).plan.threads == 1
    monkeypatch.delenv("OMP_NUM_THREADS")
    parameters = {**CONTENT["parameters"], "trainer": {"value": "ddp_cpu"}}
    write_sweep(tmp_path, parameters=parameters)
    # Two processes of each trial share its part of the cores.
    assert open_sweep(Path("x.yaml"), "ranks", None, [], workers=2).plan.threads == 2


def test_a_time_limit_can_be_taken_back(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    assert opened(time_limit=60.0).plan.time_limit == 60
    assert opened().plan.time_limit == 60
    assert opened(time_limit=0.0).plan.time_limit is None
    assert opened().plan.time_limit is None


def test_a_plan_with_a_password_is_nobody_elses_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sweep(tmp_path)

    def mode(storage: str, name: str) -> int:
        path = open_sweep(Path("x.yaml"), name, None, [], storage=storage).path / "plan.json"
        return stat.S_IMODE(path.stat().st_mode)

    assert mode("postgresql://me:secret@host/db", "with") == 0o600
    assert mode("postgresql://me@host/db", "without") & 0o044


def test_the_plan_of_an_earlier_version_is_completed(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    path = opened(3, workers=1).path / "plan.json"
    known = json.loads(path.read_text())
    del known["threads"]
    path.write_text(json.dumps(known))
    assert opened(workers=10**6).plan.threads == 1
    assert json.loads(path.read_text())["threads"] == 1


def test_a_folder_that_can_not_be_written_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sweep(tmp_path)

    def full(self: RunDirectory, name: str, text: str) -> None:
        # As of a write, which names no file.
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "write", full)
        with pytest.raises(UserError) as error:
            opened()
    assert error.value.problems == (
        "runs/sweeps/x: No space left on device; a sweep writes into runs/sweeps of the working "
        "folder",
    )
    # When there is room again, the same command starts it.
    assert opened(3).plan.trials == 3


def test_a_damaged_file_of_a_sweep_is_named(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    path = opened(3).path
    for name, content, message in (
        ("plan.json", '{"tri', "sweep.yaml or plan.json is damaged: 1 validation error for Plan"),
        ("plan.json", "[]", "sweep.yaml or plan.json is damaged"),
        ("sweep.yaml", "a: [", "sweep.yaml or plan.json is damaged: while parsing"),
        ("sweep.yaml", "", "not a sweep; it needs method"),
        ("sweep.yaml", None, "sweep.yaml: missing; no sweep goes on without it"),
        ("plan.json", None, "runs/sweeps/x: there is no such sweep yet"),
    ):
        before = (path / name).read_text()
        (path / name).unlink()
        if content is not None:
            (path / name).write_text(content)
        with pytest.raises(UserError, match=re.escape(message)):
            SweepFolder(Path("runs/sweeps/x"))
        (path / name).write_text(before)
