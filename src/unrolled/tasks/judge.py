"""The metrics and the mean loss of one set of sequences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection

from unrolled.metrics.undefined import compute_each


class Judge(nn.Module):
    """Metrics by name and the mean loss, collected over batches.

    Args:
        metrics: By name; each takes predictions and targets, `[item]`.
    """

    def __init__(self, metrics: dict[str, Any]) -> None:
        super().__init__()
        self.undefined: dict[str, str] = {}
        # Groups are made of metrics whose states are equal after the first batch, by chance too.
        self.metrics = MetricCollection(metrics, compute_groups=False)
        # By default torchmetrics leaves NaN out of a mean, which would make up a loss.
        self.loss = MeanMetric(nan_strategy="disable")

    def update(self, predictions: Any, targets: Tensor, losses: Tensor) -> None:
        """Add a batch: what the metrics take, `[item]` or as they want it; losses `[batch]`."""
        self.loss.update(losses)
        self.metrics.update(predictions, targets)

    def take(self) -> dict[str, Tensor]:
        """The values by name, `loss` among them, of all processes; the next set begins.

        A value that is not defined is NaN, and `undefined` has the reason by its name.
        """
        share_kinds(self.modules())
        values, self.undefined = compute_each([("loss", self.loss), *self.metrics.items()])
        self.metrics.reset()
        self.loss.reset()
        return values


def share_kinds(modules: Iterable[nn.Module]) -> None:
    """Let metrics be computed over all processes also where this one has seen no sequence.

    Of a set with fewer sequences than processes some have none. torchmetrics then sends an empty
    float32 tensor for a list of, say, int64 targets, and gloo aborts the processes.

    Args:
        modules: Those among them that are metrics; the same on every process.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    lists = [
        (metric, state)
        for metric in modules
        if isinstance(metric, Metric)
        for state in metric.metric_state.values()
        if isinstance(state, list)
    ]
    if not lists:
        return
    own = [(state[0].dtype, state[0].shape[1:]) if state else None for _, state in lists]
    of_all: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(of_all, own)
    for (metric, state), *kinds in zip(lists, *of_all, strict=True):
        kind = next((kind for kind in kinds if kind is not None), None)
        if not state and kind is not None:
            dtype, shape = kind
            state.append(torch.empty((0, *shape), dtype=dtype, device=metric.device))


def judge_constant(
    metrics: dict[str, Any], answer: Tensor, targets: Tensor
) -> tuple[dict[str, float], dict[str, str]]:
    """The metrics of a model that always gives the same answer.

    Args:
        metrics: By name.
        answer: A scalar, or the log-probabilities of all classes.
        targets: `[item]`.

    Returns:
        The values by name, NaN where one is not defined; and the reasons of those.
    """
    answers = answer.to(targets.device).expand(len(targets), *answer.shape)
    return _judged(metrics, answers, targets)


def judge_predictions(
    metrics: dict[str, Any], predictions: Any, targets: Tensor
) -> dict[str, float]:
    """The metrics of predictions that every process has whole, by name; NaN if not defined.

    Args:
        metrics: By name.
        predictions: `[item]`, or what else the metrics take.
        targets: `[item]`.
    """
    return _judged(metrics, predictions, targets)[0]


@torch.inference_mode()
def _judged(
    metrics: dict[str, Any], predictions: Any, targets: Tensor
) -> tuple[dict[str, float], dict[str, str]]:
    collection = MetricCollection(metrics, compute_groups=False).to(targets.device)
    for metric in collection.values():
        # Every process judges all targets: there is nothing to add up.
        metric.distributed_available_fn = lambda: False
    collection.update(predictions, targets)
    values, reasons = compute_each(collection.items())
    return {name: float(value) for name, value in values.items()}, reasons
