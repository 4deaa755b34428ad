"""Metrics of the first k recommended items, by the rank formula: sums alone, in constant memory.

With one relevant item a query, its recall at k is the hit rate at k.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torchmetrics import Metric

from unrolled.metrics.undefined import NOTHING


class RankMetric(Metric):
    """The mean over the queries of a gain that depends on the target's rank.

    Args:
        k: A target of a larger rank gains nothing.
        unseen_missed: Whether targets that were never seen in training, which no model can
            recommend, count as misses; they are dropped otherwise.
    """

    higher_is_better: bool | None = True
    full_state_update = False
    undefined = "no target is an item of the training log"
    queries: Tensor

    def __init__(self, k: int, unseen_missed: bool = False) -> None:
        super().__init__()
        self.k = k
        self.unseen_missed = unseen_missed
        # A collection takes metrics for one whose states have equal names and, after the first
        # batch, equal values (torchmetrics' compute groups): recall and MRR while both are 0.
        self._gained = f"gained_{type(self).__name__}_{k}_{unseen_missed}"
        self.add_state(self._gained, torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("queries", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, ranks: Tensor, unseen: Tensor | None = None) -> None:
        """Take the ranks from 1 of the targets seen in training, `[query]`, int64 or float64.

        Args:
            ranks: `[query]`.
            unseen: How many targets beside them were never seen, a scalar; 0 by default.
        """
        gains = self.gain(ranks.double())
        gained = getattr(self, self._gained) + torch.where(ranks <= self.k, gains, 0.0).sum()
        setattr(self, self._gained, gained)
        self.queries += ranks.numel()
        if self.unseen_missed and unseen is not None:
            self.queries += unseen

    @abstractmethod
    def gain(self, ranks: Tensor) -> Tensor:
        """What a target within the first k gains, `[query]` float64."""

    def compute(self) -> Tensor:
        """Mean gain of a query; NaN without queries."""
        mean: Tensor = getattr(self, self._gained) / self.queries
        return mean


class RecallAtK(RankMetric):
    """The share of queries whose target is among the first k items."""

    def gain(self, ranks: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(ranks)


class MRRAtK(RankMetric):
    """Mean reciprocal rank, 0 beyond k."""

    def gain(self, ranks: Tensor) -> Tensor:
        """1 / rank."""
        return ranks.reciprocal()


class NDCGAtK(RankMetric):
    """Normalised discounted cumulative gain (Jarvelin & Kekalainen 2002), one relevant item."""

    def gain(self, ranks: Tensor) -> Tensor:
        """1 / log2(1 + rank)."""
        return torch.log2(1 + ranks).reciprocal()


class RankedQueries(RankMetric):
    """How many targets were ranked."""

    higher_is_better = None

    def __init__(self) -> None:
        super().__init__(1)

    def gain(self, ranks: Tensor) -> Tensor:
        """Not asked."""
        return torch.zeros_like(ranks)

    def compute(self) -> Tensor:
        """Number of queries."""
        return self.queries


class UnseenQueries(RankedQueries):
    """How many targets were never seen in training."""

    def update(self, ranks: Tensor, unseen: Tensor | None = None) -> None:
        """Take what every rank metric takes."""
        if unseen is not None:
            self.queries += unseen


class UnseenShare(RankMetric):
    """The share of all targets that were never seen in training: how cold the start is."""

    higher_is_better = None
    undefined = NOTHING

    def __init__(self) -> None:
        super().__init__(2**62, unseen_missed=True)

    def gain(self, ranks: Tensor) -> Tensor:
        """1, whatever the rank."""
        return torch.ones_like(ranks)

    def compute(self) -> Tensor:
        """0 to 1; NaN without targets."""
        return 1 - super().compute()


class _Recommended(Metric):
    """How often each item is among the recommended ones."""

    full_state_update = False
    undefined = "nothing was recommended: no target is an item of the training log"
    times: Tensor

    def __init__(self, num_items: int) -> None:
        super().__init__()
        self.add_state("times", torch.zeros(num_items, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, top: Tensor) -> None:
        """Take the items recommended to each query, `[query, k]` int64."""
        self.times += torch.bincount(top.flatten(), minlength=len(self.times))


class CoverageAtK(_Recommended):
    """The share of the catalogue that is among the first k of any query.

    Catalogue coverage as of Ge et al. (2010), eq. 2.

    Args:
        candidates: `[item]` bool, which items can be recommended.
    """

    higher_is_better = True
    candidates: Tensor

    def __init__(self, candidates: Tensor) -> None:
        super().__init__(len(candidates))
        self.register_buffer("candidates", candidates, persistent=False)

    def compute(self) -> Tensor:
        """0 to 1; NaN where nothing was recommended."""
        recommended = ((self.times > 0) & self.candidates).sum().double()
        share = recommended / self.candidates.sum()
        return share.where(self.times.any(), torch.nan)


class PopularityAtK(_Recommended):
    """How popular the recommended items are: their mean share of the training targets.

    The average recommendation popularity (ARP) of Yin et al. (2012) and Abdollahpouri et al.
    (2019), with an item's share in the place of its count, so that logs of all sizes compare.

    Args:
        counts: `[item]`, how often each item is a target in training.
    """

    higher_is_better = None
    share: Tensor

    def __init__(self, counts: Tensor) -> None:
        super().__init__(len(counts))
        self.register_buffer("share", counts.double() / counts.sum(), persistent=False)

    def compute(self) -> Tensor:
        """0 to 1; NaN where nothing was recommended."""
        # Where the catalogue has fewer than k items, ids that are none fill the list.
        return (self.times * self.share).sum() / self.times[self.share > 0].sum()
