"""The validation set in two: what says which checkpoint is best, and what says which configuration.

The best value of a validation set that has chosen the checkpoint is too good, and the more so the
more often it was looked at: configurations that are compared by it are compared by their luck, too.
Apart from it is what EBES calls `hpo_val` (Osin et al. 2024, https://arxiv.org/abs/2410.03399).
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import torch
from pydantic import Field
from torch import Tensor

from unrolled.data.batching import Source
from unrolled.errors import UserError

HPO_VAL = "hpo_val"
"""The option of the data, and the prefix of the metrics."""

Share: TypeAlias = Annotated[float, Field(ge=0, lt=1)]


def divide(count: int, share: float, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Which sequences of a validation set early stopping sees, and which are set apart.

    A function of the arguments alone. No seed has a part in it: with `seed` among the parameters
    of a sweep, its trials are still judged by the same sequences, and no checkpoint of any of them
    was chosen by these. Those of a smaller share are among those of a larger one.

    Both parts hold every label in about the proportion of the whole, and at least one sequence of
    each label that two or more have, as far as a part has room for one of each. A label of a single
    sequence stays with those that stop a run, where it decides whether a metric is defined.

    Args:
        count: Sequences of the validation set.
        share: Of them that is set apart, above 0 and below 1.
        labels: `[sequence]`, their classes; None where they have none.

    Returns:
        Their numbers, rising, int64 both: those that stop a run, those that are set apart.

    Raises:
        UserError: When one of the two would be empty.
    """
    apart = round(share * count)
    if not 0 < apart < count:
        raise UserError(
            f"data.{HPO_VAL}={share:g} of {count:,} validation sequences sets {apart:,} apart to "
            f"choose a configuration by and leaves {count - apart:,} to choose the checkpoint by; "
            "neither may be empty"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    if labels is not None:
        order = order[_evenly(labels[order]).argsort(stable=True)]
    return order[apart:].sort().values, order[:apart].sort().values


def _evenly(labels: Tensor) -> Tensor:
    """For each element its place among those of its label, from 0 (first) to 1 (last or only)."""
    by_label = labels.argsort(stable=True)
    counts = torch.unique(labels, return_counts=True)[1]
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    rank = torch.arange(len(labels)) - first
    others = (counts - 1).repeat_interleave(counts)
    place = torch.where(others > 0, rank.double() / others.clamp(min=1), 1.0)
    return torch.empty_like(place).scatter_(0, by_label, place)


def parts(source: Source, share: float) -> tuple[Source, Source]:
    """The two parts of a validation set; see `divide`.

    Raises:
        UserError: When one of them would be empty, or the source can't be divided.
    """
    rest, apart = divide(len(source), share, _labels(source))
    take = getattr(source, "take", None)
    if take is None:
        raise UserError(
            f"data.{HPO_VAL}: {type(source).__name__} has no method `take(rows)`, which gives some "
            "of its sequences as a source of their own; add it, or leave the option out"
        )
    return take(rest), take(apart)


def _labels(source: Source) -> Tensor | None:
    """The class of each sequence; None where the steps have targets, or the target is a number."""
    targets = source.targets().cpu() if hasattr(source, "targets") else torch.empty(0)
    one_each = targets.dim() == 1 and len(targets) == len(source)
    return targets if one_each and not targets.is_floating_point() else None
