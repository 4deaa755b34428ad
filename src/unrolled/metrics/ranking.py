"""Where the target stands among all items, and the metrics that follow from its rank.

A metric of a ranked list with one relevant item is a function of that item's rank, so nothing is
sorted and no list is kept: scores are made for a few queries at a time, compared with the score of
the target, and counted (torchmetrics' retrieval metrics keep every score until the end).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

Ties: TypeAlias = Literal["conservative", "optimistic", "mean"]
"""Where the target stands among items of its own score: last, first, or in their middle."""

CHUNK_BYTES = 2**24
"""Memory for the scores that exist at a time."""
_COMPARED_BYTES = 2**20
"""So much is compared at a time: what was counted is overwritten while it is in the cache."""
_BLOCK = 64


class Ranking(NamedTuple):
    """What the metrics take of a batch of queries.

    Args:
        ranks: `[query]` from 1; int64, for `mean` ties float64.
        top: `[query, k]` int64, the items with the largest scores, best first; `[query, 0]` where
            no metric asks for them.
        losses: `[query]`, minus the log of the target's share in the softmax of all scores, nats.
    """

    ranks: Tensor
    top: Tensor
    losses: Tensor


def rank_in_chunks(
    queries: Tensor,
    score: Callable[[Tensor], Tensor],
    targets: Tensor,
    num_items: int,
    k: int = 0,
    ties: Ties = "conservative",
    with_losses: bool = False,
) -> Ranking:
    """Rank the targets of any number of queries in constant memory.

    Args:
        queries: `[query, size]`.
        score: From some queries to the scores of all items, `[query, num_items]`, minus infinity
            where an item is no candidate.
        targets: `[query]` int64.
        num_items: Number of items.
        k: How many of the best items to name.
        ties: The rule for equal scores.
        with_losses: Whether to give the losses, which cost another look at all scores.
    """
    size = chunk_size(queries, num_items)
    ranks = [torch.empty(0, dtype=torch.int64, device=queries.device)]
    top = [ranks[0].new_empty(0, min(k, num_items))]
    losses = [torch.empty(0, device=queries.device)]
    for some, target in zip(torch.split(queries, size), torch.split(targets, size), strict=True):
        if len(target) == 0:
            continue
        scores = score(some)
        ranks.append(rank(scores, target, ties))
        top.append(top_items(scores, k))
        if with_losses:
            losses.append(F.cross_entropy(scores, target, reduction="none"))
    return Ranking(torch.cat(ranks), torch.cat(top), torch.cat(losses))


def chunk_size(queries: Tensor, num_items: int) -> int:
    """Of how many queries the scores of all items may exist at a time."""
    return max(1, CHUNK_BYTES // (queries.element_size() * num_items))


def rank(scores: Tensor, targets: Tensor, ties: Ties = "conservative") -> Tensor:
    """The rank of each target among all items.

    `conservative`: 1 + items with a larger score + other items with the same score. A model that
    gives all items the same score then finds nothing, where it would always be right by
    `optimistic`, 1 + items with a larger score. A target whose score is NaN, or an item's that is,
    counts against the model.

    Args:
        scores: `[query, item]`; minus infinity where an item is no candidate.
        targets: `[query]` int64.
        ties: The rule for equal scores.

    Returns:
        `[query]` int64, for `mean` float64.
    """
    own = scores.gather(1, targets.unsqueeze(1))
    items = scores.shape[1]
    last = items - _count(torch.lt, scores, own)
    if ties == "conservative":
        return last
    first = 1 + _count(torch.gt, scores, own) + scores.isnan().sum(1)
    # No score is larger than NaN.
    first = torch.where(own.squeeze(1).isnan(), items, first)
    return first if ties == "optimistic" else (first + last) / 2


def _count(compare: Callable[..., Tensor], scores: Tensor, own: Tensor) -> Tensor:
    """How many scores of each row compare to the row's own."""
    rows = max(1, _COMPARED_BYTES // (scores.element_size() * scores.shape[1]))
    counts = []
    # Booleans take four times as long to write and to add as numbers do (torch 2.13, AVX-512).
    buffer = torch.empty_like(scores[:rows])
    for part, threshold in zip(torch.split(scores, rows), torch.split(own, rows), strict=True):
        compared = compare(part, threshold, out=buffer[: len(part)])
        # Exact: float32 counts to 2^24, and the sum is a tree of partial sums of whole numbers.
        counts.append(compared.sum(1, dtype=torch.float32))
    return torch.cat(counts).long()


def top_items(scores: Tensor, k: int) -> Tensor:
    """The items with the `k` largest scores, best first; `[query, k]` int64.

    Only the `k` blocks with the largest maxima can hold them, so that most scores are looked at
    once: a tenth of the time of `torch.topk` over 50,000 items.
    """
    queries, items = scores.shape
    if k == 0:
        return torch.empty(queries, 0, dtype=torch.int64, device=scores.device)
    if items <= 4 * _BLOCK * k:
        return scores.topk(min(k, items), 1).indices
    whole = items // _BLOCK * _BLOCK
    blocks = scores[:, :whole].view(queries, -1, _BLOCK)
    chosen = blocks.amax(2).topk(k, 1).indices
    inside = torch.arange(_BLOCK, device=scores.device)
    candidates = (chosen.unsqueeze(2) * _BLOCK + inside).flatten(1)
    rest = torch.arange(whole, items, device=scores.device).expand(queries, -1)
    candidates = torch.cat([candidates, rest], 1)
    best = scores.gather(1, candidates).topk(k, 1).indices
    return candidates.gather(1, best)
