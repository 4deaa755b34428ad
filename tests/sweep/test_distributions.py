"""Distributions: what is drawn lies in the support, and has the law that W&B gives it."""

from __future__ import annotations

import math
from datetime import date, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled.errors import UserError
from unrolled.sweep.continuous import Continuous
from unrolled.sweep.distributions import Categorical
from unrolled.sweep.read_parameters import KINDS, read_parameter

SUPPORTS: dict[str, tuple[dict[str, Any], tuple[float, float]]] = {
    "uniform": ({"min": -1, "max": 2.5}, (-1, 2.5)),
    "q_uniform": ({"min": 0.2, "max": 2, "q": 0.5}, (0, 2)),
    "log_uniform": ({"min": -3, "max": 1}, (math.exp(-3), math.e)),
    "q_log_uniform": ({"min": 0, "max": 4, "q": 2}, (0, 54)),
    "inv_log_uniform": ({"min": -3, "max": 1}, (math.exp(-1), math.exp(3))),
    "log_uniform_values": ({"min": 1e-5, "max": 0.1}, (1e-5, 0.1)),
    "q_log_uniform_values": ({"min": 16, "max": 256, "q": 16}, (16, 256)),
    "inv_log_uniform_values": ({"min": 1e-5, "max": 0.1}, (1e-5, 0.1)),
    "normal": ({"mu": 3, "sigma": 2}, (-9, 15)),
    "q_normal": ({"mu": 3, "sigma": 2, "q": 3}, (-9, 15)),
    "log_normal": ({"mu": -1, "sigma": 0.5}, (math.exp(-4), math.exp(2))),
    "q_log_normal": ({"mu": 1, "sigma": 0.5, "q": 0.1}, (0.1, 54.6)),
    "beta": ({"a": 2, "b": 5}, (0, 1)),
    "q_beta": ({"a": 2, "b": 5, "q": 0.25}, (0, 1)),
    "int_uniform": ({"min": -2, "max": 3}, (-2, 3)),
}


def parameter(name: str, **fields: Any) -> Any:
    return read_parameter({"distribution": name, **fields})


@given(st.sampled_from(sorted(SUPPORTS)), st.integers(0, 2**31))
def test_what_is_drawn_lies_in_the_support_and_is_a_multiple_of_q(name: str, seed: int) -> None:
    fields, (low, high) = SUPPORTS[name]
    kind = parameter(name, **fields)
    value = kind.value(kind.draw(np.random.default_rng(seed)))
    assert low - 1e-9 <= value <= high + 1e-9
    if "q" in fields:
        assert abs(value / fields["q"] - round(value / fields["q"])) < 1e-6
    if name == "int_uniform" or isinstance(fields.get("q"), int):
        assert type(value) is int
    else:
        assert type(value) is float


def test_every_distribution_of_wandb_is_there() -> None:
    assert set(KINDS) == {*SUPPORTS, "constant", "categorical", "categorical_w_probabilities"}


@pytest.mark.parametrize(
    ("name", "median"),
    [
        ("uniform", 0.75), ("log_uniform", math.exp(-1)), ("inv_log_uniform", math.e),
        ("log_uniform_values", 1e-3), ("inv_log_uniform_values", 1e-3), ("normal", 3),
        ("log_normal", math.exp(-1)), ("beta", 0.2645), ("int_uniform", 0.5),
    ],
)  # fmt: skip
def test_half_of_what_is_drawn_lies_below_the_median(name: str, median: float) -> None:
    kind = parameter(name, **SUPPORTS[name][0])
    rng = np.random.default_rng(0)
    below = np.mean([kind.value(kind.draw(rng)) < median for _ in range(2000)])
    # 4.5 standard deviations of the share.
    assert abs(below - 0.5) < 0.05


