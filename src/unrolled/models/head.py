"""Heads: from a vector to a prediction of its target, with the loss that fits it.

The vector is one of `[..., input_size]`: of a sequence, or of a step. The target is an integer in
0 .. num_classes - 1 (a real number for `RealHead`). Every head answers the same three questions, so
that any of them serves any task: `loss`, `predict` (the most probable class) and `expectation`
(the mean of the predicted distribution; for two classes the probability of class 1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F


class Head(nn.Module, ABC):
    """One linear map, and what its outputs mean.

    Args:
        input_size: Channels of the vector.
        num_outputs: Outputs of the linear map.
        num_classes: The target is 0 .. num_classes - 1.
    """

    def __init__(self, input_size: int, num_outputs: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.linear = nn.Linear(input_size, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., input_size]` to `[..., output]`."""
        outputs: Tensor = self.linear(x)
        return outputs

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of outputs `[..., output]` for targets `[...]`; `[...]`, not reduced."""

    @abstractmethod
    def predict(self, outputs: Tensor) -> Tensor:
        """The most probable class, `[...]` int64."""

    @abstractmethod
    def expectation(self, outputs: Tensor) -> Tensor:
        """The expected target, `[...]`, in 0 .. num_classes - 1."""


class ClassificationHead(Head):
    """Softmax over the classes, cross-entropy.

    Args:
        input_size: Channels of the vector.
        num_classes: The target is 0 .. num_classes - 1.
        weight_std: Start the weights from a normal distribution cut at two standard deviations,
            as TensorFlow's `truncated_normal`; None keeps torch's uniform draw.
        bias: Start value of the biases; None keeps torch's uniform draw.
    """

    def __init__(
        self,
        input_size: PositiveInt,
        num_classes: Annotated[int, Field(ge=2)],
        weight_std: PositiveFloat | None = None,
        bias: float | None = None,
    ) -> None:
        super().__init__(input_size, num_classes, num_classes)
        if weight_std is not None:
            nn.init.trunc_normal_(
                self.linear.weight, std=weight_std, a=-2 * weight_std, b=2 * weight_std
            )
        if bias is not None:
            nn.init.constant_(self.linear.bias, bias)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in nats."""
        flat = F.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="none")
        return flat.view(targets.shape)

    def log_probabilities(self, outputs: Tensor) -> Tensor:
        """Of all classes, `[..., num_classes]`."""
        return outputs.log_softmax(-1)

    def predict(self, outputs: Tensor) -> Tensor:
        """The class with the largest output."""
        return outputs.argmax(-1)

    def expectation(self, outputs: Tensor) -> Tensor:
        """The mean class under the softmax."""
        classes = torch.arange(self.num_classes, device=outputs.device, dtype=outputs.dtype)
        return outputs.softmax(-1) @ classes


