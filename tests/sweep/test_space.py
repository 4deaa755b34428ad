"""Sweep files: what is read, how trials are typed, and every message."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from unrolled.errors import UserError
from unrolled.run.overrides import read_command_line
from unrolled.sweep.points import grid, next_of_grid, random_raw, text_of, values_of
from unrolled.sweep.space import Sweep, find_sweep_file
from unrolled.sweep.typed import as_typed

FILE: dict[str, Any] = {
    "program": "train.py",
    "method": "random",
    "metric": {"name": "val/loss", "goal": "minimize"},
    "parameters": {"task": {"value": "bitcount"}, "model": {"values": ["lstm", "gru"]}},
    "command": ["${env}", "${interpreter}", "${program}", "${args_no_hyphens}"],
}


def sweep(**changes: Any) -> Sweep:
    return Sweep(Path("x.yaml"), {**FILE, **changes})


def test_nested_parameters_become_dotted_keys() -> None:
    nested = {
        "optimizer": {"parameters": {"lr": {"min": 0.1, "max": 1.0}}},
        "model.hidden_size": {"values": [8, 16]},
    }
    space = sweep(parameters=nested)
    assert list(space.parameters) == ["optimizer.lr", "model.hidden_size"]
    # `wandb agent` would type optimizer={'lr': 0.5}.
    assert [note.partition(":")[0] for note in space.notes] == ["parameters.optimizer"]
    assert "write dotted keys, optimizer.lr" in space.notes[0]


@given(
    st.recursive(
        st.one_of(
            st.none(), st.booleans(), st.integers(), st.text("ab1.e- ,:'\"\\[]{}=_+/"),
            # What an argument of a process may be.
            st.text(st.characters(codec="utf-8", exclude_characters="\0")),
            st.sampled_from(["price>0", "<unk>", "a#b", "a;b", "a&b", "~x", "\u00e9", "None"]),
        ),
        lambda inner: st.lists(inner, max_size=3), max_leaves=4,
    )
)  # fmt: skip
def test_hydra_reads_what_is_typed_as_the_value_it_was(value: Any) -> None:
    override = OverridesParser.create().parse_override(f"key={as_typed(value)}")
    assert plain(override.value()) == value


def test_a_text_that_wandb_would_write_for_null_stays_a_text() -> None:
    line = read_command_line(["task=bitcount", f"name={as_typed('None')}"])
    assert line.overrides[1] == "++name='None'"
    # As in logger=none.
    assert as_typed("none") == "none"


def plain(value: Any) -> Any:
    if isinstance(value, list):
        return [plain(v) for v in value]
    return getattr(value, "text", value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_hydra_reads_a_number_to_the_last_digit(value: float) -> None:
    assert OverridesParser.create().parse_override(f"key={as_typed(value)}").value() == value


def test_a_trial_is_started_by_what_stands_in_the_command() -> None:
    command = ["${env}", "python3", "${program}", "logger=none", "${args_no_hyphens}", "seed=3"]
    typed = sweep(command=command).arguments({"task": "bitcount", "optimizer.lr": 1e-5})
    assert typed == ["logger=none", "task=bitcount", "optimizer.lr=1e-05", "seed=3"]


def test_a_space_is_the_same_however_its_file_is_written() -> None:
    rule = {"type": "hyperband", "min_iter": 3}
    lr = {"min": 0.001, "max": 0.1, "distribution": "log_uniform_values"}
    model = {"values": ["lstm", "gru"]}
    one = sweep(parameters={"optimizer.lr": lr, "model": model}, early_terminate=rule)
    turned = dict(reversed(lr.items()))
    other = sweep(
        parameters={
            "model": {**model, "distribution": "categorical"},
            "optimizer": {"parameters": {"lr": turned}},
        },
        early_terminate={**rule, "eta": 3},
        metric={"name": "val/loss"},
        command=["python", "train.py", "${args_no_hyphens}"],
        run_cap=9,
    )
    assert one.differences(other) == []
    assert one.identity == other.identity
    assert [random_raw(one, 0, n) for n in range(5)] == [random_raw(other, 0, n) for n in range(5)]


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"method": "bayes", "metric": {"name": "val/error"}}, ["method", "metric"]),
        ({"early_terminate": {"type": "hyperband", "min_iter": 3}}, ["early_terminate"]),
        ({"command": ["${program}", "${args_no_hyphens}", "seed=1"]}, ["command"]),
        (
            {"parameters": {"model": {"values": ["gru", "lstm"]}, "seed": {"value": 1}}},
            ["parameters.model", "parameters.seed", "parameters.task"],
        ),
        # 1 and 1.0 are two values, and two distributions.
        (
            {"parameters": {**FILE["parameters"], "task": {"min": 1, "max": 2}}},
            ["parameters.task"],
        ),
    ],
)
def test_the_keys_in_which_a_space_is_another_one_are_named(
    changes: dict[str, Any], keys: list[str]
) -> None:
    assert sorted(sweep().differences(sweep(**changes))) == keys
    assert sweep().identity != sweep(**changes).identity


@pytest.mark.parametrize(
    "start",
    [
        ["${env}", "${interpreter}", "${program}"], ["python", "train.py"],
        ["/usr/bin/env", "python3.11", "./train.py"],
    ],
)  # fmt: skip
def test_a_trial_has_what_follows_the_program(start: list[str]) -> None:
    space = sweep(command=[*start, "${args_no_hyphens}", "seed=3"])
    assert space.arguments({"model": "gru"}) == ["model=gru", "seed=3"]
    assert space.notes == []


def test_variables_of_the_environment_are_put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["${program}", "data.path=${envvar:LOGS}/a", "${args_no_hyphens}"]
    space = sweep(command=command)
    monkeypatch.setenv("LOGS", "/data")
    assert space.arguments({"model": "gru"}) == ["data.path=/data/a", "model=gru"]
    monkeypatch.delenv("LOGS")
    with pytest.raises(UserError, match=r"\$\{envvar:LOGS\}: the environment has no variable LOGS"):
        space.arguments({"model": "gru"})


def test_what_only_one_of_both_heeds_is_a_note() -> None:
    command = ["${env}", "OMP_NUM_THREADS=4", "${interpreter}", "-u", "${program}"]
    space = sweep(
        command=[*command, "${args_no_hyphens}"],
        metric={"name": "val/loss", "impute": "best"},
    )
    first, second = space.notes
    assert first.startswith("command: OMP_NUM_THREADS=4 -u: for W&B's agent alone; ")
    assert second.startswith("metric.impute: W&B's alone")
    without = Sweep(Path("x.yaml"), {k: v for k, v in FILE.items() if k != "command"})
    (missing,) = without.notes
    assert "write command: [${env}, ${interpreter}, ${program}, ${args_no_hyphens}]" in missing
    # It is understood here all the same.
    assert without.arguments({"model": "gru"}) == ["model=gru"]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 200))
def test_a_grid_has_every_combination_exactly_once(sizes: list[int], stop: int) -> None:
    kinds = [
        lambda n: {"values": [str(v) for v in range(n)]},
        lambda n: {"min": 1, "max": n + 1},
        lambda n: {"distribution": "q_uniform", "min": 0.25, "max": 0.5 * n, "q": 0.5},
        lambda n: {"values": [[v] for v in range(n)]},
    ]
    parameters = {f"p{i}": kinds[i](n) for i, n in enumerate(sizes)}
    space = sweep(method="grid", parameters=parameters)
    points = [text_of(values) for values in grid(space)]
    ends = [p.grid() for p in space.parameters.values()]
    keys = list(parameters)
    assert sorted(points) == sorted(
        text_of(dict(zip(keys, chosen, strict=True))) for chosen in itertools.product(*ends)
    )
    assert len(set(points)) == len(points) == space.num_points
    # What was tried is not tried again; the first that was not is next.
    tried = list(grid(space))
    left = tried.pop(stop % len(tried))
    assert next_of_grid(space, tried) == left
    assert next_of_grid(space, [*tried, left]) is None


def test_a_grid_over_billions_is_counted_and_begun_without_writing_it_down() -> None:
    wide = {"seed": {"min": 0, "max": 10**12 - 1}}
    q = {"distribution": "q_uniform", "min": 0, "max": 10**12, "q": 0.5}
    space = sweep(method="grid", parameters={**wide, "model": {"values": ["lstm", "gru"]}, "x": q})
    assert space.num_points == 10**12 * 2 * (2 * 10**12)
    first = next_of_grid(space, [])
    assert first == {"seed": 0, "model": "lstm", "x": 0.0}
    assert next_of_grid(space, [first]) == {"seed": 0, "model": "lstm", "x": 0.5}
    # The rest of a random search over it, too.
    only_seeds = sweep(parameters=wide)
    assert only_seeds.num_points == 10**12
    assert 0 <= random_raw(only_seeds, 0, 0)["seed"] < 10**12


def test_a_random_point_is_a_function_of_seed_and_number() -> None:
    space = sweep(parameters={**FILE["parameters"], "optimizer.lr": {"min": 0.0, "max": 1.0}})

    def points(seed: int) -> list[str]:
        return [text_of(values_of(space, random_raw(space, seed, n))) for n in range(20)]

    assert points(0) == points(0)
    assert len(set(points(0))) == 20
    assert not set(points(0)) & set(points(1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "rnd"}, "x.yaml: method: rnd: did you mean 'random'?"),
        (
            {"metric": {"name": "a", "gaol": "b"}},
            "x.yaml: 'metric.gaol' is no key of W&B's; did you mean 'goal'?",
        ),
        ({"prgram": "x"}, "x.yaml: 'prgram' is no key of W&B's; did you mean 'program'?"),
        ({"metric": None}, "x.yaml: metric: "),
        ({"program": "main.py"}, "x.yaml: program: main.py: trials are runs of train.py"),
        (
            {"command": ["${program}", "${args}"]},
            "x.yaml: command: ${args}: train.py takes key=value, without hyphens: "
            "${args_no_hyphens}",
        ),
        (
            {"command": ["${programme}", "${args_no_hyphens}"]},
            "x.yaml: command: ${programme}: did you mean '${program}'?",
        ),
        (
            {"command": ["python", "main.py", "${args_no_hyphens}"]},
            "x.yaml: command: python main.py ${args_no_hyphens}: it starts no ${program}",
        ),
        (
            {"command": ["${args_no_hyphens}", "${program}", "seed=1"]},
            "x.yaml: command: no arguments: train.py takes key=value",
        ),
        ({"early_terminate": {"type": "hyperband"}}, "x.yaml: early_terminate: "),
        (
            {"early_terminate": {"type": "hyperband", "min_iter": 3, "etta": 2}},
            "'early_terminate.etta' is no key of W&B's; did you mean 'eta'?",
        ),
        (
            {"parameters": {"lr": {"min": 0.1, "max": 0.2}}, "method": "grid"},
            "x.yaml: parameters.lr: a grid over uniform has no end",
        ),
        (
            {"parameters": {"a": {"parameters": {"b": {"vales": [1]}}}}},
            "x.yaml: parameters.a.b: 'vales': did you mean 'values'?",
        ),
        (
            {"parameters": {"a": {"parameters": {"b": {"value": 1}}}, "a.b": {"value": 2}}},
            "x.yaml: parameters.a.b: given twice",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        sweep(**changes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run_cap": "3"}, "x.yaml: run_cap: 3 is a text; write it without quotation marks"),
        ({"run_cap": True}, "x.yaml: run_cap: True: it must be a valid integer"),
        (
            {"parameters": {"task": {"value": "bitcount"}, "optimizer": {"parameters": {}}}},
            "x.yaml: parameters.optimizer.parameters: names are wanted here, each with its values",
        ),
        ({"parameters": {}}, "x.yaml: parameters: names are wanted here"),
        (
            {"parameters": {True: {"value": 1}}},
            "x.yaml: parameters: True: W&B takes names of letters",
        ),
        (
            {"scheduler": {"engine": "optuna"}},
            "x.yaml: scheduler: W&B's, and not for `unrolled sweep`: another program draws the",
        ),
        ({"job": "team/job"}, "x.yaml: job: W&B's, and not for `unrolled sweep`: a trial here is"),
        ({"image_uri": "a"}, "x.yaml: image_uri: W&B's, and not for"),
        ({"method": "custom"}, "x.yaml: method: custom: W&B's, and not for `unrolled sweep`"),
        ({"metrics": [{"name": "a"}, {"name": "b"}]}, "x.yaml: metrics: W&B's, and not for"),
        (
            {"method": "grid", "parameters": {"a": {"values": [1, 2], "probabilities": [0.5] * 2}}},
            "x.yaml: parameters.a: a grid tries each value once: leave out probabilities",
        ),
        (
            {"early_terminate": {"type": "hyperband", "max_iter": 2, "s": 1}},
            "max_iter / eta is below 1: no trial would ever be judged",
        ),
    ],
)
def test_todays_keys_and_rules_of_wandb_are_known(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        sweep(**changes)
    assert len(error.value.problems) == 1
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "bayes"}, "metric: missing; method: bayes judges trials by it"),
        (
            {"early_terminate": {"type": "hyperband", "min_iter": 3}},
            "metric: missing; early_terminate judges trials by it",
        ),
    ],
)
def test_a_metric_is_missed_where_trials_are_judged_by_it(
    changes: dict[str, Any], message: str
) -> None:
    without = {key: value for key, value in FILE.items() if key != "metric"}
    assert not Sweep(Path("x.yaml"), without).names_metric
    with pytest.raises(UserError, match=message):
        Sweep(Path("x.yaml"), {**without, **changes})


def test_a_grid_over_q_uniform_starts_at_min_and_ends_below_max() -> None:
    steps = {"distribution": "q_uniform", "min": 1, "max": 10, "q": 4}
    space = sweep(method="grid", parameters={"x": steps, "y": {"values": [1, 1.0, 2]}})
    assert [(v["x"], v["y"]) for v in grid(space)] == [(x, y) for x in (1, 5, 9) for y in (1.0, 2)]
    assert space.num_points == 6
    assert space.parameters["x"].ends() == [1, 9]
    tenths = {"distribution": "q_uniform", "min": 0.1, "max": 0.5, "q": 0.1}
    assert [v["x"] for v in grid(sweep(method="grid", parameters={"x": tenths}))] == [
        0.1, 0.2, 0.3, 0.4,
    ]  # fmt: skip


def test_exponents_that_may_be_meant_as_limits_are_a_warning() -> None:
    lr = {"distribution": "log_uniform", "min": 0.0001, "max": 0.1}
    assert sweep(parameters={"optimizer.lr": lr}).warnings == [
        "parameters.optimizer.lr: log_uniform: min and max are exponents of e, so that values lie "
        "between 1 and 1.105; for limits write log_uniform_values"
    ]
    limits = {**lr, "distribution": "log_uniform_values"}
    assert sweep(parameters={"optimizer.lr": limits}).warnings == []


def test_every_problem_is_told_at_once() -> None:
    parameters = {"a": {"mn": 1, "max": 2}, "b": {"distribution": "nrmal"}}
    with pytest.raises(UserError) as error:
        sweep(method="rnd", parameters=parameters)
    assert len(error.value.problems) == 3


def test_a_file_that_is_not_there_has_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"did you mean 'sweeps/bitcount.yaml'"):
        find_sweep_file(Path("sweeps/bitcont.yaml"))


def test_the_files_that_come_with_the_package_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = find_sweep_file(Path("sweeps/bitcount.yaml"))
    assert yaml.safe_load(found.read_text())["parameters"]["task"] == {"value": "bitcount"}
