"""Steps whose loss or gradient is not finite: told with their sequences, stopped or left out."""

from __future__ import annotations

import csv
import itertools
import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from commands import SMALL, unrolled
from lightning.pytorch.callbacks import Callback
from training import Run

from unrolled.data.batch import SequenceBatch
from unrolled.errors import TrainingError
from unrolled.run.finite import FiniteCheck, _Asked

TYPED = [*SMALL, "trainer.log_every_n_steps=1", "test=false"]
"""Batches of 50 from 200 sequences: each sequence comes once in 4 steps."""


def poison(
    run: Run, sequence: int, value: float, *, gradient: bool = False, from_epoch: int = 0
) -> list[int]:
    """Give one sequence a loss or a gradient that is not finite; the steps it comes in, from 1."""
    losses, steps = run.task.losses, []

    def poisoned(outputs: torch.Tensor, batch: SequenceBatch) -> torch.Tensor:
        here = batch.ids == sequence
        trains = run.task.training and run.trainer.current_epoch >= from_epoch
        if trains and bool(here.any()):
            steps.append(run.trainer.global_step + 1)
            if not gradient:
                return losses(outputs, batch).masked_fill(here, value)
            outputs = outputs.clone()
            outputs.register_hook(lambda grad: grad.masked_fill(here.unsqueeze(1), value))
        return losses(outputs, batch)

    run.task.losses = poisoned  # type: ignore[method-assign]
    return steps


def watch(run: Run) -> list[list[int]]:
    """The sequences of each training batch, as they come."""
    encode, seen = run.task.encode, []

    def watched(batch: SequenceBatch) -> torch.Tensor:
        if run.task.training:
            seen.append(batch.ids.tolist())
        return encode(batch)

    run.task.encode = watched  # type: ignore[method-assign]
    return seen


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("gradient", "value", "text"),
    [
        (False, math.nan, "the loss is not finite (nan)"),
        (False, math.inf, "the loss is not finite (inf)"),
        (True, math.inf, "the gradient of model.encoder"),
    ],
)
def test_the_run_stops_before_the_weights_are_lost_and_names_the_sequences(
    gradient: bool, value: float, text: str, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run", *TYPED)
    batches = watch(run)
    poison(run, 7, value, gradient=gradient, from_epoch=1)
    with pytest.raises(TrainingError) as error:
        run.fit()
    step, last = len(batches), batches[-1]
    assert 7 in last
    assert 5 <= step <= 8
    message = str(error.value)
    shown = ", ".join(map(str, last[:5]))
    assert message.startswith(f"step {step} (epoch 1): {text}")
    assert f"sequences {shown} and 45 more. The checkpoint of step 4 is kept" in message
    assert "\n" not in message
    kept = torch.load(run.last, weights_only=True)
    assert kept["global_step"] == 4
    for values in (*kept["state_dict"].values(), *run.task.state_dict().values()):
        assert bool(values.isfinite().all())


def test_skipped_steps_change_nothing_and_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path / "run", *TYPED, "callbacks.finite.action=skip")
    steps = poison(run, 7, math.nan)
    weights: list[torch.Tensor] = []
    run.task.on_train_batch_end = _also(  # type: ignore[method-assign]
        run.task.on_train_batch_end,
        lambda: weights.append(
            torch.cat([p.detach().flatten() for p in run.task.parameters()]).clone()
        ),
    )
    with caplog.at_level(logging.INFO, logger="unrolled"):
        run.fit()
    assert len(steps) == 3
    changed = [not torch.equal(before, after) for before, after in itertools.pairwise(weights)]
    assert [number + 2 for number, any_ in enumerate(changed) if not any_] == [
        step for step in steps if step > 1
    ]
    told = [r for r in caplog.records if "left out" in r.message]
    assert [r.levelno for r in told] == [logging.WARNING, logging.INFO, logging.INFO]
    assert [r.message.partition(" so far: step ")[2].partition(" ")[0] for r in told] == [
        str(step) for step in steps
    ]
    logged = {int(row["step"]): row for row in rows(run.directory.path)}
    counts = {s: float(r["train/skipped_steps"]) for s, r in logged.items()
              if r["train/skipped_steps"]}  # fmt: skip
    assert counts == {step: number + 1 for number, step in enumerate(steps)}
    # The mean of the other steps: a step that does not count has no loss.
    with_loss = [step for step, row in logged.items() if row["train/loss"]]
    assert with_loss == [step for step in range(1, 13) if step not in steps]
    assert all(math.isfinite(float(logged[step]["train/loss"])) for step in with_loss)


def _also(hook: Any, action: Any) -> Any:
    def both(*args: Any) -> None:
        hook(*args)
        action()

    return both


