"""Nobody waits in silence: a line now and then for what takes long."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any, cast

import pytest

from unrolled.run import progress
from unrolled.run.progress import Bar, PlainProgress
from unrolled.terminal import Terminal


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_what_takes_long_has_a_line_every_few_seconds_and_what_is_quick_none(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = PlainProgress("val/loss", 5.0)
    plain.last = clock.now
    trainer: Any = SimpleNamespace(
        global_step=100, num_val_batches=[3.0], num_test_batches=[2.0, 40.0]
    )
    clock.now += 60
    plain.on_validation_start(trainer, None)
    for batch in range(3):
        clock.now += 4
        plain.on_validation_batch_end(trainer, None, None, None, batch)
    for batch in range(40):
        clock.now += 2
        plain.on_test_batch_end(trainer, None, None, None, batch, 1)
        if batch == 2:
            break
    for done in range(0, 10_001, 2_500):
        clock.now += 3
        plain.tell("reference session knn, test targets", done, 10_000)
    assert capsys.readouterr().out.splitlines() == [
        "step 100: validation, batch 2 of 3",
        "test, batch 3 of 42",
        "reference session knn, test targets 0 of 10,000",
        "reference session knn, test targets 5,000 of 10,000",
    ]


def test_a_terminal_shows_a_bar_that_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    terminal = Terminal(file=shown, force_terminal=True, width=80)
    monkeypatch.setattr(progress, "Terminal", lambda: terminal)
    bar = Bar(10)
    bar.tell("reference markov, test targets", 10, 40)
    assert cast(Any, bar)._other is not None
    bar.tell("reference markov, test targets", 40, 40)
    assert cast(Any, bar)._other is None
    assert "reference markov, test targets" in shown.getvalue()
