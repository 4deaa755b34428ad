"""Runs trained once for many tests, and the command line called as a user calls it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from commands import SMALL, unrolled

from unrolled.cli import guarded
from unrolled.run.session import train


@pytest.fixture
def refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Call `train` in an empty folder; it must end with exit code 2 and leave nothing behind.

    Returns:
        A function from arguments to the message on stderr.
    """
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def call(*arguments: str) -> str:
        before = sorted(folder.rglob("*"))
        code = guarded(lambda: train(list(arguments), "train.py"))
        captured = capfd.readouterr()
        assert code == 2, captured.err
        assert "Traceback" not in captured.err
        assert len(captured.err.splitlines()) <= 8
        assert sorted(folder.rglob("*")) == before
        return captured.err

    return call


@pytest.fixture(scope="session")
def bitcount_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished bitcount run; tests only read it."""
    folder = tmp_path_factory.mktemp("bitcount")
    done = unrolled("train", *SMALL, "run_dir=run", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "stdout.txt").write_text(done.stdout)
    return folder / "run"


@pytest.fixture(scope="session")
def purchase_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished purchase_intent run on generated sessions; tests only read it."""
    folder = tmp_path_factory.mktemp("purchase")
    done = unrolled(
        "train", "task=purchase_intent", "data.source.sessions=2000", "trainer=cpu",
        "trainer.max_steps=20", "run_dir=run", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "run"
