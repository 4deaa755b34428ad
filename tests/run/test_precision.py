"""Precision, accumulated and clipped gradients, and deterministic numbers: for every kind of task,
and exactly resumed."""

from __future__ import annotations

import csv
import json
import logging
import math
import typing
import warnings
from pathlib import Path

import pytest
import torch
from commands import SMALL, unrolled
from lightning.fabric.connector import _PRECISION_INPUT
from training import Run

from unrolled.errors import UserError
from unrolled.run.numerics import deterministic_errors, numerics

LABEL = [*(typed for typed in SMALL if "max_steps" not in typed), "model.dropout=0.2",
         "model.num_layers=2"]  # fmt: skip
STEPS = ["task=memorize", "data.train_size=60", "data.batch_size=10"]
STREAM = ["task=next_word", "data.source.train_symbols=3200", "data.source.eval_symbols=600"]
TASKS = {"label": LABEL, "steps": STEPS, "stream": STREAM}
EVERY_STEP = ["scheduler=constant", "trainer.max_steps=-1", "trainer.log_every_n_steps=1",
              "test=false"]  # fmt: skip


def losses(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "options",
    [
        ["trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=0.1"],
        ["trainer.precision=bf16-mixed", "trainer.accumulate_grad_batches=3",
         "callbacks=[default,ema]", "callbacks.ema.decay=0.9"],
    ],
    ids=["accumulated", "bf16-mixed"],
)  # fmt: skip
def test_what_was_stopped_at_an_epoch_is_bit_for_bit_what_was_not(
    task: str, options: list[str], tmp_path: Path
) -> None:
    found = []
    for name, parts in (("whole", [3]), ("parts", [1, 3])):
        for epochs in parts:
            run = Run(tmp_path / name, *TASKS[task], *EVERY_STEP, *options,
                      f"trainer.max_epochs={epochs}")  # fmt: skip
            run.fit()
        last = torch.load(run.last, weights_only=True)
        found.append((losses(tmp_path / name), last))
    (whole, last), (of_parts, last_of_parts) = found
    assert whole == of_parts
    numbers = [float(row["train/loss"]) for row in whole if row["train/loss"]]
    assert len(numbers) == last["global_step"] == last_of_parts["global_step"] > 3
    assert all(map(math.isfinite, numbers))
    for key in ("state_dict", "current_model_state"):
        for name, value in last.get(key, {}).items():
            assert torch.equal(value, last_of_parts[key][name]), (key, name)


@pytest.mark.parametrize("task", ["label", "steps"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_accumulated_batches_are_one_large_batch(task: str, reduction: str, tmp_path: Path) -> None:
    logged, weights = [], []
    size = int(next(t for t in TASKS[task] if "batch_size" in t).partition("=")[2])
    for name, batch, count in (("whole", size, 1), ("parts", size // 5, 5)):
        run = Run(tmp_path / name, *TASKS[task], *EVERY_STEP, "model.dropout=0",
                  f"task.loss_reduction={reduction}", f"data.batch_size={batch}",
                  f"trainer.accumulate_grad_batches={count}", "optimizer=sgd",
                  "optimizer.lr=0.001", "trainer.max_epochs=1")  # fmt: skip
        run.fit()
        logged.append([float(r["train/loss"]) for r in losses(tmp_path / name) if r["train/loss"]])
        weights.append(torch.cat([p.detach().flatten() for p in run.task.parameters()]))
    assert len(logged[0]) == len(logged[1]) > 1
    assert logged[1] == pytest.approx(logged[0], rel=1e-5)
    assert torch.allclose(*weights, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("16-mixed", "the CPU does not train in 16 bits of this kind; use "),
        ("64-true", "features, targets and losses are in 32 bits, which a model in 64 bits does "),
        ("bf16-true", "a weight in 16 bits is as it was after an update of less than its 256th "),
        ("16-true", "a weight in 16 bits is as it was after an update of less than its 256th "),
        ("transformer-engine", "this needs the layers of NVIDIA's Transformer Engine, which "),
        ("transformer-engine-float16", "this needs the layers of NVIDIA's Transformer Engine, "),
    ],
)
def test_a_precision_in_which_no_model_trains_is_refused_by_name(
    precision: str, message: str
) -> None:
    with pytest.raises(UserError, match=rf"^trainer\.precision={precision}: {message}"):
        numerics({"accelerator": "cpu", "precision": precision})


def test_each_of_lightnings_precisions_is_trained_in_or_refused(tmp_path: Path) -> None:
    trained = set()
    for choice in typing.get_args(_PRECISION_INPUT):
        for precision in typing.get_args(choice):
            try:
                numerics({"accelerator": "cpu", "precision": precision})
            except UserError:
                continue
            trained.add(str(precision))
    assert trained == {"32", "32-true", "bf16", "bf16-mixed"}
    with pytest.raises(UserError, match=r"^trainer\.precision=64-true: features"):
        Run(tmp_path / "run", *SMALL, "trainer.precision=64-true")


def test_the_cpu_is_deterministic_unless_told_otherwise() -> None:
    assert numerics({"accelerator": "cpu"}) == {"precision": None, "deterministic": True}
    off = {"accelerator": "cpu", "precision": "bf16-mixed", "deterministic": False}
    assert numerics(off) == {"precision": "bf16-mixed", "deterministic": False}


def test_an_operation_that_is_not_deterministic_is_told_in_our_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    numerics({"accelerator": "cpu"})
    before = torch.are_deterministic_algorithms_enabled()

    def put() -> None:
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))

    try:
        torch.use_deterministic_algorithms(True)
        with pytest.raises(UserError) as error, deterministic_errors():
            put()
        assert str(error.value) == (
            "trainer.deterministic=true: torch has no deterministic put_ on this device; "
            "trainer.deterministic=warn computes it all the same, false does not ask"
        )
        with pytest.raises(RuntimeError, match="another"), deterministic_errors():
            raise RuntimeError("another")
        torch.use_deterministic_algorithms(True, warn_only=True)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            # Another test may have begun it, in another context of warnings.
            logging.captureWarnings(False)
            logging.captureWarnings(True)
            for _ in range(2):
                put()
    finally:
        logging.captureWarnings(False)
        torch.use_deterministic_algorithms(before)
    told = [r.message for r in caplog.records if r.name.startswith("unrolled")]
    assert told == ["trainer.deterministic=warn: torch has no deterministic put_ on this device"]


@pytest.mark.process
def test_evaluate_gives_the_result_of_a_run_with_every_option(tmp_path: Path) -> None:
    typed = [*LABEL, "scheduler=constant", "trainer.max_steps=4", "trainer.precision=bf16-mixed",
             "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=0.5",
             "callbacks=[default,ema]", "callbacks.ema.decay=0.9", "logger=none"]  # fmt: skip
    done = unrolled("train", *typed, "run_dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = unrolled("evaluate", "run", "--output", "scores.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "metrics.json").read_text())["metrics"]
    assert json.loads((tmp_path / "scores.json").read_text()) == result
