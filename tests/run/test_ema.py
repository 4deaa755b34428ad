"""The moving average of the weights: what it is, and that it is what is judged and kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from commands import SMALL
from lightning.pytorch.callbacks import Callback
from training import Run

from unrolled.run.ema import EMA

TYPED = [*SMALL, "callbacks=[default,ema]", "callbacks.ema.decay=0.8", "test=false"]


class Watch(Callback):
    """The weights after each step, and those that are validated."""

    def __init__(self) -> None:
        self.trained: list[dict[str, torch.Tensor]] = []
        self.judged: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: object, task: torch.nn.Module, *args: object) -> None:
        self.trained.append(copied(task))

    def on_validation_batch_start(
        self, trainer: object, task: torch.nn.Module, *args: object
    ) -> None:
        self.judged.append(copied(task))


def copied(task: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in task.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(v, second[k]) for k, v in first.items()
    )


@pytest.mark.parametrize(("every", "start"), [(1, 0), (3, 2)])
def test_checkpoints_and_validation_have_the_average(
    every: int, start: int, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run", *TYPED, f"callbacks.ema.every_n_steps={every}",
              f"callbacks.ema.start_step={start}")  # fmt: skip
    run.task.register_buffer("position", torch.tensor([5, -3]))
    begin = copied(run.task)
    watch = Watch()
    run.trainer.callbacks.append(watch)
    run.fit()
    # Updates by hand, after the steps that are due.
    average, updates = begin, 0
    averages = []
    for index, weights in enumerate(watch.trained):
        if index >= start and index % every == 0:
            average = weights if not updates else {
                k: 0.8 * v + (1 - 0.8) * weights[k] if v.is_floating_point() else v
                for k, v in average.items()
            }  # fmt: skip
            updates += 1
        averages.append(average)
    assert updates == {1: 12, 3: 3}[every]
    assert not same(averages[-1], watch.trained[-1])
    assert [same(averages[i], j) for i, j in zip((3, 7, 11), watch.judged, strict=True)] == [
        True
    ] * 3
    last = torch.load(run.last, weights_only=True)
    assert same(last["state_dict"], averages[-1])
    assert same(last["current_model_state"], watch.trained[-1])
    best = torch.load(run.last.with_name("best.ckpt"), weights_only=True)
    assert same(best["state_dict"], averages[best["global_step"] - 1])
    assert last["state_dict"]["position"].tolist() == [5, -3]
    # What is tested after the training.
    assert same(copied(run.task), averages[-1])


def test_a_checkpoint_loads_without_a_word_where_nothing_is_trained(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", *TYPED)
    run.fit()
    again = Run(tmp_path / "again", *TYPED)
    again.trainer.validate(
        again.task, datamodule=again.data, ckpt_path=run.last, weights_only=True, verbose=False
    )
    assert same(copied(again.task), torch.load(run.last, weights_only=True)["state_dict"])
    (ema,) = (c for c in again.trainer.callbacks if isinstance(c, EMA))
    assert ema._average_model is None
