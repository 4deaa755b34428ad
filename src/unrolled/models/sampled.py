"""Heads for large vocabularies: in training they score a few sampled classes instead of all.

For 800,000 classes the product with all of them would be nearly the whole cost of an update. What
`forward` gives is therefore the vector as it is, and `loss` computes the scores it needs. In
evaluation the loss is the exact cross-entropy over all classes, and predictions always are exact.

The samples are drawn once for a whole batch: their scores are then one matrix product. The
gradient of a class's weights is still dense, as large as the weights.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from unrolled.models.head import Head


class SampledHead(Head):
    """What both share: exact evaluation, and classes drawn by how frequent they are.

    The biases start at the log probability under which a class is drawn, so that the model starts
    from the frequencies, with scores whose exponentials add up to about one.

    Args:
        input_size: Channels of the vector.
        num_classes: The target is 0 .. num_classes - 1.
        num_samples: Classes drawn for each batch, with replacement.
        class_counts: `[num_classes]`, how often each class occurs; classes are drawn in proportion
            to it, one that never occurs as if it did once. None draws all alike.

    Raises:
        ValueError: When the counts are not one for each class, or negative.
    """

    cumulative_counts: Tensor

    def __init__(
        self, input_size: int, num_classes: int, num_samples: int, class_counts: Tensor | None
    ) -> None:
        super().__init__(input_size, num_classes, num_classes)
        self.num_samples = num_samples
        if class_counts is None:
            class_counts = torch.ones(num_classes, dtype=torch.int64)
        if class_counts.shape != (num_classes,) or bool((class_counts < 0).any()):
            raise ValueError(
                f"class_counts has shape {tuple(class_counts.shape)}: it must be [{num_classes}], "
                "one count for each class and none below zero"
            )
        # As integers the probabilities stay exact, whatever the precision of the model.
        counts = class_counts.long().clamp(min=1)
        self.register_buffer("cumulative_counts", F.pad(counts.cumsum(0), (1, 0)))
        with torch.no_grad():
            classes = torch.arange(num_classes)
            self.linear.bias.copy_(self.log_probability(classes, torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, input_size]` as it is: the scores of all classes may never be needed."""
        return x

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """In training the loss of sampled classes, in evaluation the exact cross-entropy; nats."""
        if self.training:
            flat = outputs.reshape(-1, outputs.shape[-1])
            return self.sampled_loss(flat, targets.flatten(), self.draw()).view(targets.shape)
        scores = self.linear(outputs).flatten(0, -2)
        return F.cross_entropy(scores, targets.flatten(), reduction="none").view(targets.shape)

    def log_probabilities(self, outputs: Tensor) -> Tensor:
        """Of all classes, exactly, `[..., num_classes]`."""
        scores: Tensor = self.linear(outputs)
        return scores.log_softmax(-1)

    def predict(self, outputs: Tensor) -> Tensor:
        """The class with the largest score."""
        scores: Tensor = self.linear(outputs)
        return scores.argmax(-1)

    def expectation(self, outputs: Tensor) -> Tensor:
        """The mean class under the softmax."""
        classes = torch.arange(self.num_classes, device=outputs.device, dtype=outputs.dtype)
        mean: Tensor = self.linear(outputs).softmax(-1) @ classes
        return mean

    @abstractmethod
    def sampled_loss(self, x_NI: Tensor, targets_N: Tensor, samples_K: Tensor) -> Tensor:
        """The loss in training, `[event]`, for given samples."""

    def draw(self) -> Tensor:
        """`num_samples` classes, `[sample]` int64, with replacement."""
        total = self.cumulative_counts[-1]
        # Not randint, which takes its bound as a Python number and would wait for the device.
        numbers = torch.rand(self.num_samples, device=total.device, dtype=torch.float64) * total
        return torch.searchsorted(self.cumulative_counts[1:], numbers.long(), right=True)

    def log_probability(self, classes: Tensor, dtype: torch.dtype) -> Tensor:
        """The log probability that one draw gives each of some classes."""
        counts = self.cumulative_counts[classes + 1] - self.cumulative_counts[classes]
        return (counts.to(torch.float64) / self.cumulative_counts[-1]).log().to(dtype)

    def scores(self, x_NI: Tensor, targets_N: Tensor, samples_K: Tensor) -> tuple[Tensor, Tensor]:
        """The scores of the targets, `[event]`, and of the samples, `[event, sample]`."""
        weight, bias = self.linear.weight, self.linear.bias
        # Not weight[targets], whose gradient is summed one row after the other.
        own = (x_NI * F.embedding(targets_N, weight)).sum(-1) + bias[targets_N]
        return own, F.linear(x_NI, F.embedding(samples_K, weight), bias[samples_K])


