"""Generated shop sessions: an event log with views, carts and purchases.

A session has a hidden intent. With it, a visitor stays with a category, looks longer, puts things
into the cart more often, and half of such sessions end with a purchase; without it, almost none.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, PositiveInt

from unrolled.data.log import LogColumns

Share = Annotated[float, Field(gt=0, lt=1)]

_VERSION = 1  # Of the law below: a change makes another store.
_START = np.datetime64("2026-01-01", "ms")


@dataclass(frozen=True, kw_only=True)
class ShopLog:
    """An event log of generated sessions, all drawn at once from one seed.

    Args:
        sessions: Number of sessions.
        categories: Number of product categories; popularity falls by a power law.
        intent: Share of sessions with the intent to buy.
        days: Length of the log.
        seed: Of all draws.
    """

    sessions: PositiveInt = 20_000
    categories: PositiveInt = 50
    intent: Share = 0.1
    days: PositiveInt = 30
    seed: int = 0

    def columns(self) -> LogColumns:
        """What the columns of the generated log mean."""
        return LogColumns(
            sequence="session_id",
            order="time",
            time="time",
            event_type="event_type",
            categorical=["event_type", "category"],
            numeric={"price": "log"},
            gap=True,
            target_event="purchase",
        )

    def fingerprint(self) -> str:
        """A hash of the parameters: they determine the log."""
        parameters = json.dumps({"version": _VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(parameters.encode()).hexdigest()

    def tables(self) -> dict[str, Path | pa.Table | None]:
        """The generated events."""
        return {"events": self.generate(), "labels": None}

    def generate(self) -> pa.Table:
        """One row an event: `session_id, time, event_type, category, price`."""
        rng = np.random.default_rng(self.seed)
        n = self.sessions
        intent = rng.random(n) < self.intent
        buys = rng.random(n) < np.where(intent, 0.5, 0.005)
        views = 1 + rng.geometric(np.where(intent, 0.12, 0.25))
        session = np.repeat(np.arange(n), views)
        wants = intent[session]
        total = len(session)

        first = np.r_[True, session[1:] != session[:-1]]
        # A visitor stays with the last category until a change; the index of the last change is
        # carried forward by a running maximum.
        changes = first | (rng.random(total) > np.where(wants, 0.8, 0.45))
        popularity = 1.0 / np.arange(1, self.categories + 1)
        drawn = rng.choice(self.categories, total, p=popularity / popularity.sum())
        category = drawn[np.maximum.accumulate(np.where(changes, np.arange(total), 0))]
        dwell = rng.lognormal(np.where(wants, 3.4, 2.8), 1.0)
        dwell[first] = 0
        in_cart = rng.random(total) < np.where(wants, 0.15, 0.02)
        price = rng.lognormal(3 + 0.02 * category, 0.5)

        # Visits follow the hour of the day.
        hour = rng.choice(24, n, p=_hours())
        begin = rng.integers(0, self.days, n) * 86_400 + hour * 3_600 + rng.random(n) * 3_600
        elapsed = np.cumsum(dwell)
        seconds = begin[session] + elapsed - np.repeat(elapsed[first], views)

        last = np.r_[session[1:] != session[:-1], True] & buys[session]
        order = np.concatenate([np.arange(total), np.flatnonzero(in_cart), np.flatnonzero(last)])
        later = np.concatenate(
            [np.zeros(total), np.full(in_cart.sum(), 2.0), np.full(last.sum(), 4.0)]
        )
        kind = np.concatenate(
            [np.zeros(total, int), np.ones(in_cart.sum(), int), np.full(last.sum(), 2)]
        )
        milliseconds = ((seconds[order] + later) * 1000).astype("timedelta64[ms]")
        return pa.table(
            {
                "session_id": session[order],
                "time": _START + milliseconds,
                "event_type": np.array(["view", "cart", "purchase"])[kind],
                "category": category[order],
                "price": price[order],
            }
        )


def _hours() -> npt.NDArray[np.float64]:
    weight: npt.NDArray[np.float64] = 1.2 + np.sin((np.arange(24) - 9) * np.pi / 12)
    weight /= weight.sum()
    return weight
