"""How well the type and the time of the next event are foretold."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric


class Forecast(NamedTuple):
    """What was said of some events before they came, each `[event]`.

    Args:
        time_log_likelihood: Log density of the time at which the event came; nats.
        type_log_likelihood: Log probability of the type that it had, given that time or not; nats.
        type: The most probable type, whatever the time.
        median: Of the time until the event.
        mean: Of the same.
    """

    time_log_likelihood: Tensor
    type_log_likelihood: Tensor
    type: Tensor
    median: Tensor
    mean: Tensor


class PerEvent(Metric):
    """The mean over all events of a value that each has."""

    full_state_update = False
    sum: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sum", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, forecast: Forecast, targets: Tensor) -> None:
        """Take a forecast and `[event, 2]`: type, and time until the event."""
        self.sum += self.values(forecast, targets).double().sum()
        self.total += len(targets)

    @abstractmethod
    def values(self, forecast: Forecast, targets: Tensor) -> Tensor:
        """The value of each event."""

    def compute(self) -> Tensor:
        """The mean."""
        return self.sum / self.total


class MeanLogLikelihood(PerEvent):
    """Nats an event.

    Args:
        part: Of the time and the type together, or of one of them.
    """

    higher_is_better = True

    def __init__(self, part: Literal["both", "time", "type"] = "both") -> None:
        super().__init__()
        self.part = part

    def values(self, forecast: Forecast, targets: Tensor) -> Tensor:
        """Log-likelihoods."""
        time, kind = forecast.time_log_likelihood.double(), forecast.type_log_likelihood.double()
        return {"both": time + kind, "time": time, "type": kind}[self.part]


class TypeAccuracy(PerEvent):
    """The share of events that have the most probable type."""

    higher_is_better = True

    def values(self, forecast: Forecast, targets: Tensor) -> Tensor:
        """Whether it is right."""
        return forecast.type == targets[:, 0].long()


class TimeMAE(PerEvent):
    """Mean absolute error of the predicted median, the point that makes it least."""

    higher_is_better = False

    def values(self, forecast: Forecast, targets: Tensor) -> Tensor:
        """Absolute errors."""
        return (forecast.median - targets[:, 1]).abs()


class TimeRMSE(PerEvent):
    """Root of the mean squared error of the predicted mean, the point that makes it least."""

    higher_is_better = False

    def values(self, forecast: Forecast, targets: Tensor) -> Tensor:
        """Squared errors."""
        return (forecast.mean.double() - targets[:, 1]).square()

    def compute(self) -> Tensor:
        """In the unit of time."""
        return super().compute().sqrt()


class NumEvents(PerEvent):
    """The number of events that were foretold."""

    higher_is_better = None

    def values(self, forecast: Forecast, targets: Tensor) -> Tensor:
        """Nothing but the number counts."""
        return targets[:, 1]

    def compute(self) -> Tensor:
        """All of them."""
        return self.total
