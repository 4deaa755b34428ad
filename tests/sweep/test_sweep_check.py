"""Corners: what trial 40 would have died of is told before the first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from unrolled.errors import UserError
from unrolled.run.compose import compose
from unrolled.run.conf import choices, search_path
from unrolled.run.overrides import read_command_line
from unrolled.sweep.check import Checked, check_sweep, corners_of, num_corners
from unrolled.sweep.command import check_file
from unrolled.sweep.metric_names import metric_names, require_goal
from unrolled.sweep.sections import Metric
from unrolled.sweep.space import Sweep, read_sweep

ROOT = Path(__file__).parents[2]
OURS = sorted((ROOT / "sweeps").glob("*.yaml"))


def sweep(parameters: dict[str, Any], metric: str = "val/loss") -> Sweep:
    content = {
        "program": "train.py",
        "method": "random",
        "metric": {"name": metric},
        "parameters": {"task": {"value": "bitcount"}, **parameters},
    }
    return Sweep(Path("x.yaml"), content)


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_our_own_sweeps_have_no_corner_that_fails(path: Path) -> None:
    assert check_sweep(read_sweep(path), most=16).corners >= 2


@pytest.mark.parametrize(
    ("parameters", "metric", "message"),
    [
        (
            {"optimizer.ler": {"values": [0.1]}},
            "val/loss",
            "x.yaml: optimizer.ler: Adam has no 'ler'; did you mean 'lr'?",
        ),
        (
            {"model": {"values": ["gru", ["rnn", "lstm"]]}},
            "val/loss",
            "x.yaml: model=[rnn,lstm]: a run has one model; for a run with each",
        ),
        (
            {"modl": {"values": ["lstm", "gru"]}},
            "val/loss",
            "x.yaml: modl: the config has no 'modl'; did you mean 'model'?",
        ),
        (
            {"model": {"values": ["lstm", "gur"]}},
            "val/loss",
            "x.yaml: model=gur: no such model; did you mean 'gru'? (with model=gur)",
        ),
        (
            {"model": {"values": ["gru", "transformer"]}, "model.bidirectional": {"value": True}},
            "val/loss",
            "(with model=transformer)",
        ),
        (
            {"optimizer.lr": {"min": 0.0, "max": 1.0}, "data.length": {"min": 0, "max": 9}},
            "val/loss",
            "x.yaml: data.length: 0 does not fit: it must be greater than 0 (with data.length=0)",
        ),
        (
            {"data.workers": {"values": [0, 1]}, "data.length": {"values": [8, 9]}},
            "val/loss",
            "x.yaml: parameters.data.workers: changes nothing of what a trial computes",
        ),
        (
            # How far it goes is another trial, and so is the seed.
            {
                "trainer": {"values": ["cpu", "ddp_cpu"]},
                "trainer.max_steps": {"values": [10, 20]},
                "seed": {"min": 0, "max": 9},
            },
            "val/loss",
            "x.yaml: parameters.trainer: changes nothing of what a trial computes",
        ),
        (
            {"model": {"value": "lstm"}, "model.hidden_size": {"values": [16, 20.5, 64]}},
            "val/loss",
            "x.yaml: model.hidden_size: 20.5 does not fit",
        ),
        ({}, "val/los", "x.yaml: metric: val/los: Bitcount logs no such metric; did you mean "),
        ({}, "loss", "x.yaml: metric: loss: Bitcount logs no such metric; did you mean 'val/loss'"),
        (
            {},
            "test/error",
            "x.yaml: metric: test/error: a sweep that looks at the test set has no test left; "
            "did you mean 'val/error'?",
        ),
        (
            {},
            "hpo_val/error",
            "x.yaml: metric: hpo_val/error: data.hpo_val sets no part of the validation set apart; "
            "add data.hpo_val: {value: 0.5} to the parameters, or take val/error",
        ),
        (
            {"data.hpo_val": {"value": 0.5}},
            "hpo_val/eror",
            "Bitcount logs no such metric; did you mean 'hpo_val/error'?",
        ),
        (
            {"data.hpo_val": {"values": [0.0, 0.5]}},
            "hpo_val/error",
            "x.yaml: parameters.data.hpo_val: trials that are judged by different sequences can't "
            "be compared; give it one value",
        ),
    ],
)
def test_what_is_wrong_with_a_corner_is_told_once(
    parameters: dict[str, Any], metric: str, message: str
) -> None:
    with pytest.raises(UserError) as error:
        check_sweep(sweep(parameters, metric))
    assert len(error.value.problems) == 1
    assert message in str(error.value)


def test_a_part_of_the_validation_set_that_is_there_may_be_judged_by() -> None:
    space = sweep({"data.hpo_val": {"value": 0.5}, "seed": {"values": [1, 2]}}, "hpo_val/error")
    assert check_sweep(space) == Checked(corners=2, all_of_them=True)


def test_that_wandb_stops_no_trial_by_what_is_judged_once_is_a_note() -> None:
    content: dict[str, Any] = {
        "program": "train.py",
        "method": "random",
        "metric": {"name": "hpo_val/error"},
        "parameters": {"task": {"value": "bitcount"}, "data.hpo_val": {"value": 0.5}},
        "early_terminate": {"type": "hyperband", "min_iter": 3},
        "command": ["${program}", "${args_no_hyphens}"],
    }
    assert Sweep(Path("x.yaml"), content).notes == [
        "early_terminate: of hpo_val/error there is one value, at the end of a run: W&B stops no "
        "trial by it; `unrolled sweep` stops by val/error"
    ]
    content["metric"]["name"] = "val/error"
    assert Sweep(Path("x.yaml"), content).notes == []


def test_all_corners_of_a_small_space_and_the_pairs_of_choices_of_a_large_one() -> None:
    small = sweep({"model": {"values": ["a", "b"]}, "x": {"min": 0.0, "max": 1.0}})
    assert list(corners_of(small, 200)) == [
        {"task": "bitcount", "model": m, "x": x} for m in "ab" for x in (0.0, 1.0)
    ]
    many = {f"p{i}": {"min": 0, "max": 9} for i in range(12)}
    parts = {"model": {"values": list("abcd")}, "readout": {"values": list("efg")}}
    large = sweep({**many, **parts})
    corners = list(corners_of(large, 100))
    assert num_corners(large) == 2**12 * 12
    assert len({repr(c) for c in corners}) == 100
    assert {(c["model"], c["readout"]) for c in corners} == {(m, r) for m in "abcd" for r in "efg"}
    assert all({c[f"p{i}"] for c in corners} == {0, 9} for i in range(12))


def test_a_list_of_numbers_has_two_ends_and_each_of_the_others_is_looked_at_once() -> None:
    space = sweep({"seed": {"values": [3, 1, 2, 4]}, "data.length": {"min": 5, "max": 9}})
    found = [(c["seed"], c["data.length"]) for c in corners_of(space, 200)]
    assert found == [(1, 5), (1, 9), (4, 5), (4, 9), (3, 5), (2, 5)]
    assert num_corners(space) == 6
    assert check_sweep(space) == Checked(corners=6, all_of_them=True)


def test_a_choice_of_the_users_own_group_is_a_choice_of_parts(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.yaml").write_text("x: 1")
    many = {f"p{i}": {"min": 0, "max": 9} for i in range(12)}
    large = sweep({**many, "mine": {"values": ["a", "b"]}, "model": {"values": ["c", "d", "e"]}})
    pairs = {(m, n) for m in "ab" for n in "cde"}

    def seen() -> set[tuple[str, str]]:
        # The first of a choice with each of the others is there before any pair.
        return {(c["mine"], c["model"]) for c in corners_of(large, 20)}

    assert pairs - seen() == {("b", "d")}
    large.extra = [f"--config-dir={tmp_path}"]
    assert seen() == pairs


def test_a_number_that_a_distribution_never_gives_is_not_looked_at() -> None:
    low, high = sweep({"x": {"distribution": "beta", "a": 2, "b": 5}}).parameters["x"].ends()
    assert 0 < low < 1e-8
    assert 1 - 1e-8 < high < 1


@pytest.mark.parametrize("task", choices("task", search_path(None)))
def test_the_metrics_that_are_read_from_a_task_have_no_unknown_among_them(task: str) -> None:
    config = compose(read_command_line([f"task={task}"])).config["task"]
    names = metric_names(config)
    assert "loss" in names
    assert len(names) > 2
    assert not any("*" in name for name in names)


@pytest.mark.parametrize(
    ("task", "metric", "message"),
    [
        (
            ["task=purchase_intent"],
            Metric(name="val/auroc"),
            "metric.goal: minimize, the default: of val/auroc more is better; write goal: maximize",
        ),
        (
            ["task=next_word"],
            Metric(name="val/perplexity", goal="maximize"),
            "metric.goal: maximize: of val/perplexity less is better; write goal: minimize",
        ),
        # Inherited, and made of the task's arguments.
        (["task=parity"], Metric(name="val/loss", goal="maximize"), "of val/loss less is better"),
        (["task=cosine"], Metric(name="val/mse", goal="maximize"), "of val/mse less is better"),
        (["task=next_item"], Metric(name="val/recall@20"), "of val/recall@20 more is better"),
        (["task=next_item", "task.k=5"], Metric(name="val/recall@5"), "more is better"),
        (["task=next_event"], Metric(name="train/loss", goal="maximize"), "less is better"),
    ],
)
def test_a_search_for_the_worst_is_refused(task: list[str], metric: Metric, message: str) -> None:
    config = compose(read_command_line(task)).config["task"]
    with pytest.raises(UserError) as error:
        require_goal(metric, config)
    assert message in str(error.value)
    other = "minimize" if metric.goal == "maximize" else "maximize"
    require_goal(metric.model_copy(update={"goal": other}), config)


def test_the_names_follow_the_arguments_of_the_task() -> None:
    config = compose(read_command_line(["task=next_item", "task.k=5"])).config["task"]
    assert {"recall@5", "recall@5_all", "coverage@5"} < set(metric_names(config))


def test_a_check_takes_the_flags_of_train_py_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text("defaults: [lstm]\nforget_bias: 0.5\n")
    file = tmp_path / "x.yaml"
    content = {
        "program": "train.py",
        "method": "grid",
        "metric": {"name": "val/loss"},
        "parameters": {"task": {"value": "bitcount"}, "model": {"values": ["mine", "lstm"]}},
    }
    file.write_text(yaml.safe_dump(content))
    flags = ["--config-dir", str(tmp_path / "conf")]
    for typed in ([str(file), *flags], [*flags, str(file)], [str(file), "=".join(flags)]):
        told, note = check_file(typed).splitlines()
        assert told == (
            f"{file}: 1 parameters, all corners of the space composed, val/loss is logged"
        )
        assert note.startswith(f"{file}: note: command: without one W&B's agent")
    for typed, message in (
        ([str(file)], "model=mine: no such model"),
        ([str(file), "seed=1"], "one sweep file at a time"),
        ([str(file), "y.yaml"], "one sweep file at a time"),
        ([str(file), "--config-dir"], "--config-dir needs a value"),
        (["--x.yaml"], "unknown flag --x.yaml"),
    ):
        with pytest.raises(UserError, match=message):
            check_file(typed)


def test_a_check_imports_no_torch() -> None:
    code = (
        "import sys; from unrolled.sweep.command import check_file; "
        f"print(check_file([{str(OURS[0])!r}])); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "val/loss is logged" in done.stdout
