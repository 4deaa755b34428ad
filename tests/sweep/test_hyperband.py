"""Early termination, by examples that were worked out by hand; `test_wandb_engine` has the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled.sweep.hyperband import bands, should_stop
from unrolled.sweep.sections import EarlyTerminate


def rule(**fields: object) -> EarlyTerminate:
    return EarlyTerminate.model_validate({"type": "hyperband", **fields})


def test_bands_go_up_from_min_iter_or_down_from_max_iter() -> None:
    assert bands(rule(min_iter=3))[:4] == [3, 9, 27, 81]
    assert bands(rule(min_iter=2, eta=1.5))[:4] == [2, 3, 4, 6]
    assert bands(rule(max_iter=27, s=2)) == [3, 9]
    assert bands(rule(max_iter=5, s=9, eta=2)) == [1, 2]


# From the documentation of W&B's engine: bands 1 and 2, with eta 2.
B, C, D, E, A = [10, 10], [10, 8, 8], [10, 7, 7], [10, 6, 6], [10, 9]


@pytest.mark.parametrize(("own", "others", "stops"), [
    (B, [A, C, D, E], True),
    (C, [A, B, D, E], False),
    (D, [A, B, C, E], False),
])  # fmt: skip
def test_the_example_of_wandb(own: list[float], others: list[list[float]], stops: bool) -> None:
    found = should_stop(rule(max_iter=5, eta=2, s=2), own, others, maximize=False)
    assert found is stops


def test_none_is_stopped_before_the_first_band_nor_alone() -> None:
    others = [[1.0, 1.0, 1.0]] * 5
    assert not should_stop(rule(min_iter=2), [9.0], others, maximize=False)
    assert should_stop(rule(min_iter=2), [9.0, 9.0], others, maximize=False)
    assert not should_stop(rule(min_iter=2), [9.0, 9.0], [], maximize=False)


def test_the_third_of_three_trials_is_stopped_at_its_first_value() -> None:
    what = rule(min_iter=1, eta=2)
    values = [[1.0], [2.0], [3.0]]
    stopped = [
        should_stop(what, own, [v for v in values if v != own], maximize=False) for own in values
    ]
    assert stopped == [False, False, True]


def test_a_trial_is_judged_at_the_band_and_without_strict_by_its_best_so_far() -> None:
    others = [[9.0, 5.0], [9.0, 4.0], [9.0, 3.0]]
    # The threshold of band 2 is 4: of 4 trials int(4 / 3) are better.
    later = [2.0, 9.0, 9.0]
    assert should_stop(rule(min_iter=2), later, others, maximize=False)
    assert not should_stop(rule(min_iter=2, strict=False), later, others, maximize=False)


def test_what_is_not_finite_does_not_count() -> None:
    nan = float("nan")
    assert not should_stop(rule(min_iter=2), [9.0, nan], [[1.0, 1.0]] * 3, maximize=False)
    assert should_stop(rule(min_iter=2), [9.0, nan, 9.0], [[1.0, 1.0]] * 3, maximize=False)


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=12), min_size=1, max_size=8),
    st.integers(1, 4), st.booleans(),
)  # fmt: skip
def test_the_best_is_never_stopped_and_maximising_is_the_mirror(
    histories: list[list[float]], min_iter: int, strict: bool
) -> None:
    what = rule(min_iter=min_iter, strict=strict)
    own, others = histories[0], histories[1:]
    stops = should_stop(what, own, others, maximize=False)
    mirrored = should_stop(
        what, [-v for v in own], [[-v for v in o] for o in others], maximize=True
    )
    assert stops == mirrored
    if all(min(own) <= value for other in others for value in other) and not strict:
        assert not stops
