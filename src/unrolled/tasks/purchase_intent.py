"""Will this session buy?"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision, BinaryCalibrationError

from unrolled.data.schema import Schema
from unrolled.errors import UserError
from unrolled.metrics.counting import NumSequences
from unrolled.metrics.log_loss import LogLoss
from unrolled.tasks.base import SequenceTask


class PurchaseIntent(SequenceTask):
    """The probability that a session ends with a purchase."""

    main_metric = "auroc"
    monitor = "val/auroc"
    mode = "max"

    def check_schema(self, schema: Schema) -> None:
        """The question is yes or no: it needs two classes."""
        if schema.num_classes != 2:
            raise UserError(
                f"task=purchase_intent needs data with two classes; these have "
                f"{schema.num_classes}; use data=shop or data=clickstream"
            )

    def metrics(self) -> dict[str, Any]:
        """Ranking (AUROC, average precision), log loss in nats, calibration error in 15 bins."""
        return {
            "auroc": BinaryAUROC(),
            "average_precision": BinaryAveragePrecision(),
            "log_loss": LogLoss(),
            "calibration_error": BinaryCalibrationError(n_bins=15, norm="l1"),
            "sequences": NumSequences(),
        }

    def metric_input(self, outputs: Tensor) -> Tensor:
        """The probability of class 1."""
        return self.model.head.expectation(outputs)

    def trivial_input(self, train_targets: Tensor) -> Tensor:
        """The share of sessions that buy."""
        return train_targets.float().mean()

    def predictions(self, outputs: Tensor) -> dict[str, Tensor]:
        """The class and its probability."""
        head = self.model.head
        return {"prediction": head.predict(outputs), "probability": head.expectation(outputs)}