def test_probabilities_are_kept() -> None:
    fields = {"values": ["a", "b"], "probabilities": [0.75, 0.25]}
    kind = parameter("categorical_w_probabilities", **fields)
    rng = np.random.default_rng(0)
    share = np.mean([kind.value(kind.draw(rng)) == "a" for _ in range(2000)])
    assert abs(share - 0.75) < 0.045


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"value": 3}, "constant"), ({"values": [1, 2]}, "categorical"),
        ({"min": 1, "max": 3}, "int_uniform"), ({"min": 1, "max": 3.0}, "uniform"),
        ({"min": 0.5, "max": 3}, "uniform"),
        ({"values": [1, 2], "probabilities": [0.5, 0.5]}, "categorical_w_probabilities"),
    ],
)  # fmt: skip
def test_the_distribution_that_wandb_infers(fields: dict[str, Any], name: str) -> None:
    assert read_parameter(fields).model_dump()["distribution"] == name


@given(
    st.lists(
        st.one_of(st.booleans(), st.integers(-3, 3), st.floats(-2, 2), st.text(max_size=2)),
        min_size=1, unique_by=repr,
    )
)  # fmt: skip
def test_values_of_any_type_come_back_as_they_were_typed(values: list[Any]) -> None:
    kind = read_parameter({"values": values})
    assert isinstance(kind, Categorical)
    assert len(set(kind.labels())) == len(values)
    for value in values:
        back = kind.value(kind.raw_of(value))
        assert (type(back), repr(back)) == (type(value), repr(value))


@pytest.mark.parametrize("name", sorted(SUPPORTS))
def test_optuna_is_told_the_range_in_which_raw_values_lie(name: str) -> None:
    kind = parameter(name, **SUPPORTS[name][0])
    told = kind.distribution_of_raw()
    rng = np.random.default_rng(1)
    assert all(told._contains(told.to_internal_repr(kind.draw(rng))) for _ in range(200))
    if isinstance(kind, Continuous):
        assert kind.is_log == getattr(told, "log", False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"distribution": "unform", "min": 1, "max": 2},
            "distribution: unform: no such one; did you mean 'uniform'?",
        ),
        ({"mn": 1, "max": 2}, "'mn': did you mean 'min'?"),
        ({"min": 3, "max": 1}, "min, 3, is not below max, 1"),
        (
            {"distribution": "log_uniform_values", "min": 0, "max": 1},
            "min: 0: it must be greater than 0",
        ),
        ({"min": "3", "max": 4.5}, "min: 3 is a text; write it without quotation marks"),
        (
            {"distribution": "log_uniform_values", "min": "1e-4", "max": 1},
            "min: 1e-4 is a text in YAML; write 1.0e-4",
        ),
        (
            {"distribution": "normal", "mean": 0},
            "'mean' is no key of W&B's; choose from: distribution, mu, sigma",
        ),
        (
            {"distribution": "log_uniform", "min": 100, "max": 9000},
            "the range goes beyond what a number can be",
        ),
        ({"values": [1, 1]}, "values: 1 is there twice"),
        ({"values": [1, 2], "probabilities": [1]}, "2 values have 1 probabilities"),
        ({"values": [1, 2], "probabilities": [3, 1]}, "probabilities: they add up to 4, not to 1"),
        ({"value": 1, "distribution": ["constant"]}, "distribution: ['constant']: no such one"),
        ({"min": 2, "max": 2}, "min, 2, is not below max, 2"),
        (5, "5: write value: 5"),
        (
            {"value": date(2014, 9, 1)},
            "2014-09-01: a date in YAML; write it in quotation marks: '2",
        ),
        (
            {"values": ["a", {"from": [datetime(2014, 9, 1, 7)]}]},
            "2014-09-01 07:00:00: a datetime in YAML; write it in quotation marks",
        ),
        ({}, "it needs value, values, min and max, or a distribution"),
    ],
)
def test_what_is_wrong_with_a_parameter_is_told(fields: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        read_parameter(fields)
    assert message in str(error.value)
