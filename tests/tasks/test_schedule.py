import math
from functools import partial
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback
from test_base import lightning_runs, make_task, trainer
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from unrolled.models.head import ClassificationHead
from unrolled.synthetic.bitcount import BitcountData
from unrolled.tasks.bitcount import Bitcount


class Rates(Callback):
    """Notes the learning rate of each step."""

    def __init__(self) -> None:
        self.used: list[float] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *batch: Any) -> None:
        self.used.append(trainer.optimizers[0].param_groups[0]["lr"])


def rates(scheduler: Any, **limits: int) -> list[float]:
    """The learning rate of each step of a run over four batches an epoch."""
    task = make_task(Bitcount, ClassificationHead(4, 5), scheduler=scheduler)
    noted = Rates()
    trainer(callbacks=[noted], **limits).fit(task, datamodule=BitcountData(4, 8, 2, batch_size=2))
    return noted.used


@lightning_runs
def test_a_schedule_ends_with_the_run_where_epochs_end_it() -> None:
    cycle = rates(partial(OneCycleLR, max_lr=1.0, total_steps=100), max_steps=100, max_epochs=3)
    assert len(cycle) == 12
    assert max(cycle) == pytest.approx(1.0, rel=0.1)
    assert cycle[-1] == pytest.approx(1 / 25 / 1e4)
    cosine = rates(partial(CosineAnnealingLR, T_max=-1), max_steps=-1, max_epochs=2)
    assert cosine == pytest.approx([0.05 * (1 + math.cos(math.pi * i / 8)) for i in range(8)])


@lightning_runs
@pytest.mark.parametrize(
    ("length", "limits"),
    [
        (20, {"max_steps": 8, "max_epochs": 5}),
        (20, {"max_steps": 8, "max_epochs": -1}),
        (4, {"max_steps": 100, "max_epochs": 2}),
    ],
)
def test_a_schedule_keeps_its_length_where_the_run_does_not_end_before_it(
    length: int, limits: dict[str, int]
) -> None:
    used = rates(partial(CosineAnnealingLR, T_max=length), **limits)
    assert used == pytest.approx([0.05 * (1 + math.cos(math.pi * i / length)) for i in range(8)])


@lightning_runs
def test_a_run_that_epochs_end_says_so(caplog: pytest.LogCaptureFixture) -> None:
    rates(None, max_steps=100, max_epochs=2)
    assert "trainer.max_epochs=2 ends the run after 8 steps, before trainer.max_steps=100" in (
        caplog.text
    )
    caplog.clear()
    rates(None, max_steps=3, max_epochs=2)
    assert "max_epochs" not in caplog.text
