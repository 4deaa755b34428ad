"""Metrics side by side: none takes the other's place."""

from __future__ import annotations

import torch

from unrolled.metrics.forecast import Forecast, TimeMAE, TypeAccuracy
from unrolled.tasks.judge import Judge


def test_metrics_that_are_equal_after_the_first_batch_stay_metrics_of_their_own() -> None:
    judge = Judge({"time_mae": TimeMAE(), "type_accuracy": TypeAccuracy()})
    zeros = torch.zeros(2)
    for right in (0, 1, 1):
        kind = torch.full((2,), 2 + right)
        forecast = Forecast(zeros, zeros, kind, zeros, zeros)
        judge.update(forecast, torch.tensor([[3.0, 1e-9], [3.0, 1e-9]]), zeros)
    values = judge.take()
    assert float(values["type_accuracy"]) == 2 / 3
    assert float(values["time_mae"]) < 1e-8
