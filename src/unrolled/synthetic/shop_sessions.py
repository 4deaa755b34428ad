"""Drawing sessions of the generated shop, block by block, all sessions of a block at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unrolled.synthetic.shop_law import (
    DIRECTION,
    DISTRACTION,
    DWELL,
    DWELL_SPREAD,
    FORWARD,
    PURCHASE,
    SETTLED_NEXT,
    START_SETTLED,
    STAY,
    VIEW,
    Array,
    Integers,
    ShopLaw,
)

BLOCK = 1 << 14
"""Sessions drawn from one stream of random numbers. Blocks do not depend on each other, and the
arrays of one fit a processor's cache."""


@dataclass(frozen=True)
class Sessions:
    """Sessions with their events in order, one after the other.

    Args:
        lengths: Events of each session, the purchase included, `[session]`.
        begin: Time of the first event, milliseconds from the start of the log, `[session]`.
        kind: 0 view, 1 cart, 2 purchase, `[event]`.
        item: `[event]`.
        elapsed: Milliseconds since the first event of the session, `[event]`.
    """

    lengths: Integers
    begin: Integers
    kind: npt.NDArray[np.int8]
    item: npt.NDArray[np.int32]
    elapsed: npt.NDArray[np.int64]


def draw_sessions(law: ShopLaw, count: int, days: int, random: np.random.Generator) -> Sessions:
    """Draw `count` sessions that begin within `days` days."""
    hour = _pick(np.cumsum(law.hours), random.random(count))
    day = _pick(np.cumsum(_days(days)), random.random(count))
    begin = ((day * 24 + hour) * 3_600_000 + random.random(count) * 3_600_000).astype(np.int64)

    buyer = random.random(count) < law.buyers[hour]
    direction = np.where(random.random(count) < DIRECTION[0], 1, -1).astype(np.int16)
    settled = random.random(count) < START_SETTLED[buyer.astype(np.int8)]
    popular = np.cumsum(law.category_popularity)
    interest = _pick(popular, random.random(count)).astype(np.int16)
    item = _item(law, popular, interest, random)
    kind = np.zeros(count, np.int8)
    elapsed = np.zeros(count, np.int64)
    session = np.arange(count, dtype=np.int32)

    settles = SETTLED_NEXT.reshape(4)
    ends = np.cumsum(law.outcomes, -1).reshape(8, 4)
    seen = []
    while True:
        seen.append((session, kind, item, elapsed))
        state = buyer * np.int8(4) + settled * np.int8(2) + kind
        draw = random.random(len(session))
        following = (draw >= ends[:, 0].take(state)).astype(np.int8)
        following += draw >= ends[:, 1].take(state)
        following += draw >= ends[:, 2].take(state)
        spread = random.standard_normal(len(session))
        dwell = np.exp(DWELL.take(settled) + DWELL_SPREAD * spread) * 1000
        # Never two events at one time: what has the purchase's time is cut off with it.
        elapsed = elapsed + np.maximum(np.rint(dwell), 1).astype(np.int64)
        bought = following == PURCHASE
        seen.append((session[bought], following[bought], item[bought], elapsed[bought]))
        goes_on = np.flatnonzero(following < PURCHASE)
        if len(goes_on) == 0:
            break
        session, kind, item = session[goes_on], following[goes_on], item[goes_on]
        elapsed, buyer, direction = elapsed[goes_on], buyer[goes_on], direction[goes_on]
        settled, interest = settled[goes_on], interest[goes_on]

        views = kind == VIEW
        intent = buyer * np.int8(2) + settled
        settled = np.where(views, random.random(len(session)) < settles.take(intent), settled)
        moved = _move(law, popular, interest, direction, settled, random)
        interest = np.where(views, moved, interest)
        item = np.where(views, _item(law, popular, interest, random), item)
    return _in_order(count, begin, seen)


def _days(days: int) -> Array:
    # The log begins on a Thursday; weekends are busier.
    weight = np.array([1.0, 1.1, 1.4, 1.3, 1.0, 1.0, 1.0])[np.arange(days) % 7]
    return np.asarray(weight / weight.sum())


def _pick(cumulative: Array, draw: Array) -> Integers:
    return np.minimum(np.searchsorted(cumulative, draw, "right"), len(cumulative) - 1)


def _item(
    law: ShopLaw, popular: Array, interest: npt.NDArray[np.int16], random: np.random.Generator
) -> npt.NDArray[np.int32]:
    draw = random.random(len(interest))
    category = interest.astype(np.int32)
    # A uniform number below a threshold is uniform again when divided by it.
    distracted = np.flatnonzero(draw < DISTRACTION)
    category[distracted] = _pick(popular, draw[distracted] / DISTRACTION)
    place = _pick(law.cumulated, random.random(len(interest)) / law.scale.take(category))
    place = np.minimum(place, law.sizes.take(category) - 1)
    return (place * law.categories + category).astype(np.int32)


def _move(
    law: ShopLaw,
    popular: Array,
    interest: npt.NDArray[np.int16],
    direction: npt.NDArray[np.int16],
    settled: npt.NDArray[np.bool_],
    random: np.random.Generator,
) -> npt.NDArray[np.int16]:
    draw = random.random(len(interest))
    stay, leave = STAY.take(settled), (STAY + FORWARD).take(settled)
    moved = np.where(draw < stay, interest, (interest + direction) % np.int16(law.categories))
    jumps = np.flatnonzero(draw >= leave)
    rest = (draw[jumps] - leave[jumps]) / (1 - leave[jumps])
    moved[jumps] = _pick(popular, rest)
    return moved.astype(np.int16)


def _in_order(
    count: int, begin: Integers, seen: Sequence[tuple[npt.NDArray[Any], ...]]
) -> Sessions:
    """From the events of each step to those of each session."""
    lengths = np.zeros(count, np.int64)
    places = []
    for session, *_ in seen:
        places.append(lengths[session])
        lengths[session] += 1  # No session occurs twice in a step.
    starts = np.cumsum(lengths) - lengths
    place = np.concatenate(places) + starts[np.concatenate([s for s, *_ in seen])]
    columns = []
    for column in zip(*(events for _, *events in seen), strict=True):
        values = np.concatenate(column)
        ordered = np.empty_like(values)
        ordered[place] = values
        columns.append(ordered)
    kind, item, elapsed = columns
    return Sessions(lengths, begin, kind, item, elapsed)
