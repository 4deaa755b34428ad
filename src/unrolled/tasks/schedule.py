"""A learning-rate schedule that ends with the run, also where epochs end it before its steps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

log = logging.getLogger(__name__)

ENDS = ("total_steps", "T_max")
"""Arguments by which torch's schedulers are told after how many steps they end."""


def fitted(
    make: Callable[..., LRScheduler], optimizer: Optimizer, trainer: lightning.Trainer
) -> LRScheduler:
    """The scheduler, whose end is moved to the end of the run where `max_epochs` comes first.

    Args:
        make: Makes the scheduler; a partial with `total_steps` or `T_max` counts the run's steps,
            -1 where the run is limited by epochs alone.
        optimizer: The optimizer whose learning rate it sets.
        trainer: The trainer, whose data are connected.
    """
    steps = steps_by_epochs(trainer)
    given = make.keywords if isinstance(make, partial) else {}
    end = next((name for name in ENDS if name in given), None)
    if end is None or steps is None:
        return make(optimizer)
    changed: dict[str, Any] = {} if 1 <= given[end] <= steps else {end: steps}
    return make(optimizer, **changed)


def steps_by_epochs(trainer: lightning.Trainer) -> int | None:
    """Number of steps after which `max_epochs` ends the run; None where `max_steps` comes first."""
    if trainer.max_epochs in (None, -1):
        return None
    steps = int(trainer.estimated_stepping_batches)
    return None if steps == trainer.max_steps else steps


def last_step(trainer: lightning.Trainer) -> int:
    """The step at which the run ends; -1 where neither steps nor epochs say so."""
    return steps_by_epochs(trainer) or trainer.max_steps


def tell_steps(trainer: lightning.Trainer) -> None:
    """Say so where the log is so small that the limit of epochs ends the run before its steps."""
    steps = steps_by_epochs(trainer)
    if steps is not None and trainer.max_steps > 0 and trainer.is_global_zero:
        log.warning(
            "trainer.max_epochs=%s ends the run after %s steps, before trainer.max_steps=%s; for "
            "more set both", trainer.max_epochs, f"{steps:,}", trainer.max_steps,
        )  # fmt: skip
