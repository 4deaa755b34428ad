"""A session as a row of a table: every column against a loop over its events."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.data.schema import Categorical, Numeric, Schema
from unrolled.data.session_features import ENDS, session_features
from unrolled.data.store import JaggedSequences

law = settings(max_examples=25, deadline=None)
NAN = math.nan
PAGES, LARGE = 4, 1_000
SCHEMA = Schema((Numeric("gap"), Categorical("page", PAGES), Categorical("item", LARGE)), 2)
event = st.tuples(st.integers(1, PAGES - 1), st.integers(1, LARGE - 1), st.integers(-8, 8))


def ends(values: list[float]) -> list[float]:
    absent = [NAN] * ENDS
    return [*(values + absent)[:ENDS], *(values[::-1] + absent)[:ENDS]]


def by_hand(events: list[tuple[int, int, int]]) -> list[float]:
    pages, items, gaps = ([float(e[k]) for e in events] for k in range(3))
    counts = [float(pages.count(k)) for k in range(PAGES)]
    per_page = [sum(g for p, g in zip(pages, gaps, strict=True) if p == k) for k in range(PAGES)]
    n = len(events)
    return [
        n,
        *ends(pages), *counts, *(c / n for c in counts),
        *ends(items),
        sum(gaps), max(gaps), gaps[-1], *per_page,
    ]  # fmt: skip


@law
@given(st.lists(st.lists(event, min_size=1, max_size=12), min_size=1, max_size=5))
def test_the_columns_are_those_counted_event_by_event(
    sessions: list[list[tuple[int, int, int]]],
) -> None:
    flat = [e for session in sessions for e in session]
    page, item, gap = (torch.tensor([e[k] for e in flat]) for k in range(3))
    offsets = torch.tensor([0, *(len(s) for s in sessions)]).cumsum(0)
    columns = {"gap": gap.float(), "page": page.int(), "item": item.int()}
    source = JaggedSequences(columns, offsets, torch.zeros(len(sessions), dtype=torch.int64))
    rows = session_features(source.gather(torch.arange(len(sessions))), SCHEMA)
    expected = torch.tensor([by_hand(session) for session in sessions])
    torch.testing.assert_close(rows, expected, equal_nan=True)
