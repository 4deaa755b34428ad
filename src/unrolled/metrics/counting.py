"""How many predictions are wrong: as a share and as a number."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class ErrorRate(Metric):
    """The share of predictions that differ from their target."""

    higher_is_better: bool | None = False
    full_state_update = False
    wrong: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Integers: a float32 sum stops counting at 2^24.
        self.add_state("wrong", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Take predictions and targets, both `[batch]` int64."""
        self.wrong += (predictions != targets).sum()
        self.total += targets.numel()

    def compute(self) -> Tensor:
        """Wrong over all."""
        return self.wrong.double() / self.total


class Mistakes(ErrorRate):
    """The number of predictions that differ from their target."""

    def compute(self) -> Tensor:
        """Wrong predictions."""
        return self.wrong


class NumSequences(ErrorRate):
    """The number of sequences that were judged."""

    higher_is_better = None

    def compute(self) -> Tensor:
        """All predictions."""
        return self.total


class OffRate(ErrorRate):
    """The share of predicted numbers that are `tolerance` or more off.

    Args:
        tolerance: In the target's unit.
    """

    def __init__(self, tolerance: float) -> None:
        super().__init__()
        self.tolerance = tolerance

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Take predictions and targets, both `[item]` float."""
        # Not `>=`: a prediction of NaN is off too.
        self.wrong += (~((predictions - targets).abs() < self.tolerance)).sum()
        self.total += targets.numel()