class NoiseContrastiveHead(SampledHead):
    """Noise-contrastive estimation (Gutmann & Hyvarinen 2010; Mnih & Teh 2012).

    Tell the target from k classes of noise by logistic regression: with score s, noise
    probability q and normaliser Z, a class is data with probability sigmoid(s - log Z - log k q).
    The gradient tends to that of maximum likelihood as k grows, and the scores learn to be
    normalised by themselves.

    Args:
        input_size: Channels of the vector.
        num_classes: The target is 0 .. num_classes - 1.
        num_noise: k, drawn for a whole batch; Element-Research suggests 25 and used 100 to 400.
        class_counts: `[num_classes]`, noise is drawn in proportion to it; None draws all alike.
        log_normalizer: log Z; 0 fits the biases' start values, Element-Research had 9 or 0.
        learn_normalizer: Learn log Z instead of keeping it.
    """

    def __init__(
        self,
        input_size: PositiveInt,
        num_classes: Annotated[int, Field(ge=2)],
        num_noise: PositiveInt = 100,
        class_counts: Tensor | None = None,
        log_normalizer: float = 0.0,
        learn_normalizer: bool = False,
    ) -> None:
        super().__init__(input_size, num_classes, num_noise, class_counts)
        value = torch.tensor(float(log_normalizer))
        if learn_normalizer:
            self.log_normalizer: Tensor = torch.nn.Parameter(value)
        else:
            self.register_buffer("log_normalizer", value)

    def sampled_loss(self, x_NI: Tensor, targets_N: Tensor, samples_K: Tensor) -> Tensor:
        """Binary cross-entropy of the target against each noise class, summed."""
        own_N, noise_NK = self.scores(x_NI, targets_N, samples_K)
        offset = self.log_normalizer + math.log(len(samples_K))
        own_N = own_N - offset - self.log_probability(targets_N, x_NI.dtype)
        noise_NK = noise_NK - offset - self.log_probability(samples_K, x_NI.dtype)
        return F.softplus(-own_N) + F.softplus(noise_NK).sum(-1)


class SampledSoftmaxHead(SampledHead):
    """Softmax over the target and the sampled classes (Bengio & Senecal 2008; Jean et al. 2015).

    From each score the log probability is subtracted that its class is among the samples, without
    which frequent classes, drawn often, would be pushed down. A class drawn twice counts once, and
    a sample that is the target itself not at all. With all classes among the samples the loss is
    the cross-entropy.

    Args:
        input_size: Channels of the vector.
        num_classes: The target is 0 .. num_classes - 1.
        num_samples: Classes drawn for a whole batch, with replacement.
        class_counts: `[num_classes]`, classes are drawn in proportion to it; None draws all alike.
    """

    def __init__(
        self,
        input_size: PositiveInt,
        num_classes: Annotated[int, Field(ge=2)],
        num_samples: PositiveInt = 100,
        class_counts: Tensor | None = None,
    ) -> None:
        super().__init__(input_size, num_classes, num_samples, class_counts)

    def sampled_loss(self, x_NI: Tensor, targets_N: Tensor, samples_K: Tensor) -> Tensor:
        """Cross-entropy among the target and the samples."""
        samples_K = samples_K.sort().values
        own_N, other_NK = self.scores(x_NI, targets_N, samples_K)
        drawn = len(samples_K)
        own_N = own_N - self.log_inclusion(targets_N, drawn, x_NI.dtype)
        other_NK = other_NK - self.log_inclusion(samples_K, drawn, x_NI.dtype)
        # Masked rather than removed: the number of different classes would wait for the device.
        repeated = F.pad(samples_K[1:] == samples_K[:-1], (1, 0))
        out = repeated | (samples_K == targets_N.unsqueeze(1))
        scores = torch.cat([own_N.unsqueeze(1), other_NK.masked_fill(out, -torch.inf)], 1)
        return scores.logsumexp(1) - own_N

    def log_inclusion(self, classes: Tensor, drawn: int, dtype: torch.dtype) -> Tensor:
        """The log probability `1 - (1 - q)^drawn` that a class is drawn at least once."""
        q = self.log_probability(classes, torch.float64).exp()
        return (-torch.expm1(drawn * torch.log1p(-q))).log().to(dtype)
