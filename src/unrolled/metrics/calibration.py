"""Temperature scaling: probabilities that are too sure or not sure enough, put right by one number.

Guo, Pleiss, Sun & Weinberger, "On calibration of modern neural networks" (2017), section 4.2, for
two classes: the log-odds are divided by a temperature that is fitted on held-out sequences. The
order of the predictions stays, and with it every ranking metric.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.wrappers.abstract import WrapperMetric

from unrolled.metrics.undefined import NOTHING

LOWEST, HIGHEST = 0.05, 20.0
"""Temperatures that are looked at: sequences without a mistake would have it at 0."""
HALVINGS = 50
NEVER_SURE = 1e-7
"""How near a probability comes to 0 and 1 before its log-odds are taken."""


def scale(probabilities: Tensor, temperature: Tensor | float) -> Tensor:
    """Probabilities of class 1 with their log-odds divided by a temperature; same shape, dtype."""
    logits = torch.logit(probabilities.double(), NEVER_SURE)
    return (logits / temperature).sigmoid().to(probabilities.dtype)


def fit_temperature(probabilities: Tensor, targets: Tensor) -> Tensor:
    """The temperature with the smallest log loss, a float64 scalar in `LOWEST` .. `HIGHEST`.

    In the inverse of the temperature the log loss is convex: its slope changes sign once, and is
    found by halving. Targets of a single class have no best temperature: it stays 1.

    Args:
        probabilities: Of class 1, `[item]`.
        targets: `[item]`, 0 or 1.
    """
    positive = targets == 1
    one = torch.ones((), dtype=torch.float64, device=probabilities.device)
    if bool(positive.all()) or not bool(positive.any()):
        return one
    logits = torch.logit(probabilities.double(), NEVER_SURE)
    of_truth = torch.where(positive, logits, -logits)
    # In logarithms of the temperature, so that each halving means the same everywhere.
    low, high = one * math.log(LOWEST), one * math.log(HIGHEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        # With beta = 1 / T the log loss is softplus(-beta z), its slope -z sigmoid(-beta z).
        slope = -(of_truth * (-of_truth / middle.exp()).sigmoid()).sum()
        colder = slope < 0
        low, high = torch.where(colder, low, middle), torch.where(colder, middle, high)
    return ((low + high) / 2).exp()


class Temperature(Metric):
    """The temperature that fits the predictions best."""

    full_state_update = False
    probabilities: list[Tensor]
    targets: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("probabilities", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")

    def update(self, probabilities: Tensor, targets: Tensor) -> None:
        """Take probabilities of class 1 and targets, both `[item]`."""
        self.probabilities.append(probabilities)
        self.targets.append(targets)

    def compute(self) -> Tensor:
        """A float64 scalar."""
        return fit_temperature(dim_zero_cat(self.probabilities), dim_zero_cat(self.targets))


class Scaled(WrapperMetric):
    """A metric of probabilities that are scaled by a temperature first.

    Args:
        metric: Takes probabilities of class 1 and targets, both `[item]`.
        temperature: Divides the log-odds.
    """

    def __init__(self, metric: Metric, temperature: float) -> None:
        super().__init__()
        self.metric = metric
        self.temperature = temperature

    def update(self, probabilities: Tensor, targets: Tensor) -> None:
        """Take probabilities before scaling, and targets."""
        self.metric.update(scale(probabilities, self.temperature), targets)

    @property
    def undefined(self) -> str:
        """Why the metric's value is NaN."""
        return str(getattr(self.metric, "undefined", NOTHING))

    def compute(self) -> Any:
        """The metric's value."""
        return self.metric.compute()

    def reset(self) -> None:
        """Forget what was taken."""
        self.metric.reset()
        super().reset()
