"""What can be known of a generated session from what is seen of it, exactly.

The forward algorithm of hidden Markov models (Rabiner 1989, section III.A) over intent, phase,
direction and interest, in float64, all sessions side by side.

What a model sees of an event is its type, item, category, price, hour, and the time since the event
before. Of these the hidden state knows only the type, the category, the first event's hour and the
time: item and price tell no more than the category does, and later hours no more than the times.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from unrolled.synthetic.shop_law import (
    CART,
    DISTRACTION,
    DWELL,
    DWELL_SPREAD,
    PURCHASE,
    VIEW,
    Array,
    Integers,
    ShopLaw,
)

END = 3
CHUNK = 2_048
"""Sessions side by side."""


@dataclass(frozen=True)
class SeenSessions:
    """What is seen of sessions, without their purchase; `values` and `offsets`.

    Hours, categories and items are codes of the observer's own: an id may stand for several values,
    as the unknown one of a vocabulary does.

    Args:
        offsets: Events of session i are offsets[i] .. offsets[i + 1], `[session + 1]`.
        kind: 0 view, 1 cart, `[event]`.
        category: Code, `[event]`.
        hour: Code of the hour; that of the first event counts, `[event]`.
        time: Seconds, to the millisecond, `[event]` float64.
        category_code: The code of each category, `[category]`; several may share one.
        hour_code: The code of each hour of the day, `[24]`.
    """

    offsets: Integers
    kind: Integers
    category: Integers
    hour: Integers
    time: Array
    category_code: Integers = field(repr=False)
    hour_code: Integers = field(repr=False)


@dataclass(frozen=True)
class Belief:
    """What is known of some sessions after their first `step + 1` events.

    Args:
        step: Index of the last event that was seen.
        sessions: Which sessions these are, `[n]`.
        events: Index of their last seen event, `[n]`.
        kind: Its type, `[n]`.
        states: Probability of the hidden state given the events so far, `[n, z, q, d, c]`.
    """

    step: int
    sessions: Integers
    events: Integers
    kind: Integers
    states: Array

    def of(self, chosen: npt.NDArray[np.bool_]) -> Belief:
        """The same of some of the sessions."""
        return Belief(
            self.step,
            self.sessions[chosen],
            self.events[chosen],
            self.kind[chosen],
            self.states[chosen],
        )


def beliefs(law: ShopLaw, seen: SeenSessions) -> Iterator[Belief]:
    """The beliefs after every event of every session, in chunks of sessions of similar length."""
    lengths = np.diff(seen.offsets)
    order = np.argsort(-lengths, kind="stable")
    emission = _emission(law, seen.category_code)
    start = _start(law, seen.hour_code)
    for first in range(0, len(order), CHUNK):
        sessions = order[first : first + CHUNK]
        events = seen.offsets[sessions]
        states = start[seen.hour[events]] * emission[seen.category[events]][:, None, None, None]
        for step in range(int(lengths[sessions[0]])):
            if step:
                going = lengths[sessions] > step  # The longest come first.
                sessions, states = sessions[going], states[going]
                events = seen.offsets[sessions] + step
                states = _after(law, seen, emission, states, events)
            states = states / states.sum((1, 2, 3, 4), keepdims=True)
            yield Belief(step, sessions, events, seen.kind[events], states)


def _after(
    law: ShopLaw, seen: SeenSessions, emission: Array, states: Array, events: Integers
) -> Array:
    """The states' probabilities together with what the next event, one of `events`, shows."""
    kind = seen.kind[events]
    outcome = law.outcomes[:, :, seen.kind[events - 1]].transpose(2, 0, 1, 3)
    gap = seen.time[events] - seen.time[events - 1]
    states = states * dwell_density(gap)[:, None, :, None, None]
    viewed = kind == VIEW
    # Of a cart the item is that of the view before: only its type and time tell something.
    following = states * outcome[..., CART][..., None, None]
    moved = next_view(law, states[viewed] * outcome[viewed][..., VIEW][..., None, None])
    following[viewed] = moved * emission[seen.category[events[viewed]]][:, None, None, None]
    return np.asarray(following)


def next_view(law: ShopLaw, states: Array) -> Array:
    """From the states of an event to those of the view that follows, `[..., z, q, d, c]`."""
    return law.move(np.einsum("...zqdc,zqr->...zrdc", states, law.phase))


def dwell_density(gap: Array) -> Array:
    """Density of the seconds until the next event by phase, up to a factor: `[n]` to `[n, q]`.

    The density at the millisecond stands for the probability of the millisecond: the difference is
    below 1e-6 of it.
    """
    log = np.log(np.maximum(np.round(gap, 3), 1e-3))[:, None]
    return np.asarray(np.exp(-0.5 * ((log - DWELL) / DWELL_SPREAD) ** 2))


def _emission(law: ShopLaw, code: Integers) -> Array:
    """Probability of a category's code given the interest, `[code, c]`."""
    emission = np.zeros((int(code.max()) + 1, law.categories))
    np.add.at(emission, (code, np.arange(law.categories)), 1 - DISTRACTION)
    np.add.at(emission, code, DISTRACTION * law.category_popularity[:, None])
    return emission


def _start(law: ShopLaw, code: Integers) -> Array:
    """Distribution of the first state given the code of the hour, `[code, z, q, d, c]`."""
    shape = (int(code.max()) + 1, *law.start.shape[1:])
    start = np.zeros(shape)
    np.add.at(start, code, law.start * law.hours[:, None, None, None, None])
    total = start.sum((1, 2, 3, 4), keepdims=True)
    return np.asarray(np.divide(start, total, out=start, where=total > 0))


def whole_session(law: ShopLaw, belief: Belief) -> Array:
    """Probability that a session has bought which is seen whole, to its purchase or end, `[n]`.

    Whoever sees the whole input knows that what follows is one of the two.
    """
    states = belief.states.sum((3, 4))
    outcome = law.outcomes[:, :, belief.kind].transpose(2, 0, 1, 3)
    bought, ended = (np.einsum("nzq,nzq->n", states, outcome[..., k]) for k in (PURCHASE, END))
    return np.asarray(bought / (bought + ended))


def so_far(law: ShopLaw, belief: Belief) -> Array:
    """Probability that a session will buy in which more may follow, `[n]`."""
    states = belief.states.sum((3, 4))
    will_buy = law.will_buy[:, :, belief.kind].transpose(2, 0, 1)
    return np.asarray(np.einsum("nzq,nzq->n", states, will_buy))
