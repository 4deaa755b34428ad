"""Heads for the type and the time of the next event: a marked temporal point process.

The density of the next event is `p(time, type | history) = p(time | history) p(type | history)`,
or `p(type | history, time)` with `type_hidden`. The history up to an event is the vector that the
head gets. A target is `[..., 2]`: the id of the type, and the time until the event in the unit of
the log's own times. Log-likelihoods are in nats, of a density in that unit.

A density of times that are told apart only down to a clock's tick needs care: a gap below
`min_gap`, the shortest one above 0 in training, counts as that one.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.models.head import Head

_NODES = 4
"""Of the quadrature over each component of a mixture."""
_AT_A_TIME = 4096
"""Steps whose types are worked out at all nodes together, so that memory stays small."""


class PointProcessHead(Head):
    """What all such heads share: the type, and the scale of the time.

    Args:
        input_size: Channels of the vector.
        num_classes: Ids of types, padding and unknown included; padding is never foretold.
        num_time_outputs: Outputs that say when.
        type_hidden: Units between the time and the type; with 0 the type does not depend on it.
        train_targets: `[event, 2]`, types and gaps in training; the scale is taken from them, and
            the biases start at the frequencies. None waits for a checkpoint that has it.

    Raises:
        ValueError: When a gap is negative, or all are 0.
    """

    log_gap_mean: Tensor
    log_gap_std: Tensor
    mean_gap: Tensor
    min_gap: Tensor
    long_gap: Tensor

    def __init__(
        self,
        input_size: int,
        num_classes: int,
        num_time_outputs: int,
        type_hidden: int,
        train_targets: Tensor | None,
    ) -> None:
        super().__init__(input_size, num_classes + num_time_outputs + type_hidden, num_classes)
        self.sizes = [num_classes, num_time_outputs, type_hidden]
        self.from_time = nn.Linear(1, type_hidden, bias=False) if type_hidden else None
        self.to_type = nn.Linear(type_hidden, num_classes, bias=False) if type_hidden else None
        if self.to_type is not None:
            # At the start the time says nothing.
            nn.init.zeros_(self.to_type.weight)
        scale = {"log_gap_mean": 0.0, "log_gap_std": 1.0}
        scale |= {"mean_gap": 1.0, "min_gap": 1e-6, "long_gap": 1e6}
        if train_targets is not None:
            scale = _scale_of(train_targets[:, 1].double())
            counts = torch.bincount(train_targets[:, 0].long(), minlength=num_classes)
            with torch.no_grad():
                self.linear.bias[:num_classes] = (counts + 1.0).log() - math.log(len(train_targets))
        for name, value in scale.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))

    @abstractmethod
    def log_density(self, time_outputs: Tensor, log_gaps: Tensor) -> Tensor:
        """The log density of gaps, `[...]`, by their logarithms; of the gap, not of the log."""

    @abstractmethod
    def cumulative(self, outputs: Tensor, gaps: Tensor) -> Tensor:
        """The probability that the event comes within `gaps`, `[...]`."""

    @abstractmethod
    def median(self, outputs: Tensor) -> Tensor:
        """The median time until the next event, `[...]`."""

    @abstractmethod
    def nodes(self, time_outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Log gaps and weights, `[..., node]`, for means over the predicted time."""

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is said of the type, of the time, and of the type given the time."""
        # In half precision the logarithms of the densities would be off by percents.
        whole = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        kind, time, hidden = torch.split(whole, self.sizes, -1)
        return kind, time, hidden

    def log_likelihood(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Of the time and of the type, nats.

        Args:
            outputs: `[..., output]`.
            targets: `[..., 2]` float64.
        """
        kind, time, hidden = self.split(outputs)
        log_gaps = targets[..., 1].clamp(min=self.min_gap).log()
        log_types = self._log_types(kind, hidden, log_gaps)
        chosen = log_types.gather(-1, targets[..., :1].long()).squeeze(-1)
        return self.log_density(time, log_gaps), chosen

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Negative log-likelihood of outputs `[..., output]` for targets `[..., 2]`, nats."""
        time, kind = self.log_likelihood(outputs, targets)
        return -(time + kind).to(outputs.dtype)

    def log_probabilities(self, outputs: Tensor) -> Tensor:
        """Of all types whenever the event comes, `[..., num_classes]`."""
        kind, time, hidden = self.split(outputs)
        if self.from_time is None:
            return self._log_types(kind, hidden, None)
        parts = zip(
            *(torch.split(p.flatten(0, -2), _AT_A_TIME) for p in (kind, time, hidden)), strict=True
        )
        return torch.cat([self._over_time(*part) for part in parts]).view(kind.shape)

    def predict(self, outputs: Tensor) -> Tensor:
        """The most probable type, whenever the event comes."""
        return self.log_probabilities(outputs).argmax(-1)

    def expectation(self, outputs: Tensor) -> Tensor:
        """The mean of the time until the event, or until `long_gap` where that is earlier.

        `long_gap` is a time that 99.9 % of the gaps in training stay below: the tail of a
        log-normal density beyond all that was seen would decide on the mean (the restricted mean
        of survival analysis).
        """
        return self.restricted_mean(outputs, self.long_gap.expand(outputs.shape[:-1]))

    @abstractmethod
    def restricted_mean(self, outputs: Tensor, ends: Tensor) -> Tensor:
        """The mean of the time until the event or until `ends`, whichever is earlier, `[...]`."""

    def standardized(self, log_gaps: Tensor) -> Tensor:
        """Logarithms of gaps in training deviations from their training mean."""
        return (log_gaps - self.log_gap_mean) / self.log_gap_std

    def _over_time(self, kind: Tensor, time: Tensor, hidden: Tensor) -> Tensor:
        log_gaps, weights = self.nodes(time)
        given = self._log_types(kind.unsqueeze(-2), hidden.unsqueeze(-2), log_gaps)
        return (given + weights.log().unsqueeze(-1)).logsumexp(-2)

    def _log_types(self, kind: Tensor, hidden: Tensor, log_gaps: Tensor | None) -> Tensor:
        if self.from_time is not None and self.to_type is not None:
            assert log_gaps is not None
            z = self.standardized(log_gaps).unsqueeze(-1).to(kind)
            kind = kind + self.to_type(torch.tanh(hidden + self.from_time(z)))
        # Padding is no type.
        return F.pad(kind[..., 1:], (1, 0), value=-torch.inf).log_softmax(-1)


class LogNormalMixtureHead(PointProcessHead):
    """The time by a mixture of log-normal densities, the type by softmax.

    Shchur, Bilos & Guennemann, "Intensity-free learning of temporal point processes" (ICLR 2020),
    eq. 3: weights, means and scales of the components are linear in the history; the logarithm of
    the time is standardised by its training mean and deviation.

    Args:
        input_size: Channels of the vector.
        num_classes: Ids of types.
        num_components: Of the mixture.
        type_hidden: Units between the time and the type, `p(type | history, time)`; with 0 the
            type does not depend on the time, as in the paper.
        min_scale: Least scale of a component, in standard deviations of the log gap. Times are
            multiples of a clock's tick: narrower ones could sit on single values and raise the
            density without bound.
        train_targets: Types and gaps in training.
    """

    def __init__(
        self,
        input_size: PositiveInt,
        num_classes: Annotated[int, Field(ge=2)],
        num_components: PositiveInt = 16,
        type_hidden: NonNegativeInt = 16,
        min_scale: PositiveFloat = 0.1,
        train_targets: Tensor | None = None,
    ) -> None:
        super().__init__(input_size, num_classes, 3 * num_components, type_hidden, train_targets)
        self.min_scale = min_scale
        with torch.no_grad():
            # Side by side over what was seen in training.
            first = num_classes + num_components
            spread = torch.linspace(-2, 2, num_components) if num_components > 1 else 0.0
            self.linear.bias[first : first + num_components] = spread

    def components(self, time_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights, means and scales of the standardised log gap, each `[..., component]`."""
        weights, means, scales = time_outputs.chunk(3, -1)
        return weights.log_softmax(-1), means, self.min_scale + F.softplus(scales)

    def log_density(self, time_outputs: Tensor, log_gaps: Tensor) -> Tensor:
        """By the change of variables from the standardised logarithm."""
        log_weights, means, scales = self.components(time_outputs)
        z = (self.standardized(log_gaps).unsqueeze(-1).to(means) - means) / scales
        normal = -0.5 * z.square() - scales.log() - 0.5 * math.log(2 * math.pi)
        return (log_weights + normal).logsumexp(-1) - self.log_gap_std.log() - log_gaps

    def cumulative(self, outputs: Tensor, gaps: Tensor) -> Tensor:
        """The mixture of the components' normal distribution functions."""
        log_weights, means, scales = self.components(self.split(outputs)[1])
        z = self.standardized(gaps.log()).unsqueeze(-1).to(means)
        within: Tensor = torch.special.ndtr((z - means) / scales)
        return (log_weights.exp() * within).sum(-1)

    def median(self, outputs: Tensor) -> Tensor:
        """By bisection between the medians of the components."""
        log_weights, means, scales = self.components(self.split(outputs)[1])
        low, high = means.amin(-1), means.amax(-1)
        for _ in range(30):
            middle = (low + high) / 2
            below = torch.special.ndtr((middle.unsqueeze(-1) - means) / scales)
            early = (log_weights.exp() * below).sum(-1) < 0.5
            low, high = torch.where(early, middle, low), torch.where(early, high, middle)
        return (self.log_gap_mean + self.log_gap_std * (low + high) / 2).exp()

    def restricted_mean(self, outputs: Tensor, ends: Tensor) -> Tensor:
        """In closed form for each component."""
        log_weights, means, scales = self.components(self.split(outputs)[1])
        mean = self.log_gap_mean + self.log_gap_std * means.double()
        std = self.log_gap_std * scales
        end = ends.double().log().unsqueeze(-1)
        # As logarithms: a component far beyond the end has a mean that overflows.
        before: Tensor = torch.special.log_ndtr((end - mean - std.square()) / std)
        before = before + mean + std.square() / 2
        after: Tensor = torch.special.ndtr((mean - end) / std) * end.exp()
        return (log_weights.exp() * (before.exp() + after)).sum(-1)

    def nodes(self, time_outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Gauss-Hermite nodes of each component."""
        log_weights, means, scales = self.components(time_outputs)
        at, of = (v.to(means) for v in _gauss_hermite())
        z = means.unsqueeze(-1) + scales.unsqueeze(-1) * at
        weights = log_weights.exp().unsqueeze(-1) * of
        return self.log_gap_mean + self.log_gap_std * z.flatten(-2), weights.flatten(-2)


class ExponentialHead(PointProcessHead):
    """A constant intensity until the next event, which the history decides on.

    Args:
        input_size: Channels of the vector.
        num_classes: Ids of types.
        type_hidden: Units between the time and the type; with 0 the type does not depend on it.
        train_targets: Types and gaps in training.
    """

    def __init__(
        self,
        input_size: PositiveInt,
        num_classes: Annotated[int, Field(ge=2)],
        type_hidden: NonNegativeInt = 16,
        train_targets: Tensor | None = None,
    ) -> None:
        super().__init__(input_size, num_classes, 1, type_hidden, train_targets)

    def log_rate(self, time_outputs: Tensor) -> Tensor:
        """The logarithm of the intensity, events per unit of time; 0 stands for the mean gap."""
        return time_outputs.squeeze(-1) - self.mean_gap.log()

    def log_density(self, time_outputs: Tensor, log_gaps: Tensor) -> Tensor:
        """`log rate - rate gap`."""
        log_rate = self.log_rate(time_outputs)
        return log_rate - (log_rate + log_gaps).exp()

    def cumulative(self, outputs: Tensor, gaps: Tensor) -> Tensor:
        """`1 - exp(-rate gap)`."""
        return -torch.expm1(-self.log_rate(self.split(outputs)[1]).exp() * gaps)

    def median(self, outputs: Tensor) -> Tensor:
        """`log 2 / rate`."""
        return math.log(2) * (-self.log_rate(self.split(outputs)[1])).exp()

    def restricted_mean(self, outputs: Tensor, ends: Tensor) -> Tensor:
        """`(1 - exp(-rate end)) / rate`."""
        log_rate = self.log_rate(self.split(outputs)[1])
        return -torch.expm1(-log_rate.exp() * ends) / log_rate.exp()

    def nodes(self, time_outputs: Tensor) -> tuple[Tensor, Tensor]:
        """The middles of equally probable intervals."""
        log_rate = self.log_rate(time_outputs).unsqueeze(-1)
        count = 16
        middles = (torch.arange(count, device=log_rate.device) + 0.5) / count
        log_gaps = (-torch.log1p(-middles)).log() - log_rate
        return log_gaps, torch.full_like(log_gaps, 1 / count).to(time_outputs)


def _scale_of(gaps: Tensor) -> dict[str, float]:
    """What the gaps of the training data, `[event]`, are like."""
    negative = int((gaps < 0).sum())
    if negative:
        raise ValueError(
            f"{negative:,} of the {len(gaps):,} times until the next event are negative (least "
            f"{float(gaps.min()):g}): the events are not in the order of their time; set "
            "data.source.order to the time column"
        )
    if not bool((gaps > 0).any()):
        raise ValueError("all events of a sequence have the same time; there is nothing to learn")
    min_gap = gaps[gaps > 0].min()
    logs = gaps.clamp(min=min_gap).log()
    return {
        "log_gap_mean": float(logs.mean()),
        # Equal gaps have no deviation, and any will do.
        "log_gap_std": max(float(logs.std(correction=0)), 1e-3),
        "mean_gap": float(gaps.mean()),
        "min_gap": float(min_gap),
        "long_gap": long_gap(gaps),
    }


def long_gap(gaps: Tensor) -> float:
    """The time that 99.9 % of some gaps, `[event]`, do not exceed."""
    # Not `torch.quantile`, which ends at 16 million.
    return float(gaps.kthvalue(math.ceil(0.999 * len(gaps))).values)


def _gauss_hermite() -> tuple[Tensor, Tensor]:
    """Nodes and weights for means over a standard normal variable (Golub & Welsch 1969)."""
    # The eigenvalues of the Jacobi matrix of the Hermite polynomials, and the squares of the first
    # entries of its eigenvectors.
    off = torch.arange(1, _NODES, dtype=torch.float64).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return nodes, vectors[0].square()
