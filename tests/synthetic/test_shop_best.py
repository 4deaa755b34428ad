"""The best possible scores of the generated shop: exact, and not beaten."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.data.events import EventData
from unrolled.synthetic import shop_law as law_of
from unrolled.synthetic.shop import ShopLog
from unrolled.synthetic.shop_filter import Belief, SeenSessions, beliefs, so_far, whole_session
from unrolled.synthetic.shop_law import CART, END_AFTER, PURCHASE_AFTER, VIEW, ShopLaw
from unrolled.synthetic.shop_next import Catalogue, Ranked, scores

Array = npt.NDArray[np.float64]
LAW = ShopLaw(items=7, categories=3, intent=0.2, exponent=1.3)
Path_ = tuple[int, int, int, int]
"""Intent, phase, direction and interest after a view."""


def seen_of(kinds: list[int], categories: list[int], gaps: list[float], hour: int) -> SeenSessions:
    return SeenSessions(
        np.array([0, len(kinds)]),
        np.array(kinds),
        np.array(categories),
        np.full(len(kinds), hour),
        np.cumsum([1.7e9, *gaps]),
        category_code=np.arange(3),
        hour_code=np.arange(24),
    )


def probability_of_path(
    kinds: list[int], categories: list[int], gaps: list[float], hour: int, path: list[Path_]
) -> float:
    """Of the hidden states and what is seen; `path` has a state for each event."""
    z, q, d, c = path[0]
    result = LAW.buyers[hour] if z else 1 - LAW.buyers[hour]
    result *= law_of.START_SETTLED[z] if q else 1 - law_of.START_SETTLED[z]
    result *= law_of.DIRECTION[d] * LAW.category_popularity[c] * shown(categories[0], c)
    for i in range(1, len(kinds)):
        before, after, y = path[i - 1], path[i], kinds[i - 1]
        z, q, d, c = before
        log = math.log(gaps[i - 1])
        spread = law_of.DWELL_SPREAD
        result *= math.exp(-((log - law_of.DWELL[q]) ** 2) / (2 * spread**2)) / (
            gaps[i - 1] * spread * math.sqrt(2 * math.pi)
        )
        cart = law_of.CART_AFTER[q, y]
        if kinds[i] == CART:
            result *= cart * (before == after)
            continue
        result *= 1 - cart - END_AFTER[z, q] - PURCHASE_AFTER[z, q, y]
        q, c = after[1], after[3]
        settles = law_of.SETTLED_NEXT[z, before[1]]
        result *= settles if q else 1 - settles
        step = 1 if d == 0 else -1
        stay, forward = law_of.STAY[q], law_of.FORWARD[q]
        result *= (
            stay * (c == before[3])
            + forward * (c == (before[3] + step) % 3)
            + (1 - stay - forward) * LAW.category_popularity[c]
        )
        result *= shown(categories[i], c)
    return float(result)


def shown(category: int, interest: int) -> float:
    other = law_of.DISTRACTION * LAW.category_popularity[category]
    return float((1 - law_of.DISTRACTION) * (category == interest) + other)


@st.composite
def sessions(draw: st.DrawFn) -> tuple[list[int], list[int], list[float], int]:
    kinds, categories = [VIEW], [draw(st.integers(0, 2))]
    for _ in range(draw(st.integers(0, 3))):
        cart = kinds[-1] == VIEW and draw(st.booleans())
        kinds.append(CART if cart else VIEW)
        categories.append(categories[-1] if cart else draw(st.integers(0, 2)))
    gaps = [draw(st.integers(1, 200_000)) / 1000 for _ in kinds[1:]]
    return kinds, categories, gaps, draw(st.integers(0, 23))


@given(sessions())
@settings(max_examples=12, deadline=None)
def test_the_forward_algorithm_equals_the_sum_over_all_hidden_paths(
    session: tuple[list[int], list[int], list[float], int],
) -> None:
    kinds, *_ = session
    joint = np.zeros((2, 2, 2, 3))
    for z, d in itertools.product(range(2), range(2)):
        views = itertools.product(itertools.product(range(2), range(3)), repeat=kinds.count(VIEW))
        for hidden in views:
            path: list[Path_] = []
            of_view = iter(hidden)
            for kind in kinds:
                q, c = next(of_view) if kind == VIEW else (path[-1][1], path[-1][3])
                path.append((z, q, d, c))
            joint[path[-1]] += probability_of_path(*session, path)
    exact = joint / joint.sum()
    *_, belief = beliefs(LAW, seen_of(*session))
    # The seconds of a time of today are exact to 1e-7, so the gaps are rounded to the millisecond.
    np.testing.assert_allclose(belief.states[0], exact, rtol=1e-10, atol=1e-14)

    bought = (exact.sum((2, 3)) * PURCHASE_AFTER[:, :, kinds[-1]]).sum()
    ended = (exact.sum((2, 3)) * END_AFTER).sum()
    assert whole_session(LAW, belief)[0] == pytest.approx(bought / (bought + ended), rel=1e-10)
    assert so_far(LAW, belief)[0] == pytest.approx(
        (exact.sum((2, 3)) * LAW.will_buy[:, :, kinds[-1]]).sum(), rel=1e-10
    )


def distribution(law: ShopLaw, belief: Belief, current: int) -> Array:
    """Of the next item of the belief's first session, written out item by item."""
    result = np.zeros(law.items)
    for z, q, d, c in np.ndindex(2, 2, 2, law.categories):
        state = belief.states[0, z, q, d, c]
        view, cart, *_ = law.outcomes[z, q, belief.kind[0]]
        result[current] += state * cart
        for r in range(2):
            step = 1 if d == 0 else -1
            jump = 1 - law_of.STAY[r] - law_of.FORWARD[r]
            interest = jump * law.category_popularity
            interest[c] += law_of.STAY[r]
            interest[(c + step) % law.categories] += law_of.FORWARD[r]
            category = (1 - law_of.DISTRACTION) * interest
            category = category + law_of.DISTRACTION * law.category_popularity
            for item in range(law.items):
                k, place = item % law.categories, item // law.categories
                size = sum(1 for other in range(law.items) if other % law.categories == k)
                weight = np.arange(1.0, size + 1) ** -law.exponent
                popular = (place + 1) ** -law.exponent / weight.sum()
                result[item] += state * view * law.phase[z, q, r] * category[k] * popular
    return result / result.sum()


