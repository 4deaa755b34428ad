"""Disks without room, and folders that can't be written."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import filelock
import pytest

from unrolled.cli import guarded
from unrolled.errors import UserError
from unrolled.run import directory
from unrolled.run.directory import RunDirectory
from unrolled.run.failure import failed
from unrolled.run.session import train

CONFIG = {"task": {"_target_": "unrolled.tasks.bitcount.Bitcount"}, "trainer": {"max_steps": 3}}


@pytest.mark.parametrize("fits", [0, 1, 2], ids=["no-config", "no-command", "no-status"])
@pytest.mark.parametrize("was_there", [False, True])
def test_a_run_directory_that_finds_no_room_leaves_nothing_in_the_way(
    fits: int, was_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = fits

    def full(*_: Any, **__: Any) -> str:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return "text"

    if was_there:
        (tmp_path / "run").mkdir()
    with monkeypatch.context() as disk:
        disk.setattr(directory.yaml, "safe_dump", full)
        disk.setattr(RunDirectory, "write", full)
        with pytest.raises(UserError, match=r"run: can't be written: No space left on device"):
            RunDirectory.create(CONFIG, tmp_path / "run", "train.py")
    assert list(tmp_path.rglob("*")) == ([tmp_path / "run"] if was_there else [])
    run = RunDirectory.create(CONFIG, tmp_path / "run", "train.py")
    assert (run.config(), run.status()["state"]) == (CONFIG, "created")


@pytest.fixture
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run in a folder that can't be written, by what the system says of it."""
    run = RunDirectory.create(CONFIG, tmp_path / "run", "train.py")
    run.write_json("metrics.json", {"steps": 3, "parameters": 7})
    run.set_status(state="finished", steps=3)
    (run.path / ".lock").touch()

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(run.path / ".lock"))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    return run


def test_a_finished_run_is_shown_where_nothing_can_be_written(
    read_only: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train([f"resume={read_only.path}"], "train.py") == 0
    assert "3 steps, 7 parameters" in capsys.readouterr().out
    assert not read_only.is_in_use()
    with pytest.raises(UserError, match=r"run: can.t be written \(Read-only file system\)"):
        train([f"resume={read_only.path}", "trainer.max_steps=5"], "train.py")


def test_an_error_of_the_disk_is_one_line_wherever_it_comes_from(
    read_only: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    with_name = PermissionError(errno.EACCES, "Permission denied", "runs/x")
    for error, told in (
        (with_name, "error: runs/x: Permission denied\n"),
        (OSError(errno.ENOSPC, "No space left on device"),
         "error: a file of this command: No space left on device\n"),
    ):  # fmt: skip

        def work(error: OSError = error) -> int:
            raise error

        assert guarded(work) == 2
        assert capsys.readouterr().err == told
    failed(read_only, with_name)
    assert read_only.status()["error"] == "runs/x: Permission denied"
    with pytest.raises(ConnectionError):
        guarded(lambda: (_ for _ in ()).throw(ConnectionError(errno.ECONNRESET, "reset")))


def test_a_status_that_was_cut_off_is_told(tmp_path: Path) -> None:
    run = RunDirectory.create(CONFIG, tmp_path / "run", "train.py")
    (run.path / "status.json").write_text('{"state": "runn')
    with pytest.raises(UserError, match=r"run/status\.json: is damaged: "):
        run.status()
