"""The best possible ranking of a generated shop's items at every next event, without a list of all.

The exact distribution of the next item is a mixture over its category of one power law each, and
the item just seen (which may go into the cart). So how many items are more probable than the one
that came is a formula for each category: nothing of the size [event, item] is ever made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from unrolled.synthetic.shop_filter import Belief, next_view
from unrolled.synthetic.shop_law import CART, DISTRACTION, VIEW, Array, Integers, ShopLaw


class Ranked(NamedTuple):
    """The next items of some events, as the exact distribution ranks them.

    Args:
        ranks: From 1, among the items that were seen in training, `[n]`.
        log_probability: Of the item that came, in nats, given that it was seen in training, `[n]`.
    """

    ranks: Integers
    log_probability: Array


@dataclass(frozen=True)
class Catalogue:
    """The items that can be recommended.

    Args:
        law: Of the shop.
        seen: Whether an item was seen in training, `[item]`.
    """

    law: ShopLaw
    seen: Integers

    @cached_property
    def first(self) -> Integers:
        """Index in `seen_before` of each category's first place, `[category]`."""
        sizes = self.law.sizes + 1
        return np.cumsum(sizes) - sizes

    @cached_property
    def seen_before(self) -> Integers:
        """Items seen in training before each place of a category, and among all of it."""
        parts = [self.seen[k :: self.law.categories] for k in range(self.law.categories)]
        return np.concatenate([np.r_[0, np.cumsum(part)] for part in parts])

    @cached_property
    def seen_share(self) -> Array:
        """Probability that an item of a category is one that was seen, `[category]`."""
        item = np.arange(self.law.items)
        category = item % self.law.categories
        popularity = self.law.item_popularity(category, item // self.law.categories)
        return np.asarray(np.bincount(category, popularity * self.seen), dtype=np.float64)

    def rank(self, belief: Belief, current: Integers, following: Integers) -> Ranked:
        """Rank the items that follow, all of them seen in training.

        That there is a next event in the input, no purchase and no end, is known: it is asked for.

        Args:
            belief: After the current event.
            current: The item of the current event; -1 for one that was not seen in training, `[n]`.
            following: The item of the next event, `[n]`.
        """
        law = self.law
        outcome = law.outcomes[:, :, belief.kind].transpose(2, 0, 1, 3)
        cart = np.einsum("nzqdc,nzq->n", belief.states, outcome[..., CART])
        views = belief.states * outcome[..., VIEW][..., None, None]
        interest = next_view(law, views).sum((1, 2, 3))
        mass = interest.sum(1, keepdims=True)
        by_category = (1 - DISTRACTION) * interest + DISTRACTION * mass * law.category_popularity

        rows = np.arange(len(current))
        category, place = following % law.categories, following // law.categories
        again = (following == current) & (cart > 0)
        probability = by_category[rows, category] * law.item_popularity(category, place)
        probability = probability + np.where(again, cart, 0)

        more = self._places_above(by_category, probability)
        # Of its own category those before it, whatever the rounding; fewer if it is the cart's.
        more[rows, category] = np.where(again, np.minimum(more[rows, category], place), place)
        above = self.seen_before[self.first + more] - self.seen_before[self.first]
        ranks = 1 + above.sum(1)

        known = current >= 0
        category, place = current % law.categories, current // law.categories
        popularity = law.item_popularity(category, np.maximum(place, 0))
        of_current = by_category[rows, category] * popularity + cart
        counted = place < more[rows, category]
        ranks += known & (following != current) & (of_current > probability) & ~counted
        total = by_category @ self.seen_share + np.where(known, cart, 0)
        return Ranked(ranks, np.log(probability / total))

    def _places_above(self, by_category: Array, probability: Array) -> Integers:
        """How many of a category's places are more probable than `probability`, `[n, category]`."""
        law = self.law
        ratio = by_category * law.scale / probability[:, None]
        places = np.ceil(ratio ** (1 / law.exponent)) - 1
        return np.asarray(np.clip(places, 0, law.sizes), dtype=np.int64)


def scores(ranked: Sequence[Ranked], cutoffs: Sequence[int]) -> dict[str, float]:
    """Recall, MRR and NDCG at each cutoff, and `log_loss`, nats an event."""
    ranks = np.concatenate([r.ranks for r in ranked])
    result = {"log_loss": -float(np.concatenate([r.log_probability for r in ranked]).mean())}
    for k in cutoffs:
        hit = ranks <= k
        result[f"recall@{k}"] = float(hit.mean())
        result[f"mrr@{k}"] = float((hit / ranks).mean())
        result[f"ndcg@{k}"] = float((hit / np.log2(1 + ranks)).mean())
    return result
