"""The validation metric that chooses a run's checkpoint: one that has a value on these data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from unrolled.data.module import SequenceData
from unrolled.data.tuning import HPO_VAL
from unrolled.errors import UserError
from unrolled.tasks.base import SequenceTask

LOSS = "val/loss"


@dataclass(frozen=True)
class Monitor:
    """What says which checkpoint is best.

    Args:
        name: A logged metric, `val/auroc`.
        mode: Whether less or more of it is better.
        instead_of: The task's own metric where that has no value; None where it has one.
        reason: Why it has none.
    """

    name: str
    mode: Literal["min", "max"]
    instead_of: str | None = None
    reason: str = ""

    def told(self) -> str | None:
        """A sentence for the user where the task's own metric can't choose; else None."""
        if self.instead_of is None:
            return None
        return (
            f"{self.instead_of} is undefined on the sequences that choose the checkpoint "
            f"({self.reason}): {self.name} chooses it instead"
        )


def monitor_of(task: SequenceTask, data: SequenceData) -> Monitor:
    """The task's own metric, or the loss where that has no value on the validation sequences.

    Raises:
        UserError: When neither has a value.
    """
    source = data.validation()
    reason = _reason(task, data, task.monitor)
    if reason is None:
        return Monitor(task.monitor, task.mode)
    if task.undefined_on(data, source, "loss") is not None:
        raise UserError(
            f"{task.monitor} and {LOSS} are undefined on the {len(source):,} validation sequences "
            f"({reason}): nothing can choose a checkpoint. Use other validation data, or none "
            "(trainer.limit_val_batches=0: the last checkpoint is kept)"
        )
    return Monitor(LOSS, "min", task.monitor, reason)


def undefined_apart(task: SequenceTask, data: SequenceData) -> str | None:
    """A sentence if a configuration can't be chosen by the task's metric on `data.hpo_val`."""
    if not data.hpo_val:
        return None
    metric = task.monitor.partition("/")[2]
    reason = task.undefined_on(data, data.test_sources()[HPO_VAL], metric)
    return reason and (
        f"{HPO_VAL}/{metric} is undefined on the sequences that are set apart ({reason}): no "
        f"configuration can be chosen by it; {HPO_VAL}/loss has a value"
    )


def require_defined(parts: dict[str, Any], task: SequenceTask, data: SequenceData) -> None:
    """Refuse callbacks that are told to go by a metric without a value.

    Args:
        parts: Config nodes by name: those of the callbacks.
        task: The task.
        data: With a validation set.

    Raises:
        UserError: Naming the key, the metric and the reason.
    """
    problems = []
    for name, part in parts.items():
        metric = part.get("monitor")
        if isinstance(metric, str) and (reason := _reason(task, data, metric)):
            problems.append(
                f"callbacks.{name}.monitor={metric}: it is undefined on the validation sequences "
                f"({reason}); use {LOSS}"
            )
    if problems:
        raise UserError(*problems)


def _reason(task: SequenceTask, data: SequenceData, metric: str) -> str | None:
    split, _, short = metric.partition("/")
    return task.undefined_on(data, data.validation(), short) if split == "val" else None
