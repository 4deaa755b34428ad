"""A run that is killed or interrupted anywhere goes on as if nothing had happened, to the bit.

The processes are those of a user's run, ended by real signals; see benchmarks/chaos.py.
"""

from __future__ import annotations

import csv
import json
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chaos
import forked
import pytest
import torch
from forked import Kill

from unrolled.errors import UserError
from unrolled.run.checkpoint_files import damage
from unrolled.run.directory import RunDirectory
from unrolled.run.evaluate import evaluate
from unrolled.run.overrides import read_command_line
from unrolled.run.resume import resume

pytestmark = pytest.mark.process

KILLS = {
    "random": [Kill("before a step", 5), Kill("in a validation", 2)],
    "random, accumulated": [Kill("before a step", 11), Kill("after a step", 8)],
    # The second is killed when it has gone on from the end of an epoch, and saved.
    "random, steps": [
        Kill("before a step", 12),
        Kill("while a checkpoint is written", 2),
        Kill("before a step", 7),
    ],
    "bucketed, dropout": [
        Kill("before a step", 8),
        Kill("after a step", 2),
        Kill("after the test", 1),
    ],
    "packed, dropout": [Kill("after a step", 10), Kill("while a checkpoint is written", 2)],
    "stream, workers": [
        Kill("before a step", 13),
        Kill("in a validation", 1),
        Kill("before a step", 4),
    ],
    "validated by batches": [Kill("before a step", 5), Kill("before a step", 9)],
    "stopped early, EMA": [Kill("before a step", 8), Kill("in the test", 1)],
    "text, 2 ranks": [Kill("after a step", 8, rank=1)],
    "stream, 2 ranks": [Kill("before a step", 9), Kill("after a step", 7, rank=1)],
    "bucketed, 2 ranks": [
        Kill("before a step", 6, rank=1),
        Kill("while a checkpoint is written", 2),
    ],
}
"""Where each run is killed, one after the other; 20 in all."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunDirectory]:
    """The runs that are never stopped, each made when it is first asked for."""
    folder, made = tmp_path_factory.mktemp("whole"), dict[str, RunDirectory]()

    def make(name: str) -> RunDirectory:
        if name not in made:
            run = forked.create(chaos.RUNS[name], folder / str(len(made)))
            codes = forked.work_on(run)
            assert not any(codes), (run.path / "output.txt").read_text()
            made[name] = run
        return made[name]

    return make


def go_on(run: RunDirectory, *typed: str) -> RunDirectory:
    return resume(run.path, None, read_command_line([f"resume={run.path}", *typed]))


@pytest.mark.parametrize("name", KILLS)
def test_a_killed_run_equals_the_run_that_was_never_stopped(
    name: str, whole: Callable[[str], RunDirectory], tmp_path: Path
) -> None:
    expected = chaos.outcome(whole(name))
    run = forked.create(chaos.RUNS[name], tmp_path / "run")
    for kill in KILLS[name]:
        codes = forked.work_on(run, kill)
        assert -signal.SIGKILL in codes, (kill, codes)
        run = go_on(run)
    codes = forked.work_on(run)
    assert not any(codes), (run.path / "output.txt").read_text()
    assert chaos.differences(expected, chaos.outcome(run)) == []


# Of 40 validation sessions hardly one buys.
@pytest.mark.filterwarnings("ignore:No positive samples")
def test_what_is_set_apart_is_judged_once_by_all_processes_and_after_kills(
    whole: Callable[[str], RunDirectory],
) -> None:
    # The runs above, which those that were killed are equal to.
    for name, tested in {"stream, 2 ranks": True, "stopped early, EMA": False}.items():
        run = whole(name)
        with (run.path / "metrics.csv").open(newline="") as file:
            judged = [row for row in csv.DictReader(file) if row["hpo_val/loss"]]
        scores = run.read_json("metrics.json")["metrics"]
        assert len(judged) == 1
        assert float(judged[0]["hpo_val/loss"]) == scores["hpo_val/loss"]["value"]
        assert ("test/loss" in scores) == tested
        alone = evaluate(run.path, [])
        for metric in ("loss", "brier", "sequences"):
            value = scores[f"hpo_val/{metric}"]["value"]
            assert alone[f"hpo_val/{metric}"]["value"] == pytest.approx(value, rel=1e-5)


def test_there_are_at_least_twenty_kills_and_each_kind_of_run_is_killed() -> None:
    assert sum(map(len, KILLS.values())) >= 20
    assert KILLS.keys() == chaos.RUNS.keys()
    assert {kill.place for kills in KILLS.values() for kill in kills} == forked.PLACES.keys()


def test_what_would_be_compared_can_differ(whole: Callable[[str], RunDirectory]) -> None:
    first, second = (chaos.outcome(whole("random")) for _ in range(2))
    assert chaos.differences(first, second) == []
    name = "model.encoder.layer.weight_hh_l0"
    second["last"]["state_dict"][name][0, 0] += 1e-7
    second["metrics.csv"] += "1"
    assert chaos.differences(first, second) == [f"/last/state_dict/{name}", "/metrics.csv"]


@pytest.mark.parametrize(
    ("number", "place", "call"),
    [
        (signal.SIGTERM, "before a step", 5),
        (signal.SIGUSR1, "in a validation", 2),
        # last.ckpt after step 3, the file and the folder; then best.ckpt, by the validation of 5.
        (signal.SIGINT, "while a checkpoint is written", 3),
        (signal.SIGUSR2, "in the test", 1),
        (signal.SIGHUP, "after a step", 5),
    ],
    ids=lambda value: str(value).replace(" ", "-"),
)
def test_an_interrupted_run_has_saved_where_it_was(
    number: signal.Signals,
    place: str,
    call: int,
    whole: Callable[[str], RunDirectory],
    tmp_path: Path,
) -> None:
    run = forked.create(chaos.RUNS["random"], tmp_path / "run")
    assert forked.work_on(run, Kill(place, call), number) == [130]
    status = run.status()
    assert status["state"] == "interrupted"
    saved = torch.load(run.checkpoints / "last.ckpt", weights_only=True)["global_step"]
    # The step in which the signal came is done and saved; so is what it was in the middle of.
    steps = {
        "before a step": 5,
        "after a step": 5,
        "in a validation": 10,
        "while a checkpoint is written": 5,
    }
    assert saved == status["steps"] == steps.get(place, 30)
    assert forked.work_on(go_on(run)) == [0]
    assert run.status()["state"] == "finished"
    assert chaos.differences(chaos.outcome(whole("random")), chaos.outcome(run)) == []


def test_one_of_two_processes_gets_the_signal_and_both_save(
    whole: Callable[[str], RunDirectory], tmp_path: Path
) -> None:
    run = forked.create(chaos.RUNS["stream, 2 ranks"], tmp_path / "run")
    codes = forked.work_on(run, Kill("before a step", 3, rank=1), signal.SIGTERM)
    assert codes == [130, 130]
    # They ask each other every ten steps.
    assert run.status()["steps"] == 10
    assert forked.work_on(go_on(run)) == [0, 0]
    assert chaos.differences(chaos.outcome(whole("stream, 2 ranks")), chaos.outcome(run)) == []


def test_a_damaged_last_checkpoint_is_named_and_the_one_before_it_used(
    whole: Callable[[str], RunDirectory], tmp_path: Path
) -> None:
    run = forked.create(chaos.RUNS["random"], tmp_path / "run")
    forked.work_on(run, Kill("before a step", 14))
    last = run.checkpoints / "last.ckpt"
    content = last.read_bytes()
    last.write_bytes(content[: len(content) // 2])
    assert forked.work_on(go_on(run)) == [0]
    log = (run.path / "train.log").read_text()
    assert f"{last}: it is damaged or incomplete" in log
    assert "the run goes on from the checkpoint before it" in log
    assert (run.checkpoints / "last.ckpt.damaged").read_bytes() == content[: len(content) // 2]
    assert chaos.differences(chaos.outcome(whole("random")), chaos.outcome(run)) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB, of its own."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this user can't mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_fills_up_costs_no_checkpoint(
    small_disk: Path, whole: Callable[[str], RunDirectory]
) -> None:
    run = forked.create(chaos.RUNS["random"], small_disk / "run")
    assert forked.work_on(run) == [1]
    status = run.status()
    assert status["state"] == "failed"
    assert f"{run.checkpoints / 'last.ckpt'}: the checkpoint of " in status["error"]
    assert "could not be written: No space left on device" in status["error"]
    files = {path.name for path in run.checkpoints.iterdir()}
    assert files == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    assert all(damage(run.checkpoints / name) is None for name in files)
    subprocess.run(["mount", "-o", "remount,size=9m", str(small_disk)], check=True)
    assert forked.work_on(go_on(run)) == [0]
    assert chaos.differences(chaos.outcome(whole("random")), chaos.outcome(run)) == []


def test_a_checkpoint_of_another_config_is_refused(
    whole: Callable[[str], RunDirectory], tmp_path: Path
) -> None:
    run = forked.create([*chaos.RUNS["random"], "seed=5"], tmp_path / "run")
    run.checkpoints.mkdir()
    other = whole("random").checkpoints / "last.ckpt"
    (run.checkpoints / "last.ckpt").write_bytes(other.read_bytes())
    assert forked.work_on(run) == [2]
    assert "the checkpoint is of a run with another config" in run.status()["error"]


def test_a_longer_run_goes_on_from_the_end_of_a_shorter(
    whole: Callable[[str], RunDirectory], tmp_path: Path
) -> None:
    name = "random"
    epochs = whole(name).config()["trainer"]["max_epochs"]
    run = forked.create([*chaos.RUNS[name], "trainer.max_epochs=1"], tmp_path / "run")
    assert not any(forked.work_on(run))
    run = go_on(run, f"trainer.max_epochs={epochs}")
    assert not any(forked.work_on(run))
    assert chaos.differences(untested(whole(name)), untested(run)) == []


def test_a_run_goes_on_with_another_number_of_processes_over_the_same_batches(
    whole: Callable[[str], RunDirectory], tmp_path: Path
) -> None:
    run = forked.create(chaos.RUNS["random"], tmp_path / "run")
    forked.work_on(run, Kill("before a step", 14))
    run = go_on(run, "trainer.devices=2", "trainer.strategy=ddp")
    assert forked.work_on(run, Kill("before a step", 9)) == [-9, -9]
    run = go_on(run, "trainer.devices=1", "trainer.strategy=auto")
    assert forked.work_on(run) == [0]
    expected, found = (losses(r) for r in (whole("random"), run))
    assert len(expected) == 6
    assert found == pytest.approx(expected, rel=1e-4)


def losses(run: RunDirectory) -> dict[str, float]:
    """The training losses by step."""
    rows = csv.DictReader((run.path / "metrics.csv").read_text().splitlines())
    return {row["step"]: float(row["train/loss"]) for row in rows if row["train/loss"]}


def untested(run: RunDirectory) -> dict[str, Any]:
    """The outcome without the tests' rows: the shorter run has one of its own."""
    outcome = chaos.outcome(run)
    rows = list(csv.DictReader(outcome["metrics.csv"].splitlines()))
    outcome["metrics.csv"] = [
        row for row in rows if not any(row[name] for name in row if name.startswith("test/"))
    ]
    return outcome


