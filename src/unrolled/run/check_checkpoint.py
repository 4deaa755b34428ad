"""Whether a run can work with the content of a checkpoint: finite numbers, counters that count.

That a file is whole does not say that its values are right: NaN spreads from one weight to all, and
Lightning believes every counter of its loops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from unrolled.errors import UserError

FINITE = ("state_dict", "optimizer_states", "current_model_state", "averaging_state")
"""Parts of a checkpoint all of whose numbers are finite; the last two are of averaged weights."""

COUNTERS = ("ready", "started", "processed", "completed", "_batches_that_stepped")
"""Entries of Lightning's loops that count."""

SQUARES = ("step", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "acc_delta", "exp_inf",
           "row_var", "col_var", "variance", "square")  # fmt: skip
"""Entries of an optimizer's state for one parameter that are never negative: the optimizers of
torch and ours take roots of means of squares."""

_ROOM = 4
"""Bytes of a model's weights for one of its checkpoint: weights can be saved in half precision."""


def require_finite_weights(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint whose weights are not finite.

    Args:
        checkpoint: Its content.
        path: What messages call it.

    Raises:
        UserError: With the first tensor that is not.
    """
    for problem in _not_finite(checkpoint["state_dict"], "state_dict", torch.isfinite):
        raise UserError(f"{path}: {problem}; use another checkpoint, or train again")


def require_restorable(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint from which a training can't go on.

    Args:
        checkpoint: Its content.
        path: What messages call it.

    Raises:
        UserError: With the first number that is not finite, or counter that does not count.
    """
    for problem in _not_restorable(checkpoint):
        raise UserError(
            f"{path}: the run can't go on from this checkpoint: {problem}; bring another one back "
            "from a backup, or train again"
        )


def _not_restorable(checkpoint: Mapping[str, Any]) -> Iterator[str]:
    for part in FINITE:
        yield from _not_finite(checkpoint.get(part), part, torch.isfinite)
    yield from _negative(checkpoint.get("optimizer_states"), "optimizer_states")
    # The best score of a scheduler begins as infinite.
    schedulers = checkpoint.get("lr_schedulers")
    yield from _not_finite(schedulers, "lr_schedulers", lambda found: ~found.isnan())
    for name in ("epoch", "global_step"):
        yield from _not_counted(checkpoint.get(name), name)
    yield from _wrong_counters(checkpoint.get("loops"), "loops")


def _not_finite(
    value: Any, place: str, judge: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[str]:
    if isinstance(value, float):
        if not judge(torch.tensor(value)):
            yield f"{place} is {value}"
    elif isinstance(value, torch.Tensor):
        good = judge(value)
        if not good.all():
            yield f"{place} has {int((~good).sum()):,} of {value.numel():,} numbers not finite"
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _not_finite(part, f"{place}.{key}", judge)
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _not_finite(part, f"{place}.{index}", judge)


def _negative(value: Any, place: str) -> Iterator[str]:
    entries = enumerate(value) if isinstance(value, list | tuple) else ()
    for key, part in value.items() if isinstance(value, Mapping) else entries:
        if key in SQUARES and isinstance(part, torch.Tensor):
            if part.is_floating_point() and (count := int((part < 0).sum())):
                yield f"{place}.{key} has {count:,} of {part.numel():,} numbers below 0"
        else:
            yield from _negative(part, f"{place}.{key}")


def _wrong_counters(value: Any, place: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        return
    for key, part in value.items():
        if key in COUNTERS:
            yield from _not_counted(part, f"{place}.{key}")
        else:
            yield from _wrong_counters(part, f"{place}.{key}")


def _not_counted(value: Any, place: str) -> Iterator[str]:
    if not isinstance(value, int) or value < 0:
        shown = value if isinstance(value, int | float) else type(value).__name__
        yield f"{place} is {shown}, not a count"


@contextmanager
def no_larger_than(path: Path | None) -> Iterator[None]:
    """Stop the building of a model that has far more weights than its checkpoint.

    A config that was changed can ask for a trillion of layers, or for a layer that fills the
    memory; its checkpoint would not fit in the end.

    Args:
        path: The checkpoint; None sets no limit.

    Raises:
        MemoryError: At the first parameter that is too much.
    """
    if path is None:
        yield
        return
    size = path.stat().st_size if path.is_file() else math.inf
    # By identity, since a parameter can have several names; kept, so that none is used again.
    counted: dict[int, nn.Parameter] = {}
    taken = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal taken
        if parameter is None or is_lazy(parameter) or id(parameter) in counted:
            return
        counted[id(parameter)] = parameter
        taken += parameter.numel() * parameter.element_size()
        if taken > _ROOM * size:
            raise MemoryError(
                f"with {name} {tuple(parameter.shape)} the model has {taken:,} bytes of weights, "
                f"and its checkpoint {path} {size:,} bytes in all; the config is not that of the "
                "checkpoint"
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
