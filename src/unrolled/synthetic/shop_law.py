"""The law of the generated shop: a hidden Markov model of what visitors want and do.

A session has an *intent* (a visitor, or a buyer) and a *direction*, drawn once; at every view a
*phase* (looking around, or settled) and an *interest*, the category that is looked for. They are
hidden. Seen are the events: views and carts with item, time and hour.

Visitors and buyers do the same things in the other order. A buyer looks around first, settles,
puts things into the cart and perhaps buys; a visitor begins with what caught the eye, puts it into
the cart as into a wish list, then wanders off. Who settled lingers on a page and stays with a
category; who looks around goes from category to category along a ring, in the session's direction.
So neither question can be answered by counting events.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

VIEW, CART, PURCHASE = 0, 1, 2
EVENT_TYPES = ("view", "cart", "purchase")

# Indices: intent z (0 visitor, 1 buyer), phase q (0 looking around, 1 settled), type y (0 view,
# 1 cart).
START_SETTLED: Array = np.array([0.93, 0.04])
"""`[z]`: probability that the first view is of the settled phase."""
SETTLED_NEXT: Array = np.array([[0.02, 0.70], [0.25, 0.96]])
"""`[z, q]`: probability that the view after one of phase q is of the settled phase."""
CART_AFTER: Array = np.array([[0.02, 0.0], [0.20, 0.0]])
"""`[q, y]`: probability that the item just seen goes into the cart next."""
PURCHASE_AFTER: Array = np.array([[[0.0, 0.0], [0.001, 0.004]], [[0.001, 0.004], [0.10, 0.25]]])
"""`[z, q, y]`: probability that a purchase follows."""
END_AFTER: Array = np.array([[0.13, 0.03], [0.05, 0.03]])
"""`[z, q]`: probability that the session ends, without a purchase."""
DWELL: Array = np.array([2.2, 3.8])
"""`[q]`: mean of the log of the seconds spent on a page."""
DWELL_SPREAD = 0.5
"""Deviation of that log."""
STAY: Array = np.array([0.25, 0.45])
"""`[q]`: probability that a view of phase q stays with the interest."""
FORWARD: Array = np.array([0.65, 0.45])
"""`[q]`: probability that it goes one category on along the ring. Else it jumps to any."""
DIRECTION: Array = np.array([0.6, 0.4])
"""Probability of +1 and of -1."""
DISTRACTION = 0.08
"""Probability that a view is of any category, while the interest stays what it is."""
CATEGORY_EXPONENT = 0.7
"""Of the power law of the categories' popularity."""
INTENT_SWING = 0.4
"""How far the share of buyers swings over the day, as a part of its mean."""


@dataclass(frozen=True, kw_only=True)
class ShopLaw:
    """The probabilities of a shop, as arrays.

    Item i is of category `i % categories` and the `i // categories`-th most popular there.

    Args:
        items: Number of items.
        categories: Number of categories; at most as many as items.
        intent: Mean share of buyers.
        exponent: Of the power law of the items' popularity within a category.
    """

    items: int
    categories: int
    intent: float
    exponent: float

    @cached_property
    def hours(self) -> Array:
        """How sessions spread over the hours of the day, `[24]`."""
        weight = 1.2 + np.sin((np.arange(24) - 9) * np.pi / 12)
        return np.asarray(weight / weight.sum())

    @cached_property
    def buyers(self) -> Array:
        """Share of sessions with the intent to buy by the hour of their first event, `[24]`."""
        swing = np.sin((np.arange(24) - 13) * np.pi / 12)
        share = 1 + INTENT_SWING * (swing - self.hours @ swing)
        return np.asarray(self.intent * share)

    @cached_property
    def category_popularity(self) -> Array:
        """`[category]`."""
        weight = np.arange(1.0, self.categories + 1) ** -CATEGORY_EXPONENT
        return np.asarray(weight / weight.sum())

    @cached_property
    def sizes(self) -> Integers:
        """Number of items of each category, `[category]`."""
        return np.bincount(np.arange(self.items) % self.categories).astype(np.int64)

    @cached_property
    def cumulated(self) -> Array:
        """Sum of `(1 + place) ** -exponent` up to each place of the largest category."""
        return np.cumsum(np.arange(1.0, self.sizes[0] + 1) ** -self.exponent)

    @cached_property
    def scale(self) -> Array:
        """An item's popularity in its category is `scale * (1 + place) ** -exponent`."""
        return np.asarray(1 / self.cumulated[self.sizes - 1])

    def item_popularity(self, category: Integers, place: Integers) -> Array:
        """Of the item at a place of a category (from 0), among the items of that category."""
        return np.asarray(self.scale[category] * (1.0 + place) ** -self.exponent)

    @cached_property
    def start(self) -> Array:
        """Distribution of the first view's hidden state given the hour, `[hour, z, q, d, c]`."""
        intent = np.stack([1 - self.buyers, self.buyers], 1)
        phase = np.stack([1 - START_SETTLED, START_SETTLED], 1)
        start = np.einsum("hz,zq,d,c->hzqdc", intent, phase, DIRECTION, self.category_popularity)
        return np.asarray(start)

    @cached_property
    def phase(self) -> Array:
        """Probability of the next view's phase, `[z, q, next q]`."""
        return np.stack([1 - SETTLED_NEXT, SETTLED_NEXT], 2)

    @cached_property
    def outcomes(self) -> Array:
        """What follows an event: `[z, q, y, (view, cart, purchase, end)]`."""
        shape = (2, 2, 2)
        cart = np.broadcast_to(CART_AFTER[None], shape)
        end = np.broadcast_to(END_AFTER[:, :, None], shape)
        return np.stack([1 - cart - PURCHASE_AFTER - end, cart, PURCHASE_AFTER, end], 3)

    def move(self, states: Array) -> Array:
        """Where the interest goes with the next view: `[..., q, d, c]` to the same."""
        jump = 1 - STAY - FORWARD
        forward = np.stack(
            [np.roll(states[..., 0, :], 1, -1), np.roll(states[..., 1, :], -1, -1)], -2
        )
        anywhere = states.sum(-1, keepdims=True) * self.category_popularity
        rates = [rate[:, None, None] for rate in (STAY, FORWARD, jump)]
        return np.asarray(rates[0] * states + rates[1] * forward + rates[2] * anywhere)

    @cached_property
    def will_buy(self) -> Array:
        """Probability that a session buys, from its state after an event on, `[z, q, y]`.

        The solution of V = purchase + cart V' + view V'', a linear system of eight states.
        """
        step = np.zeros((2, 2, 2, 2, 2, 2))
        for z in range(2):
            step[z, :, :, z, :, VIEW] = np.einsum(
                "qy,qr->qyr", self.outcomes[z, :, :, VIEW], self.phase[z]
            )
            for q in range(2):
                step[z, q, :, z, q, CART] = self.outcomes[z, q, :, CART]
        chain = step.reshape(8, 8)
        bought = self.outcomes[..., PURCHASE].reshape(8)
        solution = np.linalg.solve(np.eye(8) - chain, bought)
        return np.asarray(solution.reshape(2, 2, 2), dtype=np.float64)

    @cached_property
    def share_that_buys(self) -> float:
        """Expected share of sessions that end with a purchase."""
        first = np.einsum("h,hzqdc->zq", self.hours, self.start)
        return float((first * self.will_buy[:, :, VIEW]).sum())