MEMORIZE = [*chaos.FREQUENT, "experiment=seed0_memorize", "model.hidden_size=16",
            "embedding.size=8", "trainer.max_steps=-1", "scheduler=constant",
            "test=false"]  # fmt: skip


def test_what_was_stopped_after_any_epoch_has_the_losses_of_what_was_not(tmp_path: Path) -> None:
    never = forked.create([*MEMORIZE, "trainer.max_epochs=4"], tmp_path / "whole")
    assert forked.work_on(never) == [0]
    part = forked.create([*MEMORIZE, "trainer.max_epochs=1"], tmp_path / "part")
    assert forked.work_on(part) == [0]
    for epochs in (2, 4):
        part = go_on(part, f"trainer.max_epochs={epochs}")
        assert forked.work_on(part) == [0]
    assert chaos.differences(chaos.outcome(never), chaos.outcome(part)) == []
    assert len((part.path / "metrics.csv").read_text().splitlines()) > 12


@pytest.mark.parametrize(("again", "saved"), [(0.1, 5), (1.2, 3)], ids=["same", "second"])
def test_a_second_ctrl_c_leaves_at_once(again: float, saved: int, tmp_path: Path) -> None:
    run = forked.create(chaos.RUNS["random"], tmp_path / "run")
    kill = Kill("before a step", 5, again=again)
    assert forked.work_on(run, kill, signal.SIGINT) == [130]
    output = (run.path / "output.txt").read_text()
    assert output.count("Ctrl-C once more leaves at once") == 1
    last = torch.load(run.checkpoints / "last.ckpt", weights_only=True)
    assert last["global_step"] == saved


