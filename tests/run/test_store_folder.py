"""A run that comes from elsewhere makes no store in the folder that its config names."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from training import Run

from unrolled.data.check_store import meta_checksum
from unrolled.errors import UserError
from unrolled.run.directory import RunDirectory
from unrolled.run.evaluate import evaluate
from unrolled.run.loading import load_run
from unrolled.run.overrides import read_command_line
from unrolled.run.resume import resume
from unrolled.run.training import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, dict[str, Any]]:
    """A small run, with its store beside it, and its config."""
    folder = tmp_path_factory.mktemp("received")
    rng = random.Random(0)
    lines = [
        f"s{session},{session * 1000 + event},{rng.choice('abc')},{session % 2}"
        for session in range(60)
        for event in range(3)
    ]
    (folder / "log.csv").write_text("\n".join(["session,time,kind,bought", *lines]))
    run = Run(
        folder / "run", "task=purchase_intent", "data=events", "data.source.sequence=session",
        f"data.source.path={folder}/log.csv", "data.source.time=time", "data.source.time_unit=s",
        "data.source.categorical=[kind]", "data.source.label=bought", "model.hidden_size=4",
        f"data.store_dir={folder}/stores", "trainer.max_steps=2", "trainer.log_every_n_steps=1",
    ).directory  # fmt: skip
    train(run)
    return run, run.config()


@pytest.fixture
def received(
    trained: tuple[RunDirectory, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RunDirectory:
    """The run, in another working folder, with a store folder of a stranger's choice."""
    run, config = trained
    data = {**config["data"], "store_dir": str(tmp_path / "theirs")}
    (run.path / "config.yaml").write_text(yaml.safe_dump({**config, "data": data}))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("UNROLLED_STORES", raising=False)
    return run


def told(where: Path, own: Path) -> str:
    return (
        f"data.store_dir: {where} has no store of this log, and none is made in a folder that a "
        f"run names: it is made in {own}; type data.store_dir=FOLDER for another one"
    )


def test_an_own_run_is_judged_on_its_store_as_before(
    received: RunDirectory,
    trained: tuple[RunDirectory, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (received.path / "config.yaml").write_text(yaml.safe_dump(trained[1]))
    assert evaluate(received.path, []) == received.read_json("metrics.json")["metrics"]
    again = resume(received.path, None, read_command_line(["resume=x"]))
    assert again.config()["data"] == trained[1]["data"]
    assert list((tmp_path / "here").iterdir()) == []
    assert "data.store_dir" not in capsys.readouterr().err


@pytest.mark.parametrize("exists", [True, False])
def test_evaluate_makes_the_store_of_a_received_run_in_the_receivers_folder(
    exists: bool, received: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if exists:
        (tmp_path / "theirs").mkdir()
    assert evaluate(received.path, []) == received.read_json("metrics.json")["metrics"]
    assert (tmp_path / "theirs").exists() == exists
    assert not exists or list((tmp_path / "theirs").iterdir()) == []
    assert [p.name[:6] for p in (tmp_path / "here" / "stores").glob("store-*")] == ["store-"]
    own = tmp_path / "here" / "stores"
    assert told(tmp_path / "theirs", own) in capsys.readouterr().err.splitlines()


def test_a_store_folder_that_was_typed_takes_the_store(
    received: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(received.path, [f"data.store_dir={tmp_path}/typed"])
    assert len(list((tmp_path / "typed").glob("store-*"))) == 1
    assert not (tmp_path / "theirs").exists()
    assert "data.store_dir" not in capsys.readouterr().err


def test_other_data_leave_nothing_in_the_folder_that_a_run_names(
    received: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "theirs").mkdir()
    log = Path(received.config()["data"]["source"]["path"])
    other = tmp_path / "other.csv"
    other.write_text(log.read_text() + "\ns99,99000,a,1\n")
    # Old enough for its hash to be remembered.
    os.utime(other, (time.time() - 60, time.time() - 60))
    evaluate(received.path, [f"data.source.path={other}"])
    assert list((tmp_path / "theirs").iterdir()) == []
    # No store is made of them, so that nothing is told.
    assert "data.store_dir" not in capsys.readouterr().err


def test_a_received_run_goes_on_with_a_store_in_the_receivers_folder(
    received: RunDirectory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("UNROLLED_STORES", str(tmp_path / "mine"))
    run = resume(received.path, None, read_command_line([f"resume={received.path}"]))
    assert run.config()["data"]["store_dir"] == str(tmp_path / "mine")
    assert told(tmp_path / "theirs", tmp_path / "mine") in capsys.readouterr().err
    typed = f"data.store_dir={tmp_path}/typed"
    run = resume(received.path, None, read_command_line([f"resume={received.path}", typed]))
    assert run.config()["data"]["store_dir"] == str(tmp_path / "typed")
    assert not (tmp_path / "theirs").exists()


def test_a_run_whose_copy_of_the_sizes_is_not_that_of_the_store_is_refused(
    trained: tuple[RunDirectory, dict[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(trained[0].path, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    meta = json.loads((run.path / "schema" / "store.json").read_text())
    meta["counts"]["train"] = {"sequences": 7, "events": 9, "positive": 3}
    meta["checksum"] = meta_checksum(meta)
    (run.path / "schema" / "store.json").write_text(json.dumps(meta))
    data = load_run(trained[1], run, run.best_checkpoint())[1]
    with pytest.raises(UserError, match="the splits of the run are not those of the store"):
        data.setup()
