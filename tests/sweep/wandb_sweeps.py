"""W&B's own sweep engine, the package `sweeps` as it is on PyPI, to compare ours with.

It declares numpy<2, though it runs with numpy 2, so that pip can't install it beside what this
project is tested with; earlier versions have other rules. Its wheel (32 kB, MIT licence within)
therefore lies in `wheels/`, byte for byte, and is unpacked for the tests.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import tempfile
import warnings
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

WHEEL = Path(__file__).parent / "wheels" / "sweeps-0.3.0-py3-none-any.whl"
SHA256 = "e35fbfa87215000238dd4ee8589fc0fed476e4f792cbe803f65071e52d53a692"
"""Of the file on PyPI."""


@cache
def engine() -> Any:
    """The module `sweeps`."""
    assert hashlib.sha256(WHEEL.read_bytes()).hexdigest() == SHA256
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # It configures pydantic and matches jsonschema in ways of earlier versions.
        warnings.simplefilter("ignore")
        zipfile.ZipFile(WHEEL).extractall(folder)
        sys.path.insert(0, folder)
        try:
            found = importlib.import_module("sweeps")
            for part in ("grid_search", "hyperband_stopping", "params"):
                importlib.import_module(f"sweeps.{part}")
        finally:
            sys.path.remove(folder)
    return found


def violations(content: dict[str, Any]) -> list[str]:
    """Why W&B refuses a sweep file; empty if it takes it."""
    try:
        found: list[str] = engine().schema_violations_from_proposed_config(content)
    except (TypeError, ValueError) as error:
        # It adds up what it has already found to be no number.
        return [repr(error)]
    return found


def parameter(fields: dict[str, Any]) -> Any:
    """A parameter of W&B's."""
    return engine().params.HyperParameter("p", fields)


def grid(parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """All points of a grid, by dotted keys, in W&B's order."""
    content = {"method": "grid", "parameters": parameters}
    runs = engine().grid_search.grid_search_next_runs([], content, n=10_000)
    return [_flat({k: v["value"] for k, v in run.config.items()}) for run in runs if run]


def stopped(
    rule: dict[str, Any], running: list[float], others: list[list[float]], goal: str
) -> bool:
    """Whether W&B stops a running trial beside finished ones."""
    sweeps = engine()
    runs = [
        sweeps.SweepRun(
            name=str(i), state="finished" if i else "running", history=[{"m": v} for v in values]
        )
        for i, values in enumerate([running, *others])
    ]
    content = {
        "method": "random",
        "metric": {"name": "m", "goal": goal},
        "early_terminate": {"type": "hyperband", **rule},
        "parameters": {"a": {"value": 1}},
    }
    return bool(sweeps.hyperband_stopping.hyperband_stop_runs(runs, content))


def _flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    found = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found
