"""What may change when a run goes on, and which run `resume=auto` finds."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from unrolled.errors import UserError
from unrolled.run.compose import compose
from unrolled.run.directory import RunDirectory
from unrolled.run.drift import drift, identities, identity
from unrolled.run.overrides import read_command_line
from unrolled.run.resume import find, resume

TYPED = ["task=bitcount", "data.length=8", "logger=none", "scheduler=constant"]


def composed(*further: str) -> dict[str, Any]:
    return compose(read_command_line([*TYPED, *further])).config


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return composed()


def with_value(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(config)
    node = changed
    *path, last = key.split(".")
    for name in path:
        node = node[name]
    node[last] = value
    return changed


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.max_epochs", 7),
        ("trainer.devices", 2),
        ("trainer.log_every_n_steps", 3),
        ("callbacks.checkpoints.every_n_steps", 5),
        ("logger", {"wandb": {"_target_": "unrolled.run.wandb_logger.wandb_logger"}}),
        ("run_dir", "/elsewhere"),
        ("test", False),
        ("task.references", False),
        ("task.reference", "boosted_trees"),
        ("trainer.limit_test_batches", 3),
        ("name", "other"),
    ],
)
def test_how_far_and_where_a_run_goes_is_not_what_it_computes(
    config: dict[str, Any], key: str, value: Any
) -> None:
    changed = with_value(config, key, value)
    assert drift(config, changed) == []
    assert identity(changed) == identity(config)


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("seed", 1, "seed: 0 in the run, now 1"),
        ("data.batch_size", 10, "data.batch_size: 1000 in the run, now 10"),
        ("optimizer.lr", 0.5, "optimizer.lr: 0.01 in the run, now 0.5"),
        ("trainer.precision", "bf16-mixed", "trainer.precision: None in the run, now 'bf16-mixed'"),
        # By this the best checkpoint is chosen.
        ("task.k", 5, "task.k: 'not set' in the run, now 5"),
        ("trainer.limit_val_batches", 3, "trainer.limit_val_batches: 'not set' in the run, now 3"),
        ("model.extra", 1, "model.extra: 'not set' in the run, now 1"),
    ],
)
def test_everything_else_is_shown_with_both_values(
    config: dict[str, Any], key: str, value: Any, shown: str
) -> None:
    config = with_value(config, "data.batch_size", 1000)
    config = with_value(config, "optimizer.lr", 0.01)
    config = with_value(config, "trainer.precision", None)
    changed = with_value(config, key, value)
    assert drift(config, changed) == [shown]
    assert identity(changed) != identity(config)


@pytest.fixture
def run(config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run that was interrupted after 10 steps."""
    monkeypatch.chdir(tmp_path)
    run = RunDirectory.create(config, None, "train.py")
    run.checkpoints.mkdir()
    (run.checkpoints / "last.ckpt").write_bytes(b"")
    run.set_status(state="interrupted", steps=10)
    return run


def go_on(run: RunDirectory, *typed: str, whole: bool = False) -> RunDirectory:
    line = read_command_line([f"resume={run.path}", *typed])
    return resume(run.path, compose(line).config if whole else None, line)


def test_a_finished_run_is_judged_again_where_that_is_asked_for_otherwise(
    run: RunDirectory,
) -> None:
    run.set_status(state="finished")
    assert go_on(run, "trainer.log_every_n_steps=7").status()["state"] == "finished"
    assert go_on(run, "trainer.limit_test_batches=3").status()["state"] == "interrupted"
    assert run.config()["trainer"]["limit_test_batches"] == 3


def test_a_run_of_the_version_before_has_an_identity_that_is_known() -> None:
    flat = {"task": {"_target_": "T", "references": True, "k": 3}, "test": True, "seed": 1}
    text = json.dumps({"seed": 1, "task._target_": "T", "task.k": 3, "task.references": True})
    assert identities(flat)[1] == hashlib.sha256(text.encode()).hexdigest()
    assert identities(flat)[0] == identity(flat) != identities(flat)[1]


def test_values_that_may_differ_are_taken_and_nothing_else_changes(run: RunDirectory) -> None:
    before = run.config()
    go_on(run, "trainer.max_steps=77", "callbacks.checkpoints.every_n_minutes=2.5")
    expected = with_value(before, "trainer.max_steps", 77)
    assert run.config() == with_value(expected, "callbacks.checkpoints.every_n_minutes", 2.5)
    # What was lifted from a finished run's end makes it unfinished.
    run.set_status(state="finished")
    go_on(run)
    assert run.status()["state"] == "finished"
    go_on(run, "trainer.max_steps=99")
    assert run.status()["state"] == "interrupted"


