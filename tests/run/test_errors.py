"""Mistakes end with a message of a few lines, exit code 2, and nothing left behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import unrolled

from unrolled.run.directory import RunDirectory

Refuse = Callable[..., str]
HEADER = "session,time,page,label\n"
SHOP = ["task=purchase_intent", "data=shop", "~data.source",
        "+data.source={_target_: unrolled.data.log.EventLog, path: log.csv, sequence: session, "
        "order: time, time: time, categorical: [page], label: label}"]  # fmt: skip


def test_unknown_task(refuse: Refuse) -> None:
    assert refuse("task=bitcont") == (
        "error: task=bitcont: no such task; did you mean 'bitcount'?\n"
    )


def test_misspelt_key_on_the_command_line(refuse: Refuse) -> None:
    assert refuse("task=bitcount", "model.hidden_sise=3") == (
        "error: command line: model.hidden_sise: LSTM has no 'hidden_sise'; "
        "did you mean 'hidden_size'?\n"
    )


def test_wrong_type(refuse: Refuse) -> None:
    assert refuse("task=bitcount", "data.length=long") == (
        'error: command line: data.length: "long" does not fit: it must be a valid integer\n'
    )


def test_missing_data_file(refuse: Refuse) -> None:
    message = refuse("task=purchase_intent", "data=clickstream", "data.source.path=no/log.parquet")
    assert "no/log.parquet: no such file" in message


def test_data_set_without_its_environment_variable(
    refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNROLLED_DATA", raising=False)
    message = refuse("task=purchase_intent", "data=clickstream")
    assert "environment variable UNROLLED_DATA, which is not set" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "session,time,pages,label\n1,0,a,0\n",
            "log.csv: no column 'page' (asked for by data.source.categorical); "
            "did you mean 'pages'?",
        ),
        (HEADER, "log.csv: the file has no rows"),
        (
            HEADER + "".join(f"{i},{i},a,0\n" for i in range(20)),
            "has one class only: all of its 16 sequences have label 0 (column 'label')",
        ),
    ],
)
def test_bad_data(refuse: Refuse, tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "empty" / "log.csv").write_text(text)
    assert expected in refuse(*SHOP)


@pytest.mark.process
def test_a_task_that_does_not_fit_the_data(refuse: Refuse) -> None:
    message = refuse("task=purchase_intent", "data=bitcount", "embedding=dense")
    assert message == (
        "error: task=purchase_intent needs data with two classes; these have 21; "
        "use data=shop or data=clickstream\n"
    )


@pytest.mark.process
def test_more_strings_than_there_are(refuse: Refuse) -> None:
    message = refuse("task=bitcount", "data.length=4", "data.train_size=15")
    assert message.startswith("error: data.length=4 has 16 strings; 15 to train, 3 to validate")


@pytest.mark.process
def test_a_device_that_is_not_there(refuse: Refuse) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert "this machine has no CUDA device; use trainer=cpu" in refuse(
        "task=bitcount", "data.length=8", "trainer=gpu"
    )


def test_a_path_that_can_not_be_written(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "empty" / "file").write_text("")
    message = refuse("task=bitcount", "run_dir=file/run")
    assert "file/run: can't make the run directory" in message


def test_a_run_directory_that_is_taken(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "empty" / "taken").mkdir()
    (tmp_path / "empty" / "taken" / "something").write_text("")
    message = refuse("task=bitcount", "run_dir=taken")
    assert "exists already; go on with it by resume=" in message


@pytest.mark.process
def test_a_run_directory_in_use(bitcount_run: Path, refuse: Refuse, tmp_path: Path) -> None:
    shutil.copytree(bitcount_run, tmp_path / "empty" / "run")
    run = RunDirectory(tmp_path / "empty" / "run")
    # A finished one is shown, whoever else looks at it.
    run.set_status(state="interrupted")
    with run.locked():
        message = refuse("resume=run")
    path = tmp_path / "empty" / "run"
    assert (
        message
        == f"error: {path}: another process is working on this run; wait for it or stop it\n"
    )


def test_resume_of_what_is_no_run(refuse: Refuse) -> None:
    assert refuse("resume=nowhere") == "error: nowhere: not a run directory, no such folder\n"


@pytest.mark.process
def test_resume_changes_nothing_but_the_limit(
    bitcount_run: Path, refuse: Refuse, tmp_path: Path
) -> None:
    shutil.copytree(bitcount_run, tmp_path / "empty" / "run")
    assert "optimizer.lr: 0.01 in the run, now 1" in refuse("resume=run", "optimizer.lr=1")
    assert "scheduler's total_steps was fixed" in refuse("resume=run", "trainer.max_steps=99")


@pytest.mark.process
def test_checkpoint_of_another_task(bitcount_run: Path, purchase_run: Path) -> None:
    other = purchase_run / "checkpoints" / "best.ckpt"
    done = unrolled("evaluate", str(bitcount_run), "--checkpoint", str(other), cwd=Path.cwd())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: {other}: the checkpoint is of the task "
        "'unrolled.tasks.purchase_intent.PurchaseIntent', this run's is "
        "'unrolled.tasks.bitcount.Bitcount'\n"
    )


@pytest.mark.process
def test_checkpoint_that_is_none(bitcount_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "broken.ckpt"
    file.write_bytes(b"not a checkpoint")
    done = unrolled("evaluate", str(bitcount_run), "--checkpoint", str(file), cwd=Path.cwd())
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {file}: not a checkpoint that can be read")
    assert len(done.stderr.splitlines()) <= 3
