"""The logarithmic score of predicted probabilities."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class LogLoss(Metric):
    """Mean negative log-likelihood of binary targets in nats.

    Probabilities are kept 1e-7 away from 0 and 1, so that one certain mistake does not make the
    score infinite.
    """

    higher_is_better = False
    full_state_update = False
    nats: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("nats", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, targets: Tensor) -> None:
        """Take probabilities of class 1, `[batch]`, and targets, `[batch]` 0 or 1."""
        p = probabilities.double().clamp(1e-7, 1 - 1e-7)
        self.nats -= torch.where(targets == 1, p.log(), (-p).log1p()).sum()
        self.total += targets.numel()

    def compute(self) -> Tensor:
        """Nats a sequence."""
        return self.nats / self.total