def test_the_count_goes_on_after_a_resume_as_if_the_run_had_never_stopped(tmp_path: Path) -> None:
    typed = [*(t for t in TYPED if "max_steps" not in t), "callbacks.finite.action=skip",
             "scheduler=constant", "trainer.max_steps=-1"]  # fmt: skip
    found = []
    for name, parts in (("whole", [4]), ("parts", [2, 4])):
        for epochs in parts:
            run = Run(tmp_path / name, *typed, f"trainer.max_epochs={epochs}")
            poison(run, 7, math.nan)
            run.fit()
        (check,) = (c for c in run.trainer.callbacks if isinstance(c, FiniteCheck))
        found.append((check.skipped, rows(tmp_path / name), run.task.state_dict()))
    (skipped, logged, weights), (of_parts, logged_in_parts, weights_of_parts) = found
    assert skipped == of_parts == 4
    assert logged == logged_in_parts
    assert all(torch.equal(value, weights_of_parts[key]) for key, value in weights.items())


def test_a_model_that_is_only_nan_does_not_run_to_its_end(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", *TYPED, "callbacks.finite.action=skip",
              "callbacks.finite.stop_after=3")  # fmt: skip
    losses = run.task.losses
    run.task.losses = lambda *a: losses(*a) * math.nan  # type: ignore[method-assign]
    with pytest.raises(
        TrainingError, match=r"^3 steps in a row were left out, the run ends \(call"
    ):
        run.fit()
    assert run.trainer.global_step == 2


def test_of_accumulated_batches_the_one_that_is_wrong_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", *TYPED, "trainer.accumulate_grad_batches=4")
    poison(run, 7, math.nan)
    seen = watch(run)
    with pytest.raises(TrainingError) as error:
        run.fit()
    assert len(seen) == 4
    (wrong,) = (ids for ids in seen if 7 in ids)
    assert f"sequences {', '.join(map(str, wrong[:5]))} and 45 more" in str(error.value)
    assert str(error.value).startswith("step 1 (epoch 0): the loss is not finite (nan)")


def test_a_stream_goes_on_after_a_step_that_was_left_out(tmp_path: Path) -> None:
    run = Run(
        tmp_path / "run", "task=next_word", "data.source.train_symbols=3200",
        "data.source.eval_symbols=600", "trainer.max_steps=12", "trainer.log_every_n_steps=1",
        "test=false", "callbacks.finite.action=skip",
    )  # fmt: skip
    embed = run.task.model.embedding.forward

    def poisoned(*args: Any) -> torch.Tensor:
        vectors: torch.Tensor = embed(*args)
        return vectors * (math.nan if run.task.training and run.trainer.global_step == 4 else 1)

    run.task.model.embedding.forward = poisoned  # type: ignore[method-assign]
    run.fit()
    (check,) = (c for c in run.trainer.callbacks if isinstance(c, FiniteCheck))
    assert (check.skipped, check.in_a_row) == (1, 0)


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", *TYPED)
    run.trainer.callbacks.insert(0, Breaks())
    with pytest.raises(
        TrainingError, match=r"after step 8 .* weights are not finite in model\.head"
    ):
        run.fit()
    assert torch.load(run.last, weights_only=True)["global_step"] == 4


def test_an_answer_that_comes_late_is_awaited_before_a_checkpoint(tmp_path: Path) -> None:
    # On a GPU the answer is read one step later; here it is one whose event has come already.
    run = Run(tmp_path / "run", *TYPED)
    (check,) = (c for c in run.trainer.callbacks if isinstance(c, FiniteCheck))
    waited: list[bool] = []
    event: Any = SimpleNamespace(synchronize=lambda: waited.append(True))

    def late(*args: Any) -> None:
        if run.trainer.global_step == 8:
            check._asked = _Asked(
                torch.tensor(math.nan), event, 8, [torch.tensor(math.inf)], [torch.tensor([3, 9])]
            )

    run.task.on_train_batch_end = _also(  # type: ignore[method-assign]
        run.task.on_train_batch_end, late
    )
    with pytest.raises(TrainingError, match=r"^step 8 .* \(inf\); sequences 3, 9\. The checkp"):
        run.fit()
    assert waited == [True]
    assert torch.load(run.last, weights_only=True)["global_step"] == 4


class Breaks(Callback):
    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            next(pl_module.model.head.parameters()).data.fill_(math.inf)


@pytest.mark.process
def test_a_run_that_diverges_fails_in_one_line_on_both_ranks(tmp_path: Path) -> None:
    done = unrolled(
        "train", "task=adding", "data.batch_size=32", "trainer=ddp_cpu", "trainer.max_steps=40",
        "scheduler=constant", "optimizer=sgd", "optimizer.lr=1e18", "logger=none",
        "trainer.gradient_clip_val=null", "run_dir=run", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    first, *rest = done.stderr.splitlines()
    assert first.startswith("error: step ")
    assert "is not finite" in first
    assert "There is no checkpoint yet" in first
    assert len(rest) == 1
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["state"] == "failed"
    assert f"error: {status['error']}" == first