def test_a_whole_command_that_says_the_same_goes_on(run: RunDirectory) -> None:
    before = run.config()
    go_on(run, *TYPED, whole=True)
    assert {**run.config(), "resume": None} == before
    go_on(run, *TYPED, "trainer.max_epochs=3", whole=True)
    assert run.config()["trainer"]["max_epochs"] == 3


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        (["model.hidden_size=5"], "model.hidden_size: 24 in the run, now 5"),
        (["seed=4"], "seed: 0 in the run, now 4"),
        (["trainer.max_steps=many"], "trainer.max_steps"),
        (["trainer.max_stepz=5"], "max_steps"),
        (["model=gru"], "model=gru would choose another"),
    ],
)
def test_what_would_compute_something_else_is_refused(
    run: RunDirectory, typed: list[str], shown: str
) -> None:
    text = (run.path / "config.yaml").read_text()
    with pytest.raises(UserError) as caught:
        go_on(run, *typed)
    assert shown in str(caught.value)
    assert (run.path / "config.yaml").read_text() == text


def test_another_experiment_is_refused_with_its_differences(run: RunDirectory) -> None:
    with pytest.raises(UserError) as caught:
        go_on(run, "task=bitcount", "data.length=9", "logger=none", "scheduler=constant", "seed=3",
              whole=True)  # fmt: skip
    assert caught.value.problems[0].endswith("can't go on with another experiment:")
    assert list(caught.value.problems[1:4]) == [
        "data.length: 8 in the run, now 9",
        "data.seed: 0 in the run, now 3",
        "seed: 0 in the run, now 3",
    ]


def test_without_a_checkpoint_there_is_nothing_to_go_on_from(run: RunDirectory) -> None:
    (run.checkpoints / "last.ckpt").rename(run.checkpoints / "previous.ckpt")
    go_on(run)
    (run.checkpoints / "previous.ckpt").unlink()
    with pytest.raises(UserError, match=r"last\.ckpt is missing; there is nothing to resume"):
        go_on(run)


@pytest.mark.parametrize("limit", ["max_steps=9", "max_epochs=1"])
def test_a_run_can_not_be_made_shorter_than_it_is(run: RunDirectory, limit: str) -> None:
    run.set_status(state="finished", steps=10, epochs=2)
    text = (run.path / "config.yaml").read_text()
    with pytest.raises(UserError, match=f"trainer.{limit}: .* a run can only be made longer"):
        go_on(run, f"trainer.{limit}")
    assert (run.path / "config.yaml").read_text() == text
    assert run.status()["state"] == "finished"


def test_more_time_makes_a_finished_run_longer(run: RunDirectory) -> None:
    run.set_status(state="finished")
    go_on(run, "trainer.max_time=00:01:00:00")
    assert run.status()["state"] == "interrupted"


def test_a_schedule_that_was_fixed_can_not_be_made_longer(
    run: RunDirectory, config: dict[str, Any]
) -> None:
    scheduler = {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "max_lr": 1, "total_steps": 9}
    run.write("config.yaml", yaml.safe_dump({**config, "scheduler": scheduler}))
    with pytest.raises(UserError, match="a run of another length needs a new start"):
        go_on(run, "trainer.max_steps=77")


def test_auto_finds_the_latest_run_of_the_same_experiment(
    run: RunDirectory, config: dict[str, Any]
) -> None:
    assert find(composed("seed=1")) is None
    found = find(config)
    assert found is not None
    assert found.path == run.path
    second = RunDirectory.create(config, None, "train.py")
    second.set_status(created=run.status()["created"] + 5)
    found = find(composed("test=false"))
    assert found is not None
    assert found.path == second.path
    # A longer run is another one, unless it is named.
    assert find(composed("trainer.max_epochs=50")) is None
    # A folder that is named is that run or none.
    assert find({**config, "run_dir": str(run.path)}).path == run.path  # type: ignore[union-attr]
    assert find({**config, "run_dir": "new"}) is None


def test_the_status_keeps_the_identity(run: RunDirectory, config: dict[str, Any]) -> None:
    status = json.loads((run.path / "status.json").read_text())
    assert status["identity"] == identity(config)
