"""When best.ckpt and last.ckpt are saved, and what they hold."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unrolled.run.checkpoints import Checkpoints
from unrolled.run.interruption import Interrupted, interruption


class Trainer(SimpleNamespace):
    """Only what the callback asks of a trainer; `saved` holds (step, file) in order."""

    def __init__(self, steps_an_epoch: int = 1, accumulate: int = 1) -> None:
        super().__init__(
            fast_dev_run=0, current_epoch=0, callback_metrics={}, saved=[], world_size=1,
            global_step=0, max_steps=-1, max_epochs=1000, should_stop=False,
            accumulate_grad_batches=accumulate,
        )  # fmt: skip
        self.steps_an_epoch = steps_an_epoch
        self.strategy = SimpleNamespace(reduce_boolean_decision=lambda value, all: value)

    def save_checkpoint(self, path: Path, weights_only: bool) -> None:
        self.saved.append((self.global_step, path.name))
        path.parent.mkdir(exist_ok=True)
        path.write_text("")

    def train(self, callback: Checkpoints, scores: list[float]) -> list[Any]:
        """An epoch for each score, with a validation at its end; the order is Lightning's."""
        callback.on_train_start(self, None)  # type: ignore[arg-type]
        for score in scores:
            for batch in range(self.steps_an_epoch * self.accumulate_grad_batches):
                callback.on_train_batch_start(self, None, None, batch)  # type: ignore[arg-type]
                self.global_step += (batch + 1) % self.accumulate_grad_batches == 0
            self.callback_metrics = {"val/error": torch.tensor(score)}
            callback.on_validation_end(self, None)  # type: ignore[arg-type]
            callback.on_train_epoch_end(self, None)  # type: ignore[arg-type]
            self.current_epoch += 1
        return self.saved


@pytest.mark.parametrize(
    ("mode", "best"), [("min", [1, 3]), ("max", [1, 2, 4])], ids=["min", "max"]
)
def test_best_is_saved_before_last_and_only_when_strictly_better(
    tmp_path: Path, mode: Any, best: list[int]
) -> None:
    saved = Trainer().train(Checkpoints(tmp_path, "val/error", mode), [0.5, 0.6, 0.4, 0.7, 0.7])
    expected = []
    for step in range(1, 6):
        expected += [(step, "best.ckpt")] if step in best else []
        expected += [(step, "last.ckpt")]
    assert saved == expected


def test_not_a_number_is_the_best_only_until_there_is_a_number(tmp_path: Path) -> None:
    nan = float("nan")
    saved = Trainer().train(Checkpoints(tmp_path, "val/error", "min"), [nan, 0.9, nan, 0.8])
    assert [step for step, name in saved if name == "best.ckpt"] == [1, 2, 4]


def test_every_second_epoch_but_each_best_and_the_end(tmp_path: Path) -> None:
    trainer = Trainer()
    trainer.max_epochs = 5
    saved = trainer.train(
        Checkpoints(tmp_path, "val/error", "min", every_n_epochs=2), [0.5, 0.4, 0.6, 0.3, 0.7]
    )
    last = [step for step, name in saved if name == "last.ckpt"]
    assert last == [2, 4, 5]
    assert [step for step, name in saved if name == "best.ckpt"] == [1, 2, 4]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_every_few_steps_between_two_steps_and_never_twice(tmp_path: Path, accumulate: int) -> None:
    callback = Checkpoints(tmp_path, None, "min", every_n_steps=4)
    saved = Trainer(steps_an_epoch=6, accumulate=accumulate).train(callback, [0.0, 0.0])
    # Step 12 is the end of an epoch.
    assert saved == [(step, "last.ckpt") for step in (4, 6, 8, 12)]


def test_after_some_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)

    def a_minute_a_look() -> float:
        clock.now += 60.0
        return clock.now

    monkeypatch.setattr(time, "monotonic", a_minute_a_look)
    callback = Checkpoints(tmp_path, None, "min", every_n_epochs=None, every_n_minutes=2.5)
    saved = Trainer(steps_an_epoch=9).train(callback, [0.0])
    # Each step looks once, each save twice.
    assert saved == [(2, "last.ckpt"), (5, "last.ckpt"), (8, "last.ckpt")]


def test_a_signal_saves_and_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer: Any = Trainer(steps_an_epoch=3, accumulate=2)
    callback = Checkpoints(tmp_path, None, "min")
    trainer.train(callback, [0.0])
    monkeypatch.setattr(interruption, "received", "SIGTERM")
    # What is saved already is not saved again.
    with pytest.raises(Interrupted, match="SIGTERM"):
        callback.on_train_batch_start(trainer, None, None, 0)
    assert trainer.saved == [(3, "last.ckpt")]
    trainer.global_step += 1
    # Not with half of a gradient.
    callback.on_train_batch_start(trainer, None, None, 1)
    with pytest.raises(Interrupted):
        callback.on_train_batch_start(trainer, None, None, 2)
    with pytest.raises(Interrupted):
        callback.on_train_epoch_end(trainer, None)
    assert trainer.saved == [(3, "last.ckpt"), (4, "last.ckpt"), (4, "last.ckpt")]


def test_without_validation_there_is_only_the_last(tmp_path: Path) -> None:
    assert Trainer().train(Checkpoints(tmp_path, None, "min"), [0.1, 0.2]) == [
        (1, "last.ckpt"),
        (2, "last.ckpt"),
    ]


def test_a_resumed_run_knows_the_best_value_but_not_without_its_file(tmp_path: Path) -> None:
    first = Checkpoints(tmp_path, "val/error", "min")
    Trainer().train(first, [0.3])
    second = Checkpoints(tmp_path, "val/error", "min")
    second.load_state_dict(first.state_dict())
    assert Trainer().train(second, [0.4]) == [(1, "last.ckpt")]
    elsewhere = Checkpoints(tmp_path / "new", "val/error", "min")
    elsewhere.folder.mkdir(parents=True)
    elsewhere.load_state_dict(first.state_dict())
    assert Trainer().train(elsewhere, [0.4]) == [(1, "best.ckpt"), (1, "last.ckpt")]
