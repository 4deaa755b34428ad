"""Temperature scaling: the temperature with the least log loss, and metrics of what it gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss
from torch import Tensor
from torchmetrics.classification import BinaryAUROC, BinaryCalibrationError

from unrolled.metrics.calibration import Scaled, Temperature, fit_temperature, scale
from unrolled.metrics.log_loss import LogLoss

law = settings(max_examples=25, deadline=None)


def drawn(seed: int, count: int, sharpness: float) -> tuple[Tensor, Tensor]:
    """Probabilities whose log-odds are `sharpness` times the true ones, and targets."""
    random = np.random.default_rng(seed)
    logits = random.normal(-1, 1.5, count)
    targets = (random.random(count) < 1 / (1 + np.exp(-logits))).astype(int)
    targets[:2] = [0, 1]
    return torch.from_numpy(logits * sharpness).sigmoid(), torch.from_numpy(targets)


@law
@given(st.integers(0, 10_000), st.integers(30, 300), st.floats(0.3, 4.0))
def test_the_temperature_is_that_of_the_least_log_loss(
    seed: int, count: int, sharpness: float
) -> None:
    probabilities, targets = drawn(seed, count, sharpness)

    def cost(log_temperature: float) -> float:
        scaled = scale(probabilities, math.exp(log_temperature))
        return float(log_loss(targets, scaled.numpy(), labels=[0, 1]))

    found = minimize_scalar(cost, bounds=(math.log(0.05), math.log(20)), method="bounded")
    fitted = float(fit_temperature(probabilities, targets))
    assert cost(math.log(fitted)) <= found.fun + 1e-9
    assert math.log(fitted) == pytest.approx(found.x, abs=1e-3)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_made_the_model_too_sure(sharpness: float) -> None:
    probabilities, targets = drawn(0, 200_000, sharpness)
    assert float(fit_temperature(probabilities, targets)) == pytest.approx(sharpness, rel=0.02)


def test_the_temperature_ends_where_a_mistake_would_have_to_be() -> None:
    right = torch.tensor([0.1, 0.9]), torch.tensor([0, 1])
    assert float(fit_temperature(*right)) == pytest.approx(0.05)
    # Worse than a coin: the less it says the better.
    wrong = torch.tensor([0.9, 0.1]), torch.tensor([0, 1])
    assert float(fit_temperature(*wrong)) == pytest.approx(20.0)


@pytest.mark.parametrize("target", [0, 1])
def test_targets_of_one_class_leave_the_temperature_at_one(target: int) -> None:
    assert float(fit_temperature(torch.tensor([0.2, 0.7]), torch.full((2,), target))) == 1.0


def test_a_temperature_divides_the_log_odds() -> None:
    probabilities = torch.tensor([0.5, 0.8, 0.2])
    # Odds of 4 to 1 become the square root, 2 to 1.
    torch.testing.assert_close(scale(probabilities, 2.0), torch.tensor([1 / 2, 2 / 3, 1 / 3]))
    torch.testing.assert_close(scale(probabilities, 1.0), probabilities)


def test_certain_predictions_stay_finite() -> None:
    scaled = scale(torch.tensor([0.0, 1.0]), 2.0)
    assert float(scaled[0]) == pytest.approx(math.sqrt(1e-7), rel=1e-3)
    assert float(scaled[1]) == pytest.approx(1 - math.sqrt(1e-7), rel=1e-6)


@law
@given(st.integers(0, 10_000), st.floats(0.1, 10.0))
def test_a_temperature_keeps_the_order(seed: int, temperature: float) -> None:
    probabilities, targets = drawn(seed, 50, 1.0)
    before, after = BinaryAUROC(), Scaled(BinaryAUROC(), temperature)
    before.update(probabilities, targets)
    after.update(probabilities, targets)
    assert float(after.compute()) == pytest.approx(float(before.compute()), abs=1e-6)


def test_a_scaled_metric_judges_the_scaled_probabilities() -> None:
    probabilities, targets = drawn(1, 500, 3.0)
    metric, expected = Scaled(LogLoss(), 3.0), LogLoss()
    for part in (slice(0, 200), slice(200, None)):
        metric.update(probabilities[part], targets[part])
    expected.update(scale(probabilities, 3.0), targets)
    assert float(metric.compute()) == pytest.approx(float(expected.compute()), rel=1e-9)
    metric.reset()
    metric.update(probabilities[:10], targets[:10])
    expected.reset()
    expected.update(scale(probabilities[:10], 3.0), targets[:10])
    assert float(metric.compute()) == pytest.approx(float(expected.compute()), rel=1e-9)


def test_the_temperature_of_all_batches_is_that_of_the_whole() -> None:
    probabilities, targets = drawn(2, 300, 2.0)
    metric = Temperature()
    for part in (slice(0, 100), slice(100, 101), slice(101, None)):
        metric.update(probabilities[part], targets[part])
    assert float(metric.compute()) == float(fit_temperature(probabilities, targets))


def test_scaling_calibrates_a_model_that_is_too_sure() -> None:
    probabilities, targets = drawn(3, 20_000, 3.0)
    temperature = float(fit_temperature(probabilities[:10_000], targets[:10_000]))
    error = {}
    for name, value in (("as it is", 1.0), ("scaled", temperature)):
        metric = Scaled(BinaryCalibrationError(n_bins=15, norm="l1"), value)
        metric.update(probabilities[10_000:], targets[10_000:])
        error[name] = float(metric.compute())
    assert error["scaled"] < 0.02 < 0.1 < error["as it is"]
