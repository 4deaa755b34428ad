"""Which epochs best.ckpt and last.ckpt hold."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unrolled.run.checkpoints import Checkpoints


class Trainer(SimpleNamespace):
    """Only what the callback asks of a trainer; `saved` holds (epoch, file) in order."""

    def __init__(self) -> None:
        super().__init__(fast_dev_run=0, current_epoch=0, callback_metrics={}, saved=[])
        self.strategy = SimpleNamespace(reduce_boolean_decision=lambda value, all: value)

    def save_checkpoint(self, path: Path) -> None:
        self.saved.append((self.current_epoch, path.name))
        path.parent.mkdir(exist_ok=True)
        path.write_text("")


def train(callback: Checkpoints, scores: list[float], trainer: Trainer | None = None) -> list[Any]:
    trainer = trainer or Trainer()
    for epoch, score in enumerate(scores):
        trainer.current_epoch = epoch
        trainer.callback_metrics = {"val/error": torch.tensor(score)}
        callback.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
    return trainer.saved


@pytest.mark.parametrize(
    ("mode", "best"), [("min", [0, 2]), ("max", [0, 1, 3])], ids=["min", "max"]
)
def test_best_is_saved_before_last_and_only_when_strictly_better(
    tmp_path: Path, mode: Any, best: list[int]
) -> None:
    saved = train(Checkpoints(tmp_path, "val/error", mode), [0.5, 0.6, 0.4, 0.7, 0.7])
    expected = []
    for epoch in range(5):
        expected += [(epoch, "best.ckpt")] if epoch in best else []
        expected += [(epoch, "last.ckpt")]
    assert saved == expected


def test_not_a_number_is_the_best_only_until_there_is_a_number(tmp_path: Path) -> None:
    nan = float("nan")
    saved = train(Checkpoints(tmp_path, "val/error", "min"), [nan, 0.9, nan, 0.8])
    assert [epoch for epoch, name in saved if name == "best.ckpt"] == [0, 1, 3]


def test_every_second_epoch(tmp_path: Path) -> None:
    saved = train(Checkpoints(tmp_path, "val/error", "min", every_n_epochs=2), [0.1, 0.5, 0.2, 0.6])
    assert saved == [(1, "best.ckpt"), (1, "last.ckpt"), (3, "last.ckpt")]


def test_without_validation_there_is_only_the_last(tmp_path: Path) -> None:
    assert train(Checkpoints(tmp_path, None, "min"), [0.1, 0.2]) == [
        (0, "last.ckpt"),
        (1, "last.ckpt"),
    ]


def test_a_resumed_run_knows_the_best_value_but_not_without_its_file(tmp_path: Path) -> None:
    first = Checkpoints(tmp_path, "val/error", "min")
    train(first, [0.3])
    second = Checkpoints(tmp_path, "val/error", "min")
    second.load_state_dict(first.state_dict())
    assert train(second, [0.4]) == [(0, "last.ckpt")]
    elsewhere = Checkpoints(tmp_path / "new", "val/error", "min")
    elsewhere.folder.mkdir(parents=True)
    elsewhere.load_state_dict(first.state_dict())
    assert train(elsewhere, [0.4]) == [(0, "best.ckpt"), (0, "last.ckpt")]
