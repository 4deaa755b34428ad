"""How many ones has a string of bits?"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchmetrics import MeanAbsoluteError

from unrolled.metrics.counting import ErrorRate, Mistakes, NumSequences
from unrolled.tasks.base import SequenceTask


class Bitcount(SequenceTask):
    """Count the ones; wrong is wrong, however near."""

    main_metric = "error"
    # Among many checkpoints without a mistake the loss still tells which is surest.
    monitor = "val/loss"
    mode = "min"

    def metrics(self) -> dict[str, Any]:
        """Share and number of wrong counts, mean absolute error, number of strings."""
        return {
            "error": ErrorRate(),
            "mistakes": Mistakes(),
            "mae": MeanAbsoluteError(),
            "sequences": NumSequences(),
        }

    def metric_input(self, outputs: Tensor) -> Tensor:
        """The most probable count."""
        return self.model.head.predict(outputs)

    def trivial_input(self, train_targets: Tensor) -> Tensor:
        """Always the most frequent count."""
        return train_targets.mode().values

    def predictions(self, outputs: Tensor) -> dict[str, Tensor]:
        """The count, and its expectation under the head."""
        head = self.model.head
        return {"prediction": head.predict(outputs), "expectation": head.expectation(outputs)}
