"""Ranking metrics of two classes that have no value where a class is missing."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision
from torchmetrics.utilities import dim_zero_cat

from unrolled.metrics.undefined import NOTHING


class AUROC(BinaryAUROC):
    """The probability that an item of class 1 has a larger score than one of class 0."""

    undefined = NOTHING

    def compute(self) -> Tensor:  # type: ignore[override]  # torchmetrics' own says the same.
        """0 to 1; NaN without items of both classes, where torchmetrics gives 0."""
        ones, count = _ones(self.target)
        if 0 < ones < count:
            return super().compute()
        if count:
            self.undefined = f"all {count:,} targets are {min(ones, 1)}"
        return torch.full((), torch.nan, device=self.device)


class AveragePrecision(BinaryAveragePrecision):
    """The area under precision by recall."""

    undefined = NOTHING

    def compute(self) -> Tensor:  # type: ignore[override]  # torchmetrics' own says the same.
        """0 to 1; NaN without an item of class 1, where torchmetrics gives 0."""
        ones, count = _ones(self.target)
        if ones:
            return super().compute()
        if count:
            self.undefined = f"none of {count:,} targets is 1"
        return torch.full((), torch.nan, device=self.device)


def _ones(targets: Tensor | list[Tensor]) -> tuple[int, int]:
    """How many targets are 1, and how many there are."""
    if len(targets) == 0:
        return 0, 0
    whole = dim_zero_cat(targets)
    return int((whole == 1).sum()), len(whole)
