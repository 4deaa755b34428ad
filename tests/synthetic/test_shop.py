"""The generated shop: one seed, one log, and the frequencies of its law."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.errors import UserError
from unrolled.synthetic import shop_law as law_of
from unrolled.synthetic.shop import ShopLog
from unrolled.synthetic.shop_law import ShopLaw
from unrolled.synthetic.shop_sessions import BLOCK

Column = npt.NDArray[np.generic]
SESSIONS = 3 * BLOCK


@pytest.fixture(scope="module")
def shop() -> ShopLog:
    return ShopLog(sessions=SESSIONS, items=90, categories=9)


@pytest.fixture(scope="module")
def log(shop: ShopLog) -> dict[str, Column]:
    return columns_of(shop.generate())


def columns_of(table: pa.Table) -> dict[str, Column]:
    table = table.set_column(2, "event_type", table["event_type"].cast(pa.string()))
    return {name: table[name].to_numpy() for name in table.column_names}


def first_events(log: dict[str, Column]) -> npt.NDArray[np.int64]:
    session = log["session_id"]
    return np.flatnonzero(np.r_[True, session[1:] != session[:-1]])


def assert_frequency(observed: npt.NDArray[np.bool_], probability: float) -> None:
    """Within four standard errors: one check in 16,000 fails by chance."""
    error = (probability * (1 - probability) / len(observed)) ** 0.5
    assert abs(observed.mean() - probability) < 4 * error


def assert_frequencies(values: Column, probabilities: npt.NDArray[np.float64]) -> None:
    """Pearson's statistic is within four deviations of its mean."""
    expected = probabilities * len(values)
    counts = np.bincount(values.astype(np.int64), minlength=len(probabilities))
    freedom = len(probabilities) - 1
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert abs(statistic - freedom) < 4 * (2 * freedom) ** 0.5


def test_the_seed_determines_the_log() -> None:
    assert ShopLog(sessions=200).generate().equals(ShopLog(sessions=200).generate())
    assert not ShopLog(sessions=200).generate().equals(ShopLog(sessions=200, seed=1).generate())


def test_a_part_of_the_sessions_is_the_same_as_in_the_whole() -> None:
    shop = ShopLog(sessions=BLOCK + 2_000, items=60, categories=6)
    whole = shop.generate()

    @settings(max_examples=5, deadline=None)
    @given(start=st.integers(0, BLOCK + 1_999), count=st.integers(1, 2_500))
    def check(start: int, count: int) -> None:
        part = columns_of(shop.generate(start, count))
        session = whole["session_id"].to_numpy()
        inside = (session >= start) & (session < start + count)
        expected = columns_of(whole.filter(pa.array(inside)))
        for name, values in part.items():
            np.testing.assert_array_equal(values, expected[name])

    check()


def test_more_sessions_begin_with_those_of_fewer() -> None:
    few = columns_of(ShopLog(sessions=100).generate())
    more = columns_of(ShopLog(sessions=1_000).generate(0, 100))
    for name in few:
        np.testing.assert_array_equal(few[name], more[name])


def test_columns_and_values_are_those_of_a_shop(log: dict[str, Column]) -> None:
    table = ShopLog(sessions=2_000, items=90, categories=9, days=3).generate()
    assert [(f.name, str(f.type)) for f in table.schema] == [
        ("session_id", "int64"),
        ("time", "timestamp[ms]"),
        ("event_type", "dictionary<values=string, indices=int8, ordered=0>"),
        ("item", "int32"),
        ("category", "int32"),
        ("price", "double"),
        ("hour", "int8"),
    ]
    assert all(column.null_count == 0 for column in table.columns)
    assert set(log["session_id"]) == set(range(SESSIONS))
    assert set(log["event_type"]) == {"view", "cart", "purchase"}
    assert set(log["item"]) == set(range(90))
    np.testing.assert_array_equal(log["category"], log["item"] % 9)
    # A price is a property of the item.
    assert len(np.unique(np.stack([log["item"], log["price"]]), axis=1).T) == 90
    assert log["price"].min() > 0
    hours = (log["time"] - np.datetime64("2026-01-01")) // np.timedelta64(3_600_000, "ms") % 24
    np.testing.assert_array_equal(hours, log["hour"])
    begin = columns_of(table)["time"][first_events(columns_of(table))]
    assert begin.min() >= np.datetime64("2026-01-01")
    assert begin.max() < np.datetime64("2026-01-04")


def test_a_purchase_is_the_last_event_of_its_session_and_a_cart_is_of_the_item_viewed(
    log: dict[str, Column],
) -> None:
    session, kind = log["session_id"], log["event_type"]
    first = np.isin(np.arange(len(session)), first_events(log))
    last = np.r_[first[1:], True]
    assert last[kind == "purchase"].all()
    assert (kind[first] == "view").all()
    after_cart = np.flatnonzero(kind == "cart")
    assert (kind[after_cart - 1] == "view").all()
    for name in ("item", "category", "price"):
        np.testing.assert_array_equal(log[name][after_cart], log[name][after_cart - 1])
    # No two events of a session share a time, so that the order of the rows never matters.
    steps = np.diff(log["time"]) / np.timedelta64(1, "ms")
    assert (steps[~first[1:]] >= 1).all()


def test_the_share_that_buys_and_the_share_of_carts(shop: ShopLog, log: dict[str, Column]) -> None:
    bought = np.isin(np.arange(SESSIONS), log["session_id"][log["event_type"] == "purchase"])
    assert_frequency(bought, shop.law.share_that_buys)
    assert 0.05 < ShopLog().law.share_that_buys < 0.06
    assert 0.05 < (log["event_type"] == "cart").mean() < 0.15


