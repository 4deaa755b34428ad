"""Generated shop sessions: an event log with views, carts and purchases, and a known law.

`shop_law` says what visitors want and do, `shop_sessions` draws them, `shop_best` computes what
can be known of a session from what is seen of it: the best that any model can score.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from unrolled.data.log import LogColumns
from unrolled.errors import UserError
from unrolled.synthetic.shop_law import EVENT_TYPES, ShopLaw
from unrolled.synthetic.shop_sessions import BLOCK, Sessions, draw_sessions

if TYPE_CHECKING:
    from unrolled.data.store import JaggedSequences

_VERSION = 7  # Of the law: a change makes another store.
_START = np.datetime64("2026-01-01", "ms")


@dataclass(frozen=True, kw_only=True)
class ShopLog:
    """An event log of generated sessions.

    Args:
        sessions: Number of sessions.
        items: Number of items in the catalogue.
        categories: Number of product categories; 3 or more, and at most as many as items.
        intent: Share of sessions with the intent to buy; not half of them do in the end.
        popularity: Exponent of the power law by which the items of a category differ.
        days: Length of the log.
        seed: Of all draws.

    Raises:
        UserError: When there are fewer items than categories.
    """

    sessions: PositiveInt = 150_000
    items: PositiveInt = 1_000
    categories: Annotated[int, Field(ge=3, le=30_000)] = 10
    intent: Annotated[float, Field(gt=0, le=0.5)] = 0.08
    popularity: PositiveFloat = 1.5
    days: PositiveInt = 30
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        if self.items < self.categories:
            raise UserError(
                f"data.source.items={self.items} are fewer than "
                f"data.source.categories={self.categories}; every category needs an item"
            )

    @cached_property
    def law(self) -> ShopLaw:
        """The probabilities of the shop."""
        return ShopLaw(
            items=self.items,
            categories=self.categories,
            intent=self.intent,
            exponent=self.popularity,
        )

    @cached_property
    def _prices(self) -> npt.NDArray[np.float64]:
        """In cents' steps, by item."""
        random = np.random.default_rng([self.seed, self.items])
        return np.asarray(np.round(random.lognormal(3.0, 0.6, self.items), 2))

    def columns(self) -> LogColumns:
        """What the columns of the generated log mean."""
        return LogColumns(
            sequence="session_id",
            order="time",
            time="time",
            event_type="event_type",
            item="item",
            categorical=["event_type", "category", "hour"],
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

    def generate(self, start: int = 0, count: int | None = None) -> pa.Table:
        """The events of some sessions; the same whatever else is generated.

        Args:
            start: The first session.
            count: Number of sessions; all from `start` on by default.

        Returns:
            One row an event, by session and time: `session_id, time, event_type, item, category,
            price, hour`.
        """
        end = self.sessions if count is None else min(start + count, self.sessions)
        blocks = range(start // BLOCK, -(-end // BLOCK))
        return pa.concat_tables([self._block(block, start, end) for block in blocks])

    def best_possible(
        self, sequences: JaggedSequences, vocabularies: Mapping[str, pa.Array]
    ) -> dict[str, float]:
        """The best that any model can score on sequences of this log, exactly.

        Args:
            sequences: As read from a store, with the target that is asked.
            vocabularies: The values of each categorical column in the order of their ids.
        """
        # Torch is not needed to generate.
        from unrolled.synthetic.shop_best import best_possible

        return best_possible(self.law, sequences, vocabularies)

    def _block(self, block: int, start: int, end: int) -> pa.Table:
        first = block * BLOCK
        # The random numbers of a whole block, so that its sessions don't depend on the range asked.
        random = np.random.Generator(np.random.SFC64([self.seed, block]))
        drawn = draw_sessions(self.law, BLOCK, self.days, random)
        return self._table(drawn, first, max(start - first, 0), min(end - first, BLOCK))

    def _table(self, drawn: Sessions, first: int, start: int, end: int) -> pa.Table:
        offsets = np.r_[0, np.cumsum(drawn.lengths)]
        events = slice(offsets[start], offsets[end])
        session = np.repeat(np.arange(start, end), drawn.lengths[start:end])
        time = drawn.begin[session] + drawn.elapsed[events]
        item = drawn.item[events]
        return pa.table(
            {
                "session_id": session + first,
                "time": _START + time.view("timedelta64[ms]"),
                "event_type": pa.DictionaryArray.from_arrays(
                    drawn.kind[events], pa.array(EVENT_TYPES)
                ),
                "item": item,
                "category": item % self.categories,
                "price": self._prices[item],
                "hour": (time // 3_600_000 % 24).astype(np.int8),
            }
        )
