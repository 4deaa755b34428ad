"""Heads over a catalogue that learn from sampled items: the target against a few negatives.

The negatives are drawn once for a whole batch, in proportion to a power of how often an item is a
target: their scores are then one matrix product (Hidasi & Karatzoglou 2018, section 3).

N events, K negatives, H channels of an item.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.models.catalogue import FIRST_ITEM, CatalogueHead
from unrolled.models.softmax_loss import sampled_cross_entropy
from unrolled.models.types import Probability

Power = Annotated[float, Field(ge=0, le=1)]
"""Of an item's popularity: 0 draws all alike, 1 in proportion to their popularity."""


class NegativesHead(CatalogueHead):
    """What these heads share: drawing, and the scores of the target and of the negatives.

    Args:
        input_size: Channels of the vector.
        num_classes: Ids of items, padding and unknown among them.
        item_embedding: The vectors of the items where they are a feature, for `tied`.
        class_counts: `[num_classes]`, how often each item is a target in training.
        num_negatives: Items drawn for each batch, with replacement; one drawn twice counts once.
        negatives_power: Items are drawn in proportion to their count to this power.
        tied: As of `CatalogueHead`, and so on.
        scale: Of the cosine; None takes the plain product.
        bias: Whether each item has a bias.
        dropout: Share of the vector's channels set to zero in training.
    """

    cumulative: Tensor

    def __init__(
        self,
        input_size: int,
        num_classes: int,
        item_embedding: nn.Embedding | None,
        class_counts: Tensor | None,
        num_negatives: int,
        negatives_power: float,
        tied: bool,
        scale: float | None,
        bias: bool,
        dropout: float,
    ) -> None:
        super().__init__(
            input_size, num_classes, item_embedding, class_counts, tied, scale, bias, dropout
        )
        self.num_negatives = num_negatives
        self.negatives_power = negatives_power
        # Not of those that can't be drawn: 0 to the power 0 is 1.
        weight = self.class_counts.pow(negatives_power) * (self.class_counts > 0)
        self.register_buffer("cumulative", (weight / weight.sum()).cumsum(0), persistent=False)

    def training_loss(self, vectors_NH: Tensor, targets_N: Tensor) -> Tensor:
        """The loss of each event against the negatives of the batch, `[N]`."""
        return self.sampled_loss(vectors_NH, targets_N, self.draw(targets_N))

    def draw(self, targets_N: Tensor) -> Tensor:
        """Different items in the order of their ids, `[K]`; K is `num_negatives` at most."""
        numbers = torch.rand(self.num_negatives, device=self.cumulative.device, dtype=torch.float64)
        drawn = torch.searchsorted(self.cumulative, numbers, right=True)
        # The sum may end a rounding error below 1.
        different: Tensor = torch.unique(drawn.clamp(max=self.num_classes - 1))
        return different

    @abstractmethod
    def sampled_loss(self, vectors_NH: Tensor, targets_N: Tensor, negatives_K: Tensor) -> Tensor:
        """The loss of each event, `[N]`, for given negatives in the order of their ids."""

    def own_and_others(
        self, vectors_NH: Tensor, targets_N: Tensor, negatives_K: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The scores of the targets, `[N]`, and the vectors of the negatives, `[K, H]`."""
        # One look-up for both: its gradient is as large as the whole catalogue.
        both = self.item_vectors(torch.cat([targets_N, negatives_K]))
        own_NH, others_KH = torch.split(both, [len(targets_N), len(negatives_K)])
        own_N = (vectors_NH * own_NH).sum(-1)
        return (own_N if self.bias is None else own_N + self.bias[targets_N]), others_KH

    def scores(
        self, vectors_NH: Tensor, targets_N: Tensor, negatives_K: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of the targets `[N]`, of the negatives `[N, K]`, which of these count `[N, K]`."""
        own_N, others_KH = self.own_and_others(vectors_NH, targets_N, negatives_K)
        bias = None if self.bias is None else self.bias[negatives_K]
        counts = negatives_K != targets_N.unsqueeze(1)
        return own_N, F.linear(vectors_NH, others_KH, bias), counts

    def log_inclusion(self, items: Tensor, dtype: torch.dtype) -> Tensor:
        """The log probability `1 - (1 - q)^draws` that an item is drawn at least once."""
        q = self.cumulative[items] - self.cumulative[items - 1]
        return _log_any(q, self.num_negatives).to(dtype)


def _log_any(probability: Tensor, draws: int) -> Tensor:
    """The log probability of at least one hit in so many draws."""
    # In float64 the rarest of millions of items still has a probability.
    return (-torch.expm1(draws * torch.log1p(-probability))).clamp(min=1e-300).log()


class ItemSampledSoftmaxHead(NegativesHead):
    """Softmax over the target and the negatives, each score corrected by how easily it is drawn.

    From each score the log probability is taken off that its item is among the negatives (logQ
    correction, Bengio & Senecal 2008), without which popular items would be pushed down.

    Args:
        input_size: Channels of the vector.
        num_classes: Ids of items, padding and unknown among them.
        item_embedding: The vectors of the items where they are a feature, for `tied`.
        class_counts: `[num_classes]`, how often each item is a target in training.
        num_negatives: Items drawn for each batch, with replacement; one drawn twice counts once.
        negatives_power: Items are drawn in proportion to their count to this power.
        in_batch: The targets of the batch are negatives of each other, too.
        correction: Share of the log probability that is taken off; 0 goes without.
        tied: Score with the items' input vectors.
        scale: Of the cosine; None takes the plain product.
        bias: Whether each item has a bias.
        dropout: Share of the vector's channels set to zero in training.
    """

    def __init__(
        self,
        input_size: PositiveInt,
        num_classes: PositiveInt,
        item_embedding: nn.Embedding | None = None,
        class_counts: Tensor | None = None,
        num_negatives: PositiveInt = 2048,
        negatives_power: Power = 0.75,
        in_batch: bool = False,
        correction: Annotated[float, Field(ge=0, le=1)] = 1.0,
        tied: bool = True,
        scale: PositiveFloat | None = 16.0,
        bias: bool = False,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__(
            input_size, num_classes, item_embedding, class_counts, num_negatives,
            negatives_power, tied, scale, bias, dropout,
        )  # fmt: skip
        self.in_batch = in_batch
        self.correction = correction

    def draw(self, targets_N: Tensor) -> Tensor:
        """Different items, `[K]`, those of the batch among them where it is asked for."""
        drawn = super().draw(targets_N)
        return torch.unique(torch.cat([drawn, targets_N])) if self.in_batch else drawn

    def sampled_loss(self, vectors_NH: Tensor, targets_N: Tensor, negatives_K: Tensor) -> Tensor:
        """Cross-entropy among the target and the negatives, in nats."""
        own_N, others_KH = self.own_and_others(vectors_NH, targets_N, negatives_K)
        own_N = own_N - self._taken_off(targets_N, len(targets_N), own_N.dtype)
        bias_K = -self._taken_off(negatives_K, len(targets_N), own_N.dtype)
        if self.bias is not None:
            bias_K = bias_K + self.bias[negatives_K]
        # Negatives are in order: to find a target among them takes no [N, K] comparisons.
        place = torch.searchsorted(negatives_K, targets_N).clamp(max=len(negatives_K) - 1)
        rows = (negatives_K[place] == targets_N).nonzero().squeeze(1)
        return sampled_cross_entropy(vectors_NH, own_N, others_KH, bias_K, (rows, place[rows]))

    def _taken_off(self, items: Tensor, batch: int, dtype: torch.dtype) -> Tensor:
        if not self.in_batch:
            return self.correction * self.log_inclusion(items, dtype)
        # Among the drawn ones or among the targets of the batch, which are drawn by popularity.
        q = self.cumulative[items] - self.cumulative[items - 1]
        p = self.class_counts[items] / self.class_counts.sum()
        none = self.num_negatives * torch.log1p(-q) + batch * torch.log1p(-p)
        return self.correction * (-torch.expm1(none)).clamp(min=1e-300).log().to(dtype)


class BPRMaxHead(NegativesHead):
    """BPR-max (Hidasi & Karatzoglou 2018, eq. 8): the target against the best of the negatives.

    With r the scores and s their softmax over the negatives, the loss is
    `-log sum_j s_j sigmoid(r_target - r_j) + penalty * sum_j s_j r_j^2`.

    Args:
        input_size: Channels of the vector.
        num_classes: Ids of items, padding and unknown among them.
        item_embedding: The vectors of the items where they are a feature, for `tied`.
        class_counts: `[num_classes]`, how often each item is a target in training.
        num_negatives: Items drawn for each batch, with replacement; one drawn twice counts once.
        negatives_power: Items are drawn in proportion to their count to this power.
        penalty: Of the negatives' squared scores.
        tied: Score with the items' input vectors.
        scale: Of the cosine; None takes the plain product.
        bias: Whether each item has a bias.
        dropout: Share of the vector's channels set to zero in training.
    """

    def __init__(
        self,
        input_size: PositiveInt,
        num_classes: PositiveInt,
        item_embedding: nn.Embedding | None = None,
        class_counts: Tensor | None = None,
        num_negatives: PositiveInt = 2048,
        negatives_power: Power = 0.5,
        penalty: NonNegativeFloat = 1.0,
        tied: bool = True,
        scale: PositiveFloat | None = None,
        bias: bool = False,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__(
            input_size, num_classes, item_embedding, class_counts, num_negatives,
            negatives_power, tied, scale, bias, dropout,
        )  # fmt: skip
        self.penalty = penalty

    def sampled_loss(self, vectors_NH: Tensor, targets_N: Tensor, negatives_K: Tensor) -> Tensor:
        """Not in nats."""
        own_N, others_NK, counts_NK = self.scores(vectors_NH, targets_N, negatives_K)
        # Not infinity, which is no number where the only negative is the target.
        lowest = torch.finfo(others_NK.dtype).min
        log_share = others_NK.masked_fill(~counts_NK, lowest).log_softmax(1)
        won = F.logsigmoid(own_N.unsqueeze(1) - others_NK)
        squares = others_NK.square() * log_share.exp()
        return self.penalty * squares.sum(1) - (log_share + won).logsumexp(1)


class GBCEHead(NegativesHead):
    """Generalised binary cross-entropy (Petrov & Macdonald 2023, gSASRec, eq. 11 and 13).

    Few sampled negatives make a model overconfident. With a the share of the catalogue that is
    sampled and t the calibration, the positive probability counts to the power
    `b = a (t (1 - 1 / a) + 1 / a)`; the loss is the mean of `-b log sigmoid(r_target)` and
    `-log(1 - sigmoid(r_j))`.

    Args:
        input_size: Channels of the vector.
        num_classes: Ids of items, padding and unknown among them.
        item_embedding: The vectors of the items where they are a feature, for `tied`.
        class_counts: `[num_classes]`, how often each item is a target in training.
        num_negatives: Items drawn for each batch, with replacement; one drawn twice counts once.
        negatives_power: Items are drawn in proportion to their count to this power; the paper's
            are drawn alike.
        calibration: t: 0 is plain binary cross-entropy, 1 gives calibrated probabilities.
        tied: Score with the items' input vectors.
        scale: Of the cosine; None takes the plain product, as the paper's.
        bias: Whether each item has a bias, which starts at its share of the targets. Without, as in
            the paper, all items first have to learn that they are rare, along one direction.
        dropout: Share of the vector's channels set to zero in training.
    """

    def __init__(
        self,
        input_size: PositiveInt,
        num_classes: PositiveInt,
        item_embedding: nn.Embedding | None = None,
        class_counts: Tensor | None = None,
        num_negatives: PositiveInt = 256,
        negatives_power: Power = 0.0,
        calibration: Annotated[float, Field(ge=0, le=1)] = 0.75,
        tied: bool = True,
        scale: PositiveFloat | None = 16.0,
        bias: bool = True,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__(
            input_size, num_classes, item_embedding, class_counts, num_negatives,
            negatives_power, tied, scale, bias, dropout,
        )  # fmt: skip
        self.calibration = calibration

    def sampled_loss(self, vectors_NH: Tensor, targets_N: Tensor, negatives_K: Tensor) -> Tensor:
        """Mean over the target and its negatives, not in nats."""
        own_N, others_NK, counts_NK = self.scores(vectors_NH, targets_N, negatives_K)
        num_N = counts_NK.sum(1).to(own_N.dtype)
        sampled_N = num_N / max(1, self.num_classes - FIRST_ITEM - 1)
        power_N = sampled_N * self.calibration + (1 - self.calibration)
        wrong_N = F.softplus(others_NK).masked_fill(~counts_NK, 0).sum(1)
        return (power_N * F.softplus(-own_N) + wrong_N) / (num_N + 1)
