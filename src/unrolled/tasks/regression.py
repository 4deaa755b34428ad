"""Questions whose answer is a real number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanSquaredError

from unrolled.data.batch import SequenceBatch
from unrolled.data.schema import Schema
from unrolled.errors import UserError
from unrolled.metrics.counting import NumSequences, OffRate
from unrolled.tasks.base import SequenceTask


class Regression(SequenceTask):
    """Which number belongs to a sequence, or to each of its steps?"""

    main_metric = "mse"
    monitor = "val/mse"
    mode = "min"

    def check_schema(self, schema: Schema) -> None:
        """The question needs real targets."""
        if schema.num_classes is not None:
            raise UserError(
                "the task asks for a real number; the target of these data is one of "
                f"{schema.num_classes} classes"
            )

    def metrics(self) -> dict[str, Any]:
        """Squared and absolute error, number of answers (of sequences or of steps)."""
        return {
            "mse": MeanSquaredError(),
            "mae": MeanAbsoluteError(),
            "answers": NumSequences(),
        }

    def metric_input(self, outputs: Tensor) -> Tensor:
        """The number."""
        return self.model.head.expectation(outputs)

    def trivial_input(self, train_targets: Tensor) -> Tensor:
        """Always the mean."""
        return train_targets.mean()


class MarkedNumbers(Regression):
    """What is the sum, or the product, of the two marked numbers?"""

    def metrics(self) -> dict[str, Any]:
        """Also the share of answers that are off by .04 or more (Hochreiter & Schmidhuber)."""
        return {**super().metrics(), "off": OffRate(0.04)}


class WaveInverse(Regression):
    """At which phase were the values of the wave taken?

    Args:
        model: From a batch to the outputs of its head.
        optimizer: Makes the optimizer from the parameters.
        scheduler: Makes the learning-rate scheduler from the optimizer.
        regularizers: Penalties of the encoder's outputs.
        loss_reduction: Over the sequences of a global batch.
        over_time: Of the losses of a sequence's steps.
        length_weights: What the losses of sequences of some lengths count, by length; the others
            count 1. Two values of the wave leave fifty times the squared error of three, whose own
            errors are lost beside it: weights near the inverse of the noise (weighted least
            squares, Aitken 1935) train all lengths alike. The metrics do not know of them.
    """

    length_weights: Tensor

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        scheduler: Any = None,
        regularizers: Any = (),
        loss_reduction: Literal["mean", "sum"] = "mean",
        over_time: Literal["mean", "sum"] = "mean",
        length_weights: Mapping[PositiveInt, PositiveFloat] | None = None,
    ) -> None:
        super().__init__(model, optimizer, scheduler, regularizers, loss_reduction, over_time)
        # The last is that of all greater lengths.
        weights = torch.ones(2 + max(length_weights or {}, default=0))
        for length, weight in (length_weights or {}).items():
            weights[length] = weight
        self.register_buffer("length_weights", weights, persistent=False)

    def losses(self, outputs: Tensor, batch: SequenceBatch) -> Tensor:
        """Squared errors, `[batch]`, weighted in training."""
        losses = super().losses(outputs, batch)
        if not self.training:
            return losses
        known = batch.lengths.clamp(max=len(self.length_weights) - 1)
        return losses * self.length_weights[known]
