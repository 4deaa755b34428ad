"""What may differ between the config of a run and the one that it goes on with."""

from __future__ import annotations

import hashlib
import json
from typing import Any

MAY_DIFFER = (
    "trainer.max_steps",
    "trainer.max_epochs",
    "trainer.max_time",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.log_every_n_steps",
    "callbacks.checkpoints",
    "callbacks.progress",
    "logger",
    "data.workers",
    "data.placement",
    "data.memory_limit",
    "data.threads",
    "data.engine",
    "data.store_dir",
    "name",
    "test",
    "restarts",
    "run_dir",
    "resume",
)
"""Keys, with all below them, that say how far and where a run goes, not what it computes."""

ABSENT = "not set"


def identity(config: dict[str, Any]) -> str:
    """A hash of what a run computes: the same for all configs with which it may go on."""
    text = json.dumps(_flat(config), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def drift(run: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The keys in which two configs differ and may not, each with both values.

    Args:
        run: The run's.
        now: That with which it is to go on.
    """
    before, after = _flat(run), _flat(now)
    return [
        f"{key}: {before.get(key, ABSENT)!r} in the run, now {after.get(key, ABSENT)!r}"
        for key in sorted({*before, *after})
        if before.get(key, ABSENT) != after.get(key, ABSENT)
    ]


def may_differ(key: str) -> bool:
    """Whether a run may go on with another value of a key."""
    return any(key == name or key.startswith(f"{name}.") for name in MAY_DIFFER)


def _flat(node: Any, key: str = "") -> dict[str, Any]:
    """Dotted keys that may not differ, with their values."""
    if key and may_differ(key):
        return {}
    if not isinstance(node, dict) or (key and not node):
        return {key: node}
    flat: dict[str, Any] = {}
    for name, value in node.items():
        flat |= _flat(value, f"{key}.{name}" if key else str(name))
    return flat
