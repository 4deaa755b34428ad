"""A sweep here is the same as with W&B: held against W&B's own engine.

Each deliberate difference has a test of its own at the end, and a line in `docs/sweeps.md`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb_sweeps as wandb
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from unrolled.errors import UserError
from unrolled.sweep.hyperband import should_stop
from unrolled.sweep.points import grid
from unrolled.sweep.read_parameters import KINDS, read_parameter
from unrolled.sweep.sections import EarlyTerminate
from unrolled.sweep.space import Sweep

GUIDE = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text()

VALID: dict[str, Any] = {
    "program": "train.py",
    "method": "random",
    "metric": {"name": "val/loss", "goal": "minimize"},
    "parameters": {"task": {"value": "bitcount"}, "model": {"values": ["lstm", "gru"]}},
}

numbers = st.one_of(st.integers(-5, 5), st.floats(-5, 5).map(lambda v: round(v, 3)))
positive = st.one_of(st.integers(1, 5), st.floats(0.1, 5).map(lambda v: round(v, 3)))
values = st.lists(
    st.one_of(st.integers(-3, 3), st.sampled_from([0.5, 1.0, "a", "b", True, None, "1"])),
    min_size=1, max_size=4, unique_by=json.dumps,
)  # fmt: skip


def takes(content: dict[str, Any]) -> bool:
    try:
        Sweep(Path("x.yaml"), content)
    except UserError:
        return False
    return True


# Hyperband

histories = st.lists(
    st.lists(st.one_of(st.integers(0, 4), st.sampled_from([math.nan, math.inf])), max_size=12),
    max_size=9,
)


@given(
    st.one_of(
        st.fixed_dictionaries({"min_iter": st.integers(1, 6)}),
        st.fixed_dictionaries({"max_iter": st.integers(4, 20), "s": st.integers(1, 4)}),
    ),
    st.sampled_from([{}, {"eta": 2}, {"eta": 1.5}, {"eta": 3}, {"eta": 49 / 48}]),
    st.sampled_from([{}, {"strict": True}, {"strict": False}]),
    histories, st.sampled_from(["minimize", "maximize"]),
)  # fmt: skip
@settings(max_examples=120, deadline=None)
def test_hyperband_stops_the_trials_that_wandb_stops(
    when: dict[str, Any],
    eta: dict[str, Any],
    strict: dict[str, Any],
    seen: list[list[float]],
    goal: str,
) -> None:
    fields = {**when, **eta, **strict}
    own, others = (seen[0], seen[1:]) if seen else ([], [])
    rule = EarlyTerminate.model_validate({"type": "hyperband", **fields})
    ours = should_stop(rule, own, others, maximize=goal == "maximize")
    assert ours == wandb.stopped(fields, own, others, goal)


# Distributions

SPECIFICATIONS: list[dict[str, Any]] = [
    {"min": 0.5, "max": 3}, {"min": -1, "max": 2.5}, {"min": 1, "max": 7}, {"values": [1, 2, "a"]},
    {"values": ["a", "b", "c"], "probabilities": [0.5, 0.2, 0.3]},
    {"distribution": "uniform", "min": 1, "max": 4},
    *({"distribution": "q_uniform", "min": 0.3, "max": 9, "q": q} for q in (0.25, 2, 4)),
    *({"distribution": d, "min": -2, "max": 1.5} for d in ("log_uniform", "inv_log_uniform")),
    *({"distribution": "q_log_uniform", "min": 0, "max": 4, "q": q} for q in (0.5, 3)),
    *(
        {"distribution": d, "min": 1e-4, "max": 0.3}
        for d in ("log_uniform_values", "inv_log_uniform_values")
    ),
    *({"distribution": "q_log_uniform_values", "min": 16, "max": 256, "q": q} for q in (0.5, 16)),
    {"distribution": "normal"}, {"distribution": "normal", "mu": 3, "sigma": 0.5},
    {"distribution": "q_normal", "mu": 3, "sigma": 2.5, "q": 0.5},
    {"distribution": "log_normal", "mu": -1, "sigma": 0.5},
    {"distribution": "q_log_normal", "mu": 2, "sigma": 0.5, "q": 2},
    {"distribution": "beta", "a": 2, "b": 5}, {"distribution": "beta"},
    {"distribution": "q_beta", "a": 2, "b": 5, "q": 0.1},
]  # fmt: skip


def test_every_distribution_of_wandb_is_compared() -> None:
    schema = wandb.engine().config.schema.sweep_config_jsonschema["definitions"]
    theirs = {
        kind["properties"]["distribution"]["enum"][0]
        for name, kind in schema.items()
        if name.startswith("param_") and "distribution" in kind.get("properties", {})
    }
    assert theirs | {"uniform"} == set(KINDS)
    compared = {read_parameter(fields).model_dump()["distribution"] for fields in SPECIFICATIONS}
    assert compared | {"constant"} == set(KINDS)


@pytest.mark.parametrize("fields", SPECIFICATIONS, ids=json.dumps)
def test_a_parameter_is_drawn_by_the_law_of_wandb(fields: dict[str, Any]) -> None:
    ours, theirs = read_parameter(fields), wandb.parameter(fields)
    rng = np.random.default_rng(0)
    drawn = [ours.value(ours.draw(rng)) for _ in range(4000)]
    ranks = np.linspace(0, 1, 20_001)[:-1] + 0.5 / 20_000
    if "values" in fields:
        # Of many at once W&B's takes the first value for nearly all; it draws them one by one.
        drawn = [fields["values"].index(value) for value in drawn]
        expected = np.asarray([fields["values"].index(theirs.ppf(rank)) for rank in ranks[::20]])
    else:
        expected = np.asarray(theirs.ppf(ranks))
    # Equal laws are further apart once in 100,000 tests.
    distance = ks_2samp(np.round(drawn, 9), np.round(expected, 9)).statistic
    assert distance < 0.04


# Grids

grid_parameter = st.one_of(
    st.fixed_dictionaries({"values": values}),
    st.tuples(st.integers(-3, 3), st.integers(1, 4)).map(
        lambda v: {"min": v[0], "max": v[0] + v[1]}
    ),
    st.tuples(numbers, positive, positive).map(
        lambda v: {"distribution": "q_uniform", "min": v[0], "max": v[0] + v[1] * 3, "q": v[2]}
    ),
    st.fixed_dictionaries({"value": st.integers(0, 3)}),
)


@given(st.dictionaries(st.sampled_from("abcd"), grid_parameter, min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_a_grid_has_the_points_of_wandb(parameters: dict[str, Any]) -> None:
    nested = {**parameters, "n": {"parameters": {"x": {"values": [1, 2]}}}}
    ours = list(grid(Sweep(Path("x.yaml"), {**VALID, "method": "grid", "parameters": nested})))
    theirs = wandb.grid(nested)

    def points(found: list[dict[str, Any]]) -> list[str]:
        # The digits beyond the twelfth are numpy's.
        rounded = [
            {k: round(float(v), 9) + 0.0 if type(v) in (int, float) else v for k, v in p.items()}
            for p in found
        ]
        return sorted(json.dumps(point, sort_keys=True) for point in rounded)

    assert points(ours) == points(theirs)


# The schema

anything = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 3), st.sampled_from([0.5, 1.5, "3", "a", "", [], {}])
)
fields_of_a_parameter = st.dictionaries(
    st.sampled_from(["value", "values", "min", "max", "q", "mu", "sigma", "distribution", "mn",
                     "probabilities", "parameters"]),
    st.one_of(anything, st.just([1, 2]), st.just([0.5, 0.5]), st.just([0.5, 0.6]),
              st.sampled_from(sorted(KINDS)), st.just({"x": {"value": 1}})),
    max_size=4,
)  # fmt: skip
fields_of_a_range = st.fixed_dictionaries(
    {"min": numbers, "max": numbers},
    optional={"q": numbers, "distribution": st.sampled_from(sorted(KINDS))},
)


@given(
    st.one_of(fields_of_a_parameter, fields_of_a_range), st.sampled_from(["a", "a.b", "1a", "a b"])
)
@settings(max_examples=80, deadline=None)
def test_a_parameter_is_refused_if_wandb_refuses_it(fields: dict[str, Any], name: str) -> None:
    content = {**VALID, "parameters": {name: fields}}
    warned = [text for text in wandb.violations(content) if "base-e exponents" in text]
    refused = len(wandb.violations(content)) > len(warned)
    if not refused and beyond_wandb(fields):
        return
    assert takes(content) == (not refused)
    if warned and not refused:
        assert [text.partition(":")[0] for text in Sweep(Path("x.yaml"), content).warnings] == [
            f"parameters.{name}"
        ]


sections = st.dictionaries(
    st.sampled_from(["metric", "early_terminate", "run_cap", "method", "controller", "command",
                     "name", "kind", "description", "prgram"]),
    st.one_of(
        anything, st.sampled_from(["grid", "bayes", "sweep"]), st.integers(1, 9),
        st.dictionaries(
            st.sampled_from(["name", "goal", "target", "impute", "type", "min_iter", "max_iter",
                             "s", "eta", "strict"]),
            st.one_of(anything, st.sampled_from(["minimize", "hyperband", "worst", "local", 4])),
            max_size=4,
        ),
        st.fixed_dictionaries(
            {"type": st.just("hyperband"), "min_iter": st.integers(0, 3)},
            optional={"eta": st.sampled_from([1, 2, 2.5, "3"]), "strict": anything},
        ),
    ),
    max_size=3,
)  # fmt: skip


@given(sections)
@settings(max_examples=80, deadline=None)
def test_a_file_is_refused_if_wandb_refuses_it(changes: dict[str, Any]) -> None:
    content = {**VALID, **changes}
    refused = bool(wandb.violations(content))
    if not refused and changes.get("command") is not None:
        # Ours has to start train.py.
        return
    rule = changes.get("early_terminate")
    if not refused and rule and "max_iter" in rule:
        return
    assert takes(content) == (not refused)


# Deliberate differences


def beyond_wandb(fields: dict[str, Any]) -> bool:
    """Whether a parameter that W&B takes is one that ours refuses, for a reason that is tested."""
    inner = fields.get("parameters")
    return inner is not None or fields.get("values") == []


DIFFERENCES = {
    "twice": {"parameters": {"a": {"values": [1, 1]}}},
    "nested": {"parameters": {"a": {"parameters": {"b": {"min": 3, "max": 1}}}}},
    "beta": {"parameters": {"a": {"distribution": "beta", "a": 0}}},
    "3.0": {"run_cap": 3.0},
    "`program`": {"program": "main.py"},
    "max_iter": {"early_terminate": {"type": "hyperband", "max_iter": 2, "s": 1}},
    "`metrics`": {"metric": None, "metrics": [{"name": "a"}, {"name": "b"}], "method": "custom"},
    "`scheduler`": {"scheduler": {"engine": "wandb"}},
    "`job`": {"job": "team/project/job:latest"},
    "`image_uri`": {"image_uri": "registry/image"},
    "custom": {"method": "custom"},
    "`bayes`": {"metric": None, "method": "bayes"},
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_what_wandb_takes_and_we_refuse_is_named_in_the_guide(name: str) -> None:
    content = {**VALID, **DIFFERENCES[name]}
    content = {key: value for key, value in content.items() if value is not None}
    assert wandb.violations(content) == []
    assert not takes(content)
    assert name in GUIDE.partition("## Differences from W&B")[2]
