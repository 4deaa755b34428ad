"""What may differ between the config of a run and the one that it goes on with."""

from __future__ import annotations

import hashlib
import json
from typing import Any

HOW_FAR_AND_WHERE = (
    "trainer.max_steps",
    "trainer.max_epochs",
    "trainer.max_time",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "callbacks.checkpoints",
    "data.workers",
    "data.placement",
    "data.memory_limit",
    "data.threads",
    "data.engine",
    "data.store_dir",
    "restarts",
)
SHOWN = ("trainer.log_every_n_steps", "callbacks.progress", "logger", "name")
"""What is logged and printed while a run trains."""

JUDGED_AT_THE_END = (
    "test",
    "task.references",
    "task.reference_scores",
    "task.reference",
    "task.events_seen",
    "task.free_run_steps",
    "task.free_run_mode",
    "task.tolerance",
    "trainer.limit_test_batches",
)
"""What is done with the model when its training is over. Not what a validation measures, by which
best.ckpt is chosen."""

MAY_DIFFER = (*HOW_FAR_AND_WHERE, *SHOWN, *JUDGED_AT_THE_END, "run_dir", "resume")
"""Keys, with all below them, that change nothing in what the training computes."""

_NEW = frozenset(JUDGED_AT_THE_END) - {"test"}
"""Keys that were part of the identity in checkpoints of version 0.1.0."""

ABSENT = "not set"


def identity(config: dict[str, Any]) -> str:
    """A hash of what a run computes: the same for all configs with which it may go on."""
    return _hash(_flat(config, frozenset(MAY_DIFFER)))


def identities(config: dict[str, Any]) -> tuple[str, str]:
    """The identity of a config, and the one that it had in version 0.1.0."""
    return identity(config), _hash(_flat(config, frozenset(MAY_DIFFER) - _NEW))


def _hash(flat: dict[str, Any]) -> str:
    text = json.dumps(flat, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def drift(run: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The keys in which two configs differ and may not, each with both values.

    Args:
        run: The run's.
        now: That with which it is to go on.
    """
    before, after = (_flat(config, frozenset(MAY_DIFFER)) for config in (run, now))
    return [
        f"{key}: {before.get(key, ABSENT)!r} in the run, now {after.get(key, ABSENT)!r}"
        for key in sorted({*before, *after})
        if before.get(key, ABSENT) != after.get(key, ABSENT)
    ]


def judged_otherwise(run: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether a trained model is to be judged in another way than before."""
    others = frozenset(MAY_DIFFER) - frozenset(JUDGED_AT_THE_END)
    return _flat(run, others) != _flat(now, others)


def _flat(node: Any, leave_out: frozenset[str], key: str = "") -> dict[str, Any]:
    """The values of a config by dotted keys, but for some keys and all below them."""
    if key in leave_out:
        return {}
    if not isinstance(node, dict) or (key and not node):
        return {key: node}
    flat: dict[str, Any] = {}
    for name, value in node.items():
        flat |= _flat(value, leave_out, f"{key}.{name}" if key else str(name))
    return flat
