"""Free runs: what the model says is what it reads next, until it leaves the curve."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unrolled.data.schema import Categorical, Numeric, Schema
from unrolled.errors import UserError
from unrolled.models.embedding import DenseEmbedding
from unrolled.models.readout import EveryStep, Last
from unrolled.models.real_head import RealHead
from unrolled.models.sequence import SequenceModel
from unrolled.synthetic.cosine import Cosine as CosineSeries
from unrolled.tasks.cosine import Cosine

SERIES = CosineSeries(10, 200, 0.3)


class LastTwo(nn.Module):
    """Gives each value and the one before it: all that a linear rule for a cosine needs."""

    causal = True
    output_size = 2

    def forward(self, x: Tensor, lengths: Tensor, state: Any = None) -> tuple[Tensor, Tensor]:
        before = torch.zeros_like(x[:, :1]) if state is None else state
        shifted = torch.cat([before, x[:, :-1]], 1)
        return torch.cat([x, shifted], -1), x[:, -1:]


def make_task(every_step: bool = True, **options: Any) -> Cosine:
    """cos(t + s) = 2 cos(s) cos(t) - cos(t - s), in float64, where it stays on the curve."""
    head = RealHead(2, 0.0, 1.0)
    factor = 2 * torch.tensor(0.3, dtype=torch.float64).cos()
    readout = EveryStep(2) if every_step else Last(2)
    model = SequenceModel(DenseEmbedding(SERIES.schema), LastTwo(), readout, head).double()
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor([[float(factor), -1.0]], dtype=torch.float64))
        head.linear.bias.zero_()
    return Cosine(model, partial(torch.optim.SGD, lr=0.1), **options)


@pytest.mark.parametrize("every_step", [True, False])
def test_a_model_that_knows_the_rule_runs_freely_for_as_long_as_one_likes(
    every_step: bool,
) -> None:
    window = (0.3 * torch.arange(10).double()).cos()
    truth = (0.3 * torch.arange(10, 510).double()).cos()
    carry = make_task(every_step, free_run_mode="carry").run_freely(window, 500)
    anew = make_task(every_step, free_run_mode="window").run_freely(window, 500)
    torch.testing.assert_close(carry, truth, rtol=0, atol=1e-8)
    assert torch.equal(carry, anew)


def judged(predictions: Tensor, **options: Any) -> dict[str, float]:
    """The results of a test whose free run gave `predictions`."""
    task = make_task(**options, free_run_steps=len(predictions))
    task.run_freely = lambda window, steps: predictions  # type: ignore[method-assign]
    task._tests = []
    task._trainer = SimpleNamespace(  # type: ignore[assignment]
        datamodule=SimpleNamespace(generator=SERIES, with_tests=True),
        global_step=0,
        world_size=1,
        loggers=[],
        testing=True,
    )
    task.on_test_epoch_end()
    table = task.tables["free_run"]
    assert table["step"].tolist() == list(range(len(predictions)))
    torch.testing.assert_close(table["prediction"], predictions, equal_nan=True)
    return task.results


def test_a_free_run_counts_the_steps_before_the_first_that_is_off() -> None:
    truth = SERIES.continuation(50)[1]
    assert judged(truth) == {"test/free_run": 50.0}
    near = truth + 0.09
    assert judged(near) == {"test/free_run": 50.0}
    off = truth.clone()
    off[17] += 0.11
    off[30] += 5
    assert judged(off) == {"test/free_run": 17.0}
    assert judged(off, tolerance=0.2) == {"test/free_run": 30.0}
    off[0] -= 0.3
    assert judged(off) == {"test/free_run": 0.0}


def test_a_free_run_that_ends_in_no_number_has_left_the_curve() -> None:
    truth = SERIES.continuation(50)[1].clone()
    truth[20:] = float("nan")
    assert judged(truth) == {"test/free_run": 20.0}


def test_longer_free_runs_are_better() -> None:
    assert make_task().metric_direction() == {"mse": "min", "mae": "min", "free_run": "max"}


def test_data_and_encoders_that_can_not_run_freely_are_refused() -> None:
    task = make_task()
    task.check_schema(SERIES.schema)
    for schema in (
        Schema((Numeric("value"),), None),
        Schema((Numeric("vector", 2),), None, per_step=True),
        Schema((Categorical("symbol", 5),), None, per_step=True),
    ):
        with pytest.raises(UserError, match="use data=cosine"):
            task.check_schema(schema)
    task.model.encoder.causal = False  # type: ignore[assignment]
    with pytest.raises(UserError, match="an encoder that goes forward only, to run freely"):
        task.check_schema(SERIES.schema)
