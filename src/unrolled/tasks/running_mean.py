"""The mean training loss between two moments of logging."""

from __future__ import annotations

from torch import Tensor


class RunningMean:
    """The mean of what was added since it was last taken, without waiting for the device.

    Not a torchmetrics.MeanMetric, whose update costs more than all else in a small training step.

    Args:
        total: Sum so far, a scalar; None before the first value.
        count: Number of values.
    """

    def __init__(self, total: Tensor | None = None, count: int = 0) -> None:
        self.total = total
        self.count = count

    def add(self, value: Tensor) -> None:
        """Add a scalar."""
        self.total = value if self.total is None else self.total.to(value.device) + value
        self.count += 1

    def take(self) -> Tensor:
        """The mean; the next one begins."""
        assert self.total is not None
        mean, self.total, self.count = self.total / self.count, None, 0
        return mean

    def state(self) -> tuple[Tensor | None, int]:
        """The arguments that make it again."""
        return (None if self.total is None else self.total.cpu()), self.count
