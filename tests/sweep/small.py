"""A small sweep, whose trials are processes of the tests' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

CONTENT: dict[str, Any] = {
    "program": "train.py",
    "method": "random",
    "metric": {"name": "val/loss"},
    "parameters": {
        "task": {"value": "bitcount"},
        "optimizer.lr": {"min": 0.01, "max": 0.1},
    },
}


def write_sweep(folder: Path, **changes: Any) -> Path:
    """`x.yaml` in a folder."""
    path = folder / "x.yaml"
    path.write_text(yaml.safe_dump({**CONTENT, **changes}))
    return path
