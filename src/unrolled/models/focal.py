"""The head for two classes of which one is rare and most examples are easy."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from unrolled.models.head import BinaryHead


class FocalHead(BinaryHead):
    """Logistic regression with the focal loss of Lin et al. (2017), eq. 5.

    `-alpha_t (1 - p_t)^gamma log p_t`, p_t the probability of the true class: what the model is
    sure of counts less, the hard examples more. With gamma 0 and alpha None it is the
    cross-entropy. The probabilities are drawn towards a half; scale them by a temperature where
    they are to be believed.

    Args:
        input_size: Channels of the vector.
        num_classes: Two.
        gamma: How much less the easy examples count.
        alpha: Weight of class 1; class 0 has 1 - alpha. None weighs both by 1.

    Raises:
        ValueError: When there are more than two classes.
    """

    def __init__(
        self,
        input_size: PositiveInt,
        num_classes: Annotated[int, Field(ge=2)] = 2,
        gamma: NonNegativeFloat = 2.0,
        alpha: Annotated[float, Field(gt=0, lt=1)] | None = 0.25,
    ) -> None:
        if num_classes != 2:
            raise ValueError(f"the focal loss is of two classes; there are {num_classes}")
        super().__init__(input_size)
        self.gamma = gamma
        self.alpha = alpha

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The focal loss in nats."""
        positive = targets == 1
        logits = outputs.squeeze(-1)
        of_truth = torch.where(positive, logits, -logits)
        # (1 - p_t)^gamma through its logarithm: as a power its gradient is infinite at p_t = 1.
        losses = -(self.gamma * F.logsigmoid(-of_truth)).exp() * F.logsigmoid(of_truth)
        if self.alpha is None:
            return losses
        return losses * torch.where(positive, self.alpha, 1 - self.alpha)
