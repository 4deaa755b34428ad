"""The perplexity of predicted distributions."""

from __future__ import annotations

import torchmetrics.text
from torch import Tensor

from unrolled.metrics.counting import ErrorRate


class Perplexity(torchmetrics.text.Perplexity):
    """The exponential of the mean cross-entropy in nats; torchmetrics' own for flat input."""

    def update(self, log_probabilities: Tensor, targets: Tensor) -> None:
        """Take log-probabilities, `[item, class]`, and targets, `[item]`."""
        super().update(log_probabilities.unsqueeze(0), targets.unsqueeze(0))


class TopErrorRate(ErrorRate):
    """The share of items whose most probable class is not the target."""

    def update(self, log_probabilities: Tensor, targets: Tensor) -> None:
        """Take log-probabilities, `[item, class]`, and targets, `[item]`."""
        super().update(log_probabilities.argmax(-1), targets)
