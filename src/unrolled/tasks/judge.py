"""The metrics and the mean loss of one set of sequences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection


class Judge(nn.Module):
    """Metrics by name and the mean loss, collected over batches.

    Args:
        metrics: By name; each takes predictions and targets, `[item]`.
    """

    def __init__(self, metrics: dict[str, Any]) -> None:
        super().__init__()
        # Groups are made of metrics whose states are equal after the first batch, by chance too.
        self.metrics = MetricCollection(metrics, compute_groups=False)
        self.loss = MeanMetric()

    def update(self, predictions: Any, targets: Tensor, losses: Tensor) -> None:
        """Add a batch: what the metrics take, `[item]` or as they want it; losses `[batch]`."""
        self.loss.update(losses)
        self.metrics.update(predictions, targets)

    def take(self) -> dict[str, Tensor]:
        """The values by name, `loss` among them, of all processes; the next set begins."""
        values = {"loss": self.loss.compute(), **self.metrics.compute()}
        self.metrics.reset()
        self.loss.reset()
        return values


def judge_constant(metrics: dict[str, Any], answer: Tensor, targets: Tensor) -> dict[str, float]:
    """The metrics of a model that always gives the same answer, by name.

    Args:
        metrics: By name.
        answer: A scalar, or the log-probabilities of all classes.
        targets: `[item]`.
    """
    answers = answer.to(targets.device).expand(len(targets), *answer.shape)
    return judge_predictions(metrics, answers, targets)


@torch.inference_mode()
def judge_predictions(
    metrics: dict[str, Any], predictions: Any, targets: Tensor
) -> dict[str, float]:
    """The metrics of predictions that every process has whole, by name.

    Args:
        metrics: By name.
        predictions: `[item]`, or what else the metrics take.
        targets: `[item]`.
    """
    collection = MetricCollection(metrics, compute_groups=False).to(targets.device)
    for metric in collection.values():
        # Every process judges all targets: there is nothing to add up.
        metric.distributed_available_fn = lambda: False
    collection.update(predictions, targets)
    return {name: float(value) for name, value in collection.compute().items()}