def test_sessions_begin_by_the_hour_and_buyers_come_in_the_evening(
    shop: ShopLog, log: dict[str, Column]
) -> None:
    hour = log["hour"][first_events(log)]
    assert_frequencies(hour, shop.law.hours)
    assert shop.law.hours @ shop.law.buyers == pytest.approx(shop.intent)
    bought = np.isin(np.arange(SESSIONS), log["session_id"][log["event_type"] == "purchase"])
    law = shop.law
    by_hour = np.einsum("hzqdc,zq->h", law.start, law.will_buy[:, :, 0])
    assert_frequency(bought[hour == 19], by_hour[19])
    assert_frequency(bought[hour == 8], by_hour[8])
    assert by_hour[19] > 2 * by_hour[6]


def test_first_views_and_what_follows_them(shop: ShopLog, log: dict[str, Column]) -> None:
    law, first = shop.law, first_events(log)
    assert_frequencies(log["category"][first], law.category_popularity)
    start = np.einsum("h,hzqdc->zqdc", law.hours, law.start)
    outcome = np.einsum("zqdc,zqo->o", start, law.outcomes[:, :, 0])
    session, kind = np.r_[log["session_id"], -1], np.append(log["event_type"], "")
    same = session[first + 1] == session[first]
    following = np.select([~same, kind[first + 1] == "purchase", kind[first + 1] == "cart"],
                          [3, 2, 1], 0)  # fmt: skip
    assert_frequencies(following, outcome)

    # The mean of the log of the first gap is that of the phases of those who go on.
    goes_on = np.einsum("zqdc,zqo->qo", start, law.outcomes[:, :, 0])[:, :3].sum(1)
    expected = goes_on @ law_of.DWELL / goes_on.sum()
    time = log["time"].astype("datetime64[ms]").astype(np.int64)
    gaps = np.log((time[first[same] + 1] - time[first[same]]) / 1000)
    assert abs(gaps.mean() - expected) < 4 * gaps.std() / len(gaps) ** 0.5


def test_the_second_view_is_where_the_law_moves_to(shop: ShopLog, log: dict[str, Column]) -> None:
    law, first = shop.law, first_events(log)
    start = np.einsum("h,hzqdc->zqdc", law.hours, law.start)
    session, kind = np.r_[log["session_id"], -1], np.append(log["event_type"], "")
    second = (session[first + 1] == session[first]) & (kind[first + 1] == "view")
    given_category = 4  # The interest may be another: a distraction.
    shown = np.full(9, law_of.DISTRACTION * law.category_popularity[given_category])
    shown[given_category] += 1 - law_of.DISTRACTION
    weight = start * law.outcomes[:, :, 0, 0][..., None, None] * shown
    weight = law.move(np.einsum("zqdc,zqr->zrdc", weight, law.phase)).sum((0, 1, 2))
    weight = weight / weight.sum()
    expected = (1 - law_of.DISTRACTION) * weight + law_of.DISTRACTION * law.category_popularity
    chosen = first[second & (log["category"][first] == given_category)]
    assert_frequencies(log["category"][chosen + 1], expected)
    assert expected[5] > 1.3 * expected[3]


def test_items_of_a_category_follow_a_power_law(shop: ShopLog, log: dict[str, Column]) -> None:
    views = (log["event_type"] == "view") & (log["category"] == 2)
    place = log["item"][views] // 9
    power_law = np.arange(1.0, 11) ** -shop.popularity
    assert_frequencies(place, power_law / power_law.sum())


@given(items=st.integers(3, 200), categories=st.integers(3, 40), exponent=st.floats(0.1, 2.5))
@settings(max_examples=20, deadline=None)
def test_all_probabilities_of_a_law_sum_to_one(
    items: int, categories: int, exponent: float
) -> None:
    law = ShopLaw(
        items=max(items, categories), categories=categories, intent=0.2, exponent=exponent
    )
    np.testing.assert_allclose(law.start.sum((1, 2, 3, 4)), 1)
    np.testing.assert_allclose(law.outcomes.sum(-1), 1)
    assert law.outcomes.min() >= 0
    np.testing.assert_allclose(law.move(law.start[0]).sum(), 1)
    item = np.arange(law.items)
    popularity = law.item_popularity(item % categories, item // categories)
    np.testing.assert_allclose(np.bincount(item % categories, popularity), 1)
    assert law.sizes.sum() == law.items


def test_the_probability_to_buy_is_that_of_following_the_chain_to_its_end() -> None:
    law = ShopLaw(items=9, categories=3, intent=0.1, exponent=1.0)
    will_buy = np.zeros((2, 2, 2))
    for _ in range(2_000):
        view = np.einsum("zqr,zr->zq", law.phase, will_buy[:, :, 0])
        view, cart = view[..., None], will_buy[:, :, 1][..., None]
        out = law.outcomes
        will_buy = out[..., 2] + out[..., 1] * cart + out[..., 0] * view
    np.testing.assert_allclose(law.will_buy, will_buy, rtol=1e-10)


def test_fewer_items_than_categories_are_an_error() -> None:
    with pytest.raises(UserError, match=r"items=10 are fewer than data\.source\.categories=11"):
        ShopLog(items=10, categories=11)


def test_each_parameter_changes_the_fingerprint() -> None:
    logs = [
        ShopLog(),
        ShopLog(sessions=19_999),
        ShopLog(items=999),
        ShopLog(categories=51),
        ShopLog(intent=0.11),
        ShopLog(popularity=1.1),
        ShopLog(days=31),
        ShopLog(seed=1),
    ]
    assert len({log.fingerprint() for log in logs}) == len(logs)
    assert ShopLog(seed=0).fingerprint() == ShopLog().fingerprint()


def test_the_description_of_the_log_has_no_contradiction() -> None:
    assert ShopLog().columns().problems() == []
