"""What a job does that was asked to stop, by what SLURM says of it."""

from __future__ import annotations

import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from unrolled.run.requeue import in_submitit, requeue, was_restarted


class RefusedError(Exception):
    """What submitit raises when it does not start a job again."""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A job 7 of submitit's on SLURM; what was asked of SLURM and of submitit's handler."""
    calls: list[str] = []
    script = tmp_path / "scontrol"
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ncat {tmp_path}/answer\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)

    def handler(number: int, frame: FrameType | None) -> None:
        calls.append("submitit")
        raise RefusedError("Job not requeued because: timed-out too many times.")

    before = signal.signal(signal.SIGUSR2, handler)
    yield calls
    signal.signal(signal.SIGUSR2, before)


def slurm_says(folder: Path, state: str, restarts: int = 0, preempted: str = "None") -> None:
    (folder / "answer").write_text(
        f"JobId=7 JobName=train.py JobState={state} Reason=None Requeue=1 Restarts={restarts} "
        f"PreemptEligibleTime=2026-11-22T20:13:12 PreemptTime={preempted}\n"
    )


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


LOOK = "--oneliner show job 7"


def test_a_preempted_job_asks_for_its_place_and_leaves_no_result(
    asked: list[str], tmp_path: Path
) -> None:
    slurm_says(tmp_path, "RUNNING", preempted="2026-11-22T20:13:15")
    with pytest.raises(SystemExit) as left:
        requeue()
    assert left.value.code == 1
    assert calls(tmp_path) == [LOOK, "requeue 7"]
    assert asked == []


def test_a_job_whose_time_is_over_is_left_to_submitit(asked: list[str], tmp_path: Path) -> None:
    slurm_says(tmp_path, "RUNNING")
    assert requeue() == "timed-out too many times."
    assert asked == ["submitit"]
    assert calls(tmp_path) == [LOOK]


def test_a_job_that_slurm_has_put_back_leaves_no_result(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm_says(tmp_path, "COMPLETING", restarts=1)
    with pytest.raises(SystemExit):
        requeue()
    # In its second start the same words mean that it is over.
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert was_restarted()
    assert requeue() == "SLURM has ended it (COMPLETING)"
    assert calls(tmp_path) == [LOOK, LOOK]
    assert asked == []


def test_what_slurm_refuses_is_told(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho slurm_load_jobs error >&2; exit 1\n")
    assert requeue() == "SLURM says: slurm_load_jobs error"
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert "No such file or directory: 'scontrol'" in requeue()
    assert asked == []


def test_a_job_without_slurm_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    assert not in_submitit()
    assert not was_restarted()
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    assert in_submitit()
    assert requeue() == "it was asked to stop"
