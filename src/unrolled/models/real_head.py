"""The head for targets that are real numbers."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from unrolled.models.head import Head


class RealHead(Head):
    """A real number: squared error.

    Args:
        input_size: Channels of the vector.
        target_mean: Mean of the training targets.
        target_std: Their standard deviation.
        standardize: Whether the linear map gives the target in standard deviations from its mean,
            so that it starts near the middle whatever the unit; else the number itself.
        limit: Cut the output to [-1, 1] by `tanh` or `hardtanh`; before the scale.
        loss_scale: The squared error is divided by the target's variance (`variance`), so that
            predicting the mean costs 1, or left in the target's unit (`none`).
    """

    def __init__(
        self,
        input_size: PositiveInt,
        target_mean: float,
        target_std: PositiveFloat,
        standardize: bool = True,
        limit: Literal["none", "tanh", "hardtanh"] = "none",
        loss_scale: Literal["none", "variance"] = "none",
    ) -> None:
        super().__init__(input_size, 1, 0)
        self.mean, self.std = (target_mean, target_std) if standardize else (0.0, 1.0)
        self.limit = limit
        self.loss_factor = target_std**-2 if loss_scale == "variance" else 1.0

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Squared error."""
        return self.loss_factor * (self.expectation(outputs) - targets).square()

    def predict(self, outputs: Tensor) -> Tensor:
        """The number."""
        return self.expectation(outputs)

    def expectation(self, outputs: Tensor) -> Tensor:
        """The number."""
        value = outputs.squeeze(-1)
        if self.limit == "tanh":
            value = value.tanh()
        elif self.limit == "hardtanh":
            value = F.hardtanh(value)
        return self.mean + self.std * value