def test_a_run_that_is_interrupted_before_its_first_checkpoint_begins_again(
    whole: Callable[[str], RunDirectory], tmp_path: Path
) -> None:
    run = forked.create(chaos.RUNS["random"], tmp_path / "run")
    run.set_status(state="interrupted")
    assert forked.work_on(go_on(run)) == [0]
    assert chaos.differences(chaos.outcome(whole("random")), chaos.outcome(run)) == []


def test_the_states_of_all_generators_are_restored() -> None:
    import numpy as np

    from unrolled.run.random_states import random_states, set_random_states

    torch.manual_seed(1)
    states = random_states()

    def draw() -> tuple[Any, ...]:
        return torch.rand(3).tolist(), random.random(), np.random.rand(3).tolist()

    first = draw()
    assert draw() != first
    # As a checkpoint gives it back.
    set_random_states(
        json.loads(json.dumps({**states, "torch": None})) | {"torch": states["torch"]}
    )
    assert draw() == first


def test_both_checkpoints_damaged_is_a_mistake_that_is_told(tmp_path: Path) -> None:
    run = forked.create(chaos.RUNS["random"], tmp_path / "run")
    run.checkpoints.mkdir()
    (run.checkpoints / "last.ckpt").write_bytes(b"nonsense")
    assert forked.work_on(run) == [2]
    assert "start a new run" in run.status()["error"]
    with pytest.raises(UserError, match="not a run directory"):
        go_on(RunDirectory(tmp_path / "nowhere"))
