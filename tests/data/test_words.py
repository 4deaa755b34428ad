"""The text of a value does not depend on the type in which a file holds it."""

from __future__ import annotations

import datetime
from typing import Any

import pyarrow as pa
import pytest

from unrolled.data.words import as_text


@pytest.mark.parametrize(
    ("values", "kind", "text"),
    [
        ([3, -1, 2**62], pa.int64(), ["3", "-1", str(2**62)]),
        ([3.0, -1.0, 0.1, 1e300, -0.0], pa.float64(), ["3", "-1", "0.1", "1e+300", "0"]),
        ([0.5], pa.float32(), ["0.5"]),
        (["3.0", "", "Füße 💶"], pa.string(), ["3.0", "", "Füße 💶"]),
        ([True, False], pa.bool_(), ["true", "false"]),
        ([datetime.date(2026, 1, 2)], pa.date32(), ["2026-01-02"]),
    ],
)
def test_values_as_text(values: list[Any], kind: pa.DataType, text: list[str]) -> None:
    found = as_text(pa.chunked_array([pa.array(values[:1], kind), pa.array(values[1:], kind)]))
    assert found.type == pa.large_string()
    assert found.to_pylist() == text