@given(sessions(), st.lists(st.booleans(), min_size=7, max_size=7), st.integers(0, 2))
@settings(max_examples=15, deadline=None)
def test_ranks_and_probabilities_equal_those_of_the_whole_list(
    session: tuple[list[int], list[int], list[float], int], seen: list[bool], place: int
) -> None:
    *_, belief = beliefs(LAW, seen_of(*session))
    current = session[1][-1] + 3 * min(place, 1)  # Item 6 is the third of category 0 alone.
    in_training = np.array(seen, np.int64)
    exact = distribution(LAW, belief, current)
    candidates = np.where(in_training, exact, 0)
    shown_item = current if in_training[current] else -1
    for item in np.flatnonzero(in_training):
        ranked = Catalogue(LAW, in_training).rank(
            belief, np.array([shown_item]), np.array([int(item)])
        )
        assert ranked.ranks[0] == 1 + (candidates > candidates[item] * (1 + 1e-12)).sum()
        assert ranked.log_probability[0] == pytest.approx(
            math.log(candidates[item] / candidates.sum()), rel=1e-9
        )


def test_ids_of_values_that_training_has_not_seen_stand_for_all_of_them() -> None:
    # Categories 0 and 2, hours 0 to 11, are one to the observer.
    session = ([VIEW, VIEW], [1, 1], [20.0], 1)
    plain = seen_of(*session)
    merged = SeenSessions(
        plain.offsets, plain.kind, np.array([1, 2]), np.array([1, 1]), plain.time,
        category_code=np.array([1, 2, 1]), hour_code=np.r_[np.full(12, 1), np.arange(2, 14)],
    )  # fmt: skip
    *_, belief = beliefs(LAW, merged)
    joint = np.zeros((2, 2, 2, 3))
    for hour, category in itertools.product(range(12), (0, 2)):
        for z, q, d, c, r, e in np.ndindex(2, 2, 2, 3, 2, 3):
            path = [(z, q, d, c), (z, r, d, e)]
            joint[z, r, d, e] += LAW.hours[hour] * probability_of_path(
                [VIEW, VIEW], [category, 1], [20.0], hour, path
            )
    np.testing.assert_allclose(belief.states[0], joint / joint.sum(), rtol=1e-10)


SHOP = ShopLog(sessions=8_000, items=60, categories=12, intent=0.2, seed=5)