class OrdinalHead(Head):
    """Ordered classes by one binary question for each threshold: is the target above k?

    The reduction of Frank & Hall (2001) with the extended binary loss of Li & Lin (2006); each
    threshold has its own weights.

    Args:
        input_size: Channels of the vector.
        num_classes: The target is 0 .. num_classes - 1.
    """

    def __init__(
        self,
        input_size: PositiveInt,
        num_classes: Annotated[int, Field(ge=2)],
    ) -> None:
        super().__init__(input_size, num_classes - 1, num_classes)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sum over the thresholds of the binary cross-entropy in nats."""
        thresholds = torch.arange(self.num_classes - 1, device=outputs.device)
        above = (targets.unsqueeze(-1) > thresholds).to(outputs.dtype)
        return F.binary_cross_entropy_with_logits(outputs, above, reduction="none").sum(-1)

    def predict(self, outputs: Tensor) -> Tensor:
        """The number of thresholds that are more likely passed than not."""
        return (outputs > 0).sum(-1)

    def expectation(self, outputs: Tensor) -> Tensor:
        """The sum of the probabilities to pass each threshold."""
        return outputs.sigmoid().sum(-1)


class BinaryHead(Head):
    """Logistic regression; with more than two classes on the share target / (num_classes - 1).

    The target is then binomial: `num_classes - 1` trials of one probability.

    Args:
        input_size: Channels of the vector.
        num_classes: The target is 0 .. num_classes - 1.
        positive_weight: What a 1 counts in the loss, where a 0 counts 1; `balanced` takes the
            number of zeros over the number of ones among the training targets, so that both
            classes count alike. The odds that are predicted are then as many times too high.
        class_counts: `[num_classes]`, how often each class is a training target; `balanced` reads
            it. A head whose weights are loaded gets the weight with them.

    Raises:
        ValueError: When `balanced` has more than two classes to weigh, or one that never occurs.
    """

    positive_weight: Tensor | None

    def __init__(
        self,
        input_size: PositiveInt,
        num_classes: Annotated[int, Field(ge=2)] = 2,
        positive_weight: PositiveFloat | Literal["balanced"] | None = None,
        class_counts: Tensor | None = None,
    ) -> None:
        super().__init__(input_size, 1, num_classes)
        self.trials = num_classes - 1
        if positive_weight == "balanced":
            positive_weight = _balance(num_classes, class_counts)
        # Without one there is no buffer, and nothing of it in checkpoints.
        self.register_buffer(
            "positive_weight", None if positive_weight is None else torch.tensor(positive_weight)
        )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy in nats, summed over the trials; the ones by their weight."""
        share = targets.to(outputs.dtype) / self.trials
        return self.trials * F.binary_cross_entropy_with_logits(
            outputs.squeeze(-1), share, reduction="none", pos_weight=self.positive_weight
        )

    def predict(self, outputs: Tensor) -> Tensor:
        """The mode of the binomial; for two classes, whether the probability exceeds a half."""
        mode = ((self.trials + 1) * outputs.squeeze(-1).sigmoid()).ceil().long() - 1
        return mode.clamp(0, self.trials)

    def expectation(self, outputs: Tensor) -> Tensor:
        """Trials times probability."""
        return self.trials * outputs.squeeze(-1).sigmoid()


def _balance(num_classes: int, class_counts: Tensor | None) -> float:
    if num_classes != 2:
        raise ValueError(f"positive_weight=balanced weighs two classes; there are {num_classes}")
    if class_counts is None:
        return 1.0
    zeros, ones = class_counts.tolist()
    if not (zeros and ones):
        raise ValueError(
            f"positive_weight=balanced: the training targets are {zeros:,} zeros and {ones:,} ones"
        )
    return float(zeros / ones)


class RegressionHead(Head):
    """The target as a number: squared error.

    The output 0 stands for the middle of the range and +-1 for a range's width from it, so that
    the same learning rate serves 2 and 2,000 classes.

    Args:
        input_size: Channels of the vector.
        num_classes: The target is 0 .. num_classes - 1.
        offset: Whether there is a bias and the middle as origin. Without, the vector zero is the
            target zero, so that with a sum over the steps each step adds its part: what was learned
            of one length holds for others.
    """

    def __init__(
        self,
        input_size: PositiveInt,
        num_classes: Annotated[int, Field(ge=2)],
        offset: bool = True,
    ) -> None:
        super().__init__(input_size, 1, num_classes)
        self.origin = 0.5 if offset else 0.0
        if not offset:
            self.linear = nn.Linear(input_size, 1, bias=False)

    def _value(self, outputs: Tensor) -> Tensor:
        return (self.num_classes - 1) * (self.origin + outputs.squeeze(-1))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Squared error, in classes squared."""
        return (self._value(outputs) - targets).square()

    def predict(self, outputs: Tensor) -> Tensor:
        """The nearest class."""
        return self.expectation(outputs).round().long()

    def expectation(self, outputs: Tensor) -> Tensor:
        """The number itself, cut to the range of the target."""
        return self._value(outputs).clamp(0, self.num_classes - 1)
