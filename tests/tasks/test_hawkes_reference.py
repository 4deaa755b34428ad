"""The Hawkes reference: its fit, and what it foretells from it."""

from __future__ import annotations

import pytest
import torch

from unrolled.models.point_process import long_gap
from unrolled.tasks import hawkes_reference
from unrolled.tasks.hawkes_reference import HawkesFit, fit_hawkes, steps_of


def _gaps_of(gaps: torch.Tensor) -> tuple[float, float]:
    waited = gaps[gaps.isfinite()]
    return float(waited[waited > 0].min()), long_gap(waited)


def test_a_fitted_hawkes_process_foretells_what_its_own_intensity_says() -> None:
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 4, (60,), generator=random)
    gaps = torch.rand(60, generator=random, dtype=torch.float64) * 5
    gaps[[0, 25]] = torch.inf
    fit = fit_hawkes(ids, gaps, 35, 4, *_gaps_of(gaps))
    steps = steps_of(ids, gaps, 35, fit.decays, 4)
    forecast = fit.forecast(steps)
    times = torch.linspace(0, fit.max_gap, 40_001, dtype=torch.float64)
    for event in (0, 10, 57):
        caused = torch.einsum("dn,mdn,d->md", steps.past[event], fit.offspring, fit.decays)
        intensity = fit.background + torch.exp(-times.unsqueeze(1) * fit.decays) @ caused.T
        total = intensity.sum(1)
        expected = torch.cumulative_trapezoid(total, times)
        survival = torch.cat([torch.ones(1), torch.exp(-expected)])
        density = intensity * survival.unsqueeze(1)
        probabilities = torch.trapezoid(density, times, dim=0)
        assert int(forecast.type[event]) == int(probabilities.argmax())
        mean = torch.trapezoid(survival, times)
        assert float(forecast.mean[event]) == pytest.approx(float(mean), rel=1e-3)
        median = times[(survival > 0.5).sum() - 1]
        assert float(forecast.median[event]) == pytest.approx(float(median), abs=1e-3)
        at = int((times < steps.gaps[event]).sum())
        kind = int(steps.types[event])
        log_density = float(density[at, kind].log())
        said = forecast.time_log_likelihood[event] + forecast.type_log_likelihood[event]
        assert float(said) == pytest.approx(log_density, abs=1e-2)


def test_more_iterations_do_not_make_a_fit_less_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 5, (200,), generator=random)
    gaps = torch.rand(200, generator=random, dtype=torch.float64).square()
    gaps[[0, 100]] = torch.inf
    likelihoods = []
    for iterations in (1, 5, 25, 125):
        monkeypatch.setattr(hawkes_reference, "ITERATIONS", iterations)
        fit = fit_hawkes(ids, gaps, 100, 5, *_gaps_of(gaps))
        # Without what each type is given beyond its events.
        counted = fit.background - torch.where(
            fit.background > 0, 1 / gaps[gaps.isfinite()].sum(), 0
        )
        exact = HawkesFit(counted.clamp(min=1e-12), fit.offspring, fit.decays,
                                 fit.min_gap, fit.max_gap)  # fmt: skip
        said = exact.forecast(steps_of(ids, gaps, 100, fit.decays, 5))
        likelihoods.append(float((said.time_log_likelihood + said.type_log_likelihood).sum()))
    assert likelihoods == sorted(likelihoods)
