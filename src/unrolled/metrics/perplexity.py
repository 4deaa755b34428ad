"""The perplexity of predicted distributions."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from unrolled.metrics.counting import ErrorRate


class Perplexity(Metric):
    """The exponential of the mean cross-entropy in nats.

    Not torchmetrics' own, which goes through the probabilities: one below e^-104 is 0 in float32,
    and makes the perplexity of a whole text infinite.
    """

    higher_is_better = False
    full_state_update = False
    cost: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("cost", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, log_probabilities: Tensor, targets: Tensor) -> None:
        """Take log-probabilities, `[item, class]`, and targets, `[item]`."""
        chosen = log_probabilities.gather(-1, targets.unsqueeze(-1))
        self.cost -= chosen.double().sum()
        self.total += targets.numel()

    def compute(self) -> Tensor:
        """At least 1."""
        return (self.cost / self.total).exp()


class TopErrorRate(ErrorRate):
    """The share of items whose most probable class is not the target."""

    def update(self, log_probabilities: Tensor, targets: Tensor) -> None:
        """Take log-probabilities, `[item, class]`, and targets, `[item]`."""
        super().update(log_probabilities.argmax(-1), targets)
