"""The generated shop: one seed, one log, and the shape that was promised."""

from __future__ import annotations

import numpy as np
import pytest

from unrolled.synthetic.shop import ShopLog


def _session_starts(session: np.ndarray) -> np.ndarray:
    return np.r_[True, session[1:] != session[:-1]]


def test_the_seed_determines_the_log() -> None:
    assert ShopLog(sessions=200).generate().equals(ShopLog(sessions=200).generate())
    assert not ShopLog(sessions=200).generate().equals(ShopLog(sessions=200, seed=1).generate())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_three_to_eight_percent_of_the_sessions_buy(seed: int) -> None:
    log = ShopLog(sessions=10_000, seed=seed).generate()
    kind, session = log["event_type"].to_numpy(), log["session_id"].to_numpy()
    buyers = session[kind == "purchase"]
    assert len(buyers) == len(np.unique(buyers))
    assert 0.03 < len(buyers) / 10_000 < 0.08


def test_columns_and_values_are_those_of_a_shop() -> None:
    shop = ShopLog(sessions=2_000, categories=7, days=3)
    log = shop.generate()
    assert [(f.name, str(f.type)) for f in log.schema] == [
        ("session_id", "int64"),
        ("time", "timestamp[ms]"),
        ("event_type", "string"),
        ("category", "int64"),
        ("price", "double"),
    ]
    assert all(column.null_count == 0 for column in log.columns)
    assert set(log["session_id"].to_numpy()) == set(range(2_000))
    assert set(log["event_type"].to_pylist()) == {"view", "cart", "purchase"}
    assert set(log["category"].to_numpy()) == set(range(7))
    assert (log["price"].to_numpy() > 0).all()
    time = log["time"].to_numpy()
    assert time.min() >= np.datetime64("2026-01-01")
    session = log["session_id"].to_numpy()
    first = np.full(2_000, time.max())
    np.minimum.at(first, session, time)
    assert first.max() < np.datetime64("2026-01-04")


def test_a_purchase_is_the_last_event_of_its_session_and_every_session_has_an_event_before() -> (
    None
):
    log = ShopLog(sessions=3_000).generate().sort_by([("session_id", "ascending"),
                                                      ("time", "ascending")])  # fmt: skip
    session, kind = log["session_id"].to_numpy(), log["event_type"].to_numpy()
    first = _session_starts(session)
    last = np.r_[first[1:], True]
    bought = kind == "purchase"
    assert bought.sum() > 50
    assert last[bought].all()
    assert (kind[first] == "view").all()
    # No event shares the time of the purchase: it is the last one whatever the order of the rows.
    time = log["time"].to_numpy()
    assert (time[bought] > time[np.flatnonzero(bought) - 1]).all()


def test_intent_is_seen_in_carts_and_in_the_length_of_sessions() -> None:
    log = ShopLog(sessions=5_000).generate()
    session, kind = log["session_id"].to_numpy(), log["event_type"].to_numpy()
    buys = np.isin(np.arange(5_000), session[kind == "purchase"])
    views = np.bincount(session[kind == "view"], minlength=5_000)
    carts = np.bincount(session[kind == "cart"], minlength=5_000)
    assert views[buys].mean() > 1.3 * views[~buys].mean()
    assert (carts / views)[buys].mean() > 2 * (carts / views)[~buys].mean()


def test_each_parameter_changes_the_fingerprint() -> None:
    logs = [
        ShopLog(),
        ShopLog(sessions=19_999),
        ShopLog(categories=51),
        ShopLog(intent=0.11),
        ShopLog(days=31),
        ShopLog(seed=1),
    ]
    assert len({log.fingerprint() for log in logs}) == len(logs)
    assert ShopLog(seed=0).fingerprint() == ShopLog().fingerprint()


def test_the_description_of_the_log_has_no_contradiction() -> None:
    assert ShopLog().columns().problems() == []