@pytest.fixture(scope="module")
def drawn() -> tuple[SeenSessions, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Sessions as an observer sees them, with their labels and items."""
    log = SHOP.generate()
    kind = log["event_type"].combine_chunks().indices.to_numpy().astype(np.int64)
    session = log["session_id"].to_numpy()
    labels = np.zeros(SHOP.sessions, np.int64)
    labels[session[kind == law_of.PURCHASE]] = 1
    kept = kind != law_of.PURCHASE
    seen = SeenSessions(
        np.r_[0, np.cumsum(np.bincount(session[kept]))],
        kind[kept],
        log["category"].to_numpy()[kept].astype(np.int64),
        log["hour"].to_numpy()[kept].astype(np.int64),
        log["time"].to_numpy()[kept].astype(np.int64) / 1000,
        category_code=np.arange(12),
        hour_code=np.arange(24),
    )
    return seen, labels, log["item"].to_numpy()[kept].astype(np.int64)


def whole(law: ShopLaw, seen: SeenSessions) -> Array:
    result = np.zeros(len(seen.offsets) - 1)
    lengths = np.diff(seen.offsets)
    for belief in beliefs(law, seen):
        last = lengths[belief.sessions] == belief.step + 1
        result[belief.sessions[last]] = whole_session(law, belief)[last]
    return result


def log_losses(probability: Array, labels: npt.NDArray[np.int64]) -> Array:
    return -np.log(np.where(labels == 1, probability, 1 - probability))


def assert_mean_zero(differences: Array) -> None:
    """Within three standard errors."""
    assert abs(differences.mean()) < 3 * differences.std() / len(differences) ** 0.5


def test_the_probability_of_a_purchase_is_calibrated_and_its_loss_the_entropy(
    drawn: tuple[SeenSessions, npt.NDArray[np.int64], npt.NDArray[np.int64]],
) -> None:
    seen, labels, _ = drawn
    p = whole(SHOP.law, seen)
    assert_mean_zero(labels - p)
    for low, high in itertools.pairwise([0, 0.002, 0.01, 0.05, 0.2, 0.5, 1]):
        inside = (p >= low) & (p < high)
        if inside.sum() > 300:
            assert_mean_zero(labels[inside] - p[inside])
    entropy = -(p * np.log(p) + (1 - p) * np.log1p(-p))
    assert_mean_zero(log_losses(p, labels) - entropy)


def test_the_probability_as_the_session_unfolds_is_calibrated(
    drawn: tuple[SeenSessions, npt.NDArray[np.int64], npt.NDArray[np.int64]],
) -> None:
    seen, labels, _ = drawn
    by_step: dict[int, list[tuple[Array, npt.NDArray[np.int64]]]] = {}
    for belief in beliefs(SHOP.law, seen):
        pair = (so_far(SHOP.law, belief), labels[belief.sessions])
        by_step.setdefault(belief.step, []).append(pair)
    for step in range(10):
        p, outcome = (np.concatenate(parts) for parts in zip(*by_step[step], strict=True))
        assert_mean_zero(outcome - p)
        if step == 4:
            certain = np.abs(outcome - p) < 0.02
            assert 0.2 < certain.mean() < 0.95


def test_who_knows_less_or_believes_another_law_loses_more(
    drawn: tuple[SeenSessions, npt.NDArray[np.int64], npt.NDArray[np.int64]],
) -> None:
    seen, labels, _ = drawn
    best = log_losses(whole(SHOP.law, seen), labels)
    every_10_seconds = 10.0 * np.arange(len(seen.kind))
    blind = SeenSessions(
        seen.offsets, seen.kind, seen.category, seen.hour, every_10_seconds,
        category_code=seen.category_code, hour_code=seen.hour_code,
    )  # fmt: skip
    others = {
        "blind to time": whole(SHOP.law, blind),
        "fewer buyers": whole(ShopLog(items=60, categories=12, intent=0.05).law, seen),
        "the share of buyers": np.full(len(labels), labels.mean()),
    }
    for probability in others.values():
        excess = log_losses(probability, labels) - best
        assert excess.mean() > 2 * excess.std() / len(excess) ** 0.5


def test_the_next_items_ranks_come_as_often_as_they_are_probable(
    drawn: tuple[SeenSessions, npt.NDArray[np.int64], npt.NDArray[np.int64]],
) -> None:
    seen, _, item = drawn
    catalogue = Catalogue(SHOP.law, np.ones(60, np.int64))
    lengths = np.diff(seen.offsets)
    hits, losses, ranked = [], [], []
    for belief in beliefs(SHOP.law, seen):
        # Every session goes on: there is a next item. Some are enough.
        chosen = lengths[belief.sessions] > belief.step + 1
        chosen &= belief.sessions % 16 == 0
        if not chosen.any():
            continue
        some = belief.of(chosen)
        current, following = item[some.events], item[some.events + 1]
        result = catalogue.rank(some, current, following)
        everything = np.stack(
            [
                catalogue.rank(some, current, np.full(len(current), other)).log_probability
                for other in range(60)
            ],
            1,
        )
        p = np.exp(everything)
        np.testing.assert_allclose(p.sum(1), 1, rtol=1e-9)
        top = np.sort(p, 1)[:, ::-1][:, :10].sum(1)
        hits.append((result.ranks <= 10) - top)
        losses.append(result.log_probability - (p * everything).sum(1))
        ranked.append(result)
        assert (result.ranks == 1 + (p > np.exp(result.log_probability)[:, None]).sum(1)).all()
    assert sum(map(len, hits)) > 3_000
    assert_mean_zero(np.concatenate(hits))
    assert_mean_zero(np.concatenate(losses))
    assert 0.3 < scores(ranked, [10])["recall@10"] < 0.9


def test_scores_of_ranks_by_hand() -> None:
    ranked = [
        Ranked(np.array([1, 3]), np.log([0.5, 0.1])),
        Ranked(np.array([4]), np.log([0.25])),
    ]
    found = scores(ranked, [3])
    assert found["recall@3"] == pytest.approx(2 / 3)
    assert found["mrr@3"] == pytest.approx((1 + 1 / 3) / 3)
    assert found["ndcg@3"] == pytest.approx((1 + 1 / 2) / 3)
    assert found["log_loss"] == pytest.approx(-math.log(0.5 * 0.1 * 0.25) / 3)


def test_event_data_give_the_best_scores_of_the_test_split(tmp_path: Path) -> None:
    shop = ShopLog(sessions=3_000, items=300, categories=20, intent=0.3)
    best = EventData(shop, tmp_path).best_possible()
    assert 0.88 < best["test/auroc"] < 0.97
    assert best["test/auroc@1"] < best["test/auroc@5"] < best["test/auroc"]
    assert best["test/log_loss"] < best["test/log_loss@10"] < best["test/log_loss@2"]
    items = EventData(shop, tmp_path, target="next_item").best_possible()
    assert items["test/recall@5"] < items["test/recall@20"] < items["test/recall@100"] < 1
    assert items["test/mrr@20"] < items["test/recall@20"]
    assert items["test/log_loss"] < math.log(300)
    assert EventData(shop, tmp_path, target="next_event").best_possible() == {}


def test_a_shop_of_fewer_items_than_were_trained_on_has_its_best_scores(tmp_path: Path) -> None:
    small = ShopLog(sessions=300, items=60, categories=20, intent=0.3)
    trained = EventData(ShopLog(sessions=1_500, items=200, categories=20, intent=0.3), tmp_path)
    trained.save_schema(tmp_path / "schema")
    data = EventData(small, tmp_path, target="next_item")
    data.load_schema(tmp_path / "schema")
    best = data.best_possible()
    # All 60 items are known, and none of the others is ever asked for.
    assert best["test/recall@5"] < best["test/recall@20"] < best["test/recall@100"] == 1
    assert 0 < best["test/log_loss"] < math.log(60)


def test_the_best_of_a_store_is_that_of_the_log_itself(tmp_path: Path) -> None:
    shop = ShopLog(sessions=2_000, items=60, categories=6, intent=0.4)
    data = EventData(shop, tmp_path)
    test = data.source("test")
    ids = data.sequence_ids("test").to_numpy()
    log = shop.generate()
    kind = log["event_type"].combine_chunks().indices.to_numpy()
    probability = []
    for session in ids[:40]:
        own = (log["session_id"].to_numpy() == session) & (kind != law_of.PURCHASE)
        seen = SeenSessions(
            np.array([0, own.sum()]), kind[own].astype(np.int64), log["category"].to_numpy()[own],
            log["hour"].to_numpy()[own], log["time"].to_numpy()[own].astype(np.int64) / 1000,
            category_code=np.arange(6), hour_code=np.arange(24),
        )  # fmt: skip
        probability.append(whole(shop.law, seen)[0])
    losses = log_losses(np.array(probability), test.labels[:40].numpy())
    first = test.__class__(
        {name: values[: test.offsets[40]] for name, values in test.columns.items()},
        test.offsets[:41], test.labels[:40], test.times[: test.offsets[40]],
    )  # fmt: skip
    from unrolled.data.prepare import read_vocabulary

    names = ("item", "event_type", "category", "hour")
    vocabularies = {name: read_vocabulary(data.store, name) for name in names}
    assert shop.best_possible(first, vocabularies)["log_loss"] == pytest.approx(losses.mean())
