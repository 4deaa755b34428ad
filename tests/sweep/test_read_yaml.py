"""YAML: what is written twice or is not what it seems is told, with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from unrolled.errors import UserError
from unrolled.sweep.read_parameters import text_for_number
from unrolled.sweep.read_yaml import read_yaml


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "parameters:\n  lr: {min: 0.1, max: 1.0}\n  model: {value: gru}\n  lr: {value: 1}\n",
            "x.yaml:4: 'lr' is there already, in line 2; which one counts?",
        ),
        (
            "lr:\n  values: [1e-3, 1e-2]\n",
            "x.yaml:2: 1e-3 is a text in YAML; write 1.0e-3, or '1e-3'",
        ),
        ("lr:\n  min: 2.5e4\n", "x.yaml:2: 2.5e4 is a text in YAML; write 2.5e+4, or '2.5e4'"),
        ("a: [1\n", "x.yaml:2: not valid YAML: "),
    ],
)  # fmt: skip
def test_what_is_not_meant_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_yaml(path)
    assert message in str(error.value)


def test_what_is_meant_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "a: &a {x: 1, 1e: 2}\nb: {<<: *a, x: '1e-3', 'y': 1.0e-03}\nc: {1: 2, '1': 3}\n"
    )
    assert read_yaml(path) == {
        "a": {"x": 1, "1e": 2},
        "b": {"x": "1e-3", "1e": 2, "y": 0.001},
        "c": {1: 2, "1": 3},
    }


@given(st.from_regex(r"[-+]?[0-9]{1,3}(\.[0-9]{0,3})?[eE][-+]?[0-9]{1,2}", fullmatch=True))
def test_the_number_that_a_message_names_is_read_as_one(text: str) -> None:
    told = text_for_number(text).rpartition("write ")[2]
    read = yaml.safe_load(told)
    assert isinstance(read, float)
    assert read == float(text)
