"""The mean training loss between two moments of logging."""

from __future__ import annotations

from collections.abc import Sequence

import torch
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

    @classmethod
    def of_one(
        cls, states: Sequence[tuple[Tensor | None, int]], rank: int, num_processes: int
    ) -> RunningMean:
        """That of one process, from what `state` gave on all of them.

        Args:
            states: In the order of the ranks.
            rank: The process.
            num_processes: How many there are now; if not as many as before, each gets the mean.
        """
        total, count = states[rank if len(states) == num_processes else 0]
        if len(states) != num_processes and total is not None:
            totals = [state[0] for state in states if state[0] is not None]
            total = torch.stack(totals).mean()
        return cls(total, count)

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
