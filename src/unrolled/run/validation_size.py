"""How many sequences a validation during training looks at: it is not to take longer than training.

The metrics that it gives choose a checkpoint; those of the test set are of all its sequences.
"""

from __future__ import annotations

from typing import Any

from unrolled.data.batching import Source
from unrolled.data.module import SequenceData
from unrolled.tasks.base import SequenceTask

TIMES_TRAINED = 4
"""A step that is validated costs about a third of one that is trained: a validation over more than
four times the steps that were trained since the last one takes longer than these."""
ALWAYS = 200_000
"""Steps of sequences that are always validated, however little is trained in between."""


def most_validated(task: SequenceTask, data: SequenceData, node: dict[str, Any]) -> int | None:
    """Sequences of a validation; None where all are looked at.

    Args:
        task: Says how many targets it judges in reasonable time.
        data: With all validation sequences.
        node: The config of the trainer; `limit_val_batches` in it is obeyed instead.
    """
    if node.get("limit_val_batches") is not None:
        return None
    source, train = data.validation(), data.source("train")
    if len(source) == 0 or len(train) == 0 or not hasattr(source, "take"):
        return None
    steps = _steps(source)
    trained = _epochs_between(node, data.sequences_per_step() / len(train)) * _steps(train)
    limit = max(TIMES_TRAINED * trained, ALWAYS)
    if (judged := task.most_judged()) is not None:
        limit = min(limit, judged)
    return None if steps <= limit else max(1, int(len(source) * limit / steps))


def sampled(data: SequenceData) -> str | None:
    """A sentence where validations look at some sequences only; else None."""
    if data.most_validated is None:
        return None
    return (
        f"val/ metrics are of a sample of {data.most_validated:,} validation sequences, so that "
        "validating takes no longer than training (trainer.limit_val_batches=1.0 takes all)."
    )


def _epochs_between(node: dict[str, Any], epochs_per_step: float) -> float:
    """Epochs that are trained between two validations."""
    interval = node.get("val_check_interval", 1.0)
    if isinstance(interval, int):
        return interval * epochs_per_step
    return float(interval if interval is not None else 1.0) * (
        node.get("check_val_every_n_epoch") or 1
    )


def _steps(source: Source) -> int:
    lengths = getattr(source, "lengths", None)
    return int(lengths.sum()) if lengths is not None else source.targets().numel()
