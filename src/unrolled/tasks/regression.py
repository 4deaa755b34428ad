"""Questions whose answer is a real number."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanSquaredError

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
    """At which phase were the values of the wave taken?"""
