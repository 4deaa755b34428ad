"""Training and testing a run, from its directory to its metrics.json."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pyarrow as pa
import torch

from unrolled.data.module import SequenceData
from unrolled.errors import TrainingError, UserError
from unrolled.run.check_checkpoint import no_larger_than
from unrolled.run.checkpoint import load_weights
from unrolled.run.checkpoint_files import set_aside, to_go_on_from
from unrolled.run.checkpoints import Checkpoints
from unrolled.run.directory import RunDirectory
from unrolled.run.environment import environment
from unrolled.run.experiment import Experiment
from unrolled.run.interruption import Interrupted, interruption
from unrolled.run.numerics import deterministic_errors
from unrolled.run.predictions import named, predict_split, tested
from unrolled.run.progress import Bar, PlainProgress
from unrolled.run.remarks import overfitting
from unrolled.run.run_state import RunState
from unrolled.run.trainer import build_trainer
from unrolled.run.validation_size import sampled
from unrolled.tasks.base import SequenceTask

log = logging.getLogger(__name__)

LARGEST_PREDICTIONS = 100_000
"""Test sets with up to so many targets have their predictions in the run directory."""


def train(run: RunDirectory) -> None:
    """Train, test the best checkpoint, write the results.

    Raises:
        UserError: When the config asks for what is not there.
    """
    config = run.config()
    experiment = Experiment(**config)
    quiet()
    lightning.seed_everything(experiment.seed, workers=True, verbose=False)
    checkpoint, reason = to_go_on_from(run.checkpoints)
    with no_larger_than(checkpoint):
        data, task = build_experiment(experiment)
    if (run.path / "schema").is_dir():
        # Of a run that goes on: not on other data than it began with.
        data.load_schema(run.path / "schema")
        data.require_unchanged()
    trainer = build_trainer(experiment, run, data, task)
    if trainer.is_global_zero:
        run.write_json("environment.json", environment(trainer))
        data.save_schema(run.path / "schema")
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Set by a connector.
        if isinstance(callback, Bar | PlainProgress):
            task.tell = callback.tell
    began = time.monotonic()
    if reason is not None and trainer.is_global_zero:
        log.warning("%s; the run goes on from the checkpoint before it", reason)
        set_aside(run.checkpoints)
    with interruption.training(), deterministic_errors(), _told_of(checkpoint, trainer):
        trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    if interruption.received:
        # After the last step.
        raise Interrupted(interruption.received)
    fit_seconds = time.monotonic() - began
    steps = trainer.global_step
    # Of the last validation.
    undefined = dict(task.undefined)
    scores: dict[str, Any] = {}
    if experiment.test or data.hpo_val:
        data.with_tests = experiment.test
        best = trainer.strategy.broadcast(run.best_checkpoint())
        load_weights(task, best)
        began = time.monotonic()
        of_test = partial(tested, data)
        with deterministic_errors(), named(best, of_test, TrainingError):
            trainer.test(task, datamodule=data, verbose=False)
        scores = judge(task, data)
    if trainer.is_global_zero:
        references = task.references(data) if experiment.test else {}
        run.write_json(
            "metrics.json",
            {
                "metrics": scores,
                "references": {
                    name: {metric: _finite(value) for metric, value in found.items()}
                    for name, found in references.items()
                },
                "undefined": undefined,
                "remarks": _remarks(run, trainer, task, data),
                "protocol": task.protocol(),
                "main_metric": f"test/{task.main_metric}",
                "steps": steps,
                "parameters": sum(p.numel() for p in task.parameters() if p.requires_grad),
                "seconds": {
                    "fit": round(fit_seconds, 3),
                    "test": round(time.monotonic() - began, 3) if scores else None,
                },
            },
        )
        if experiment.test:
            finish(run, task, data)
    # Leave together: a process that ends while its group is open may be aborted, and torchrun then
    # stops the first in the middle of its writing.
    trainer.strategy.barrier()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _remarks(
    run: RunDirectory, trainer: lightning.Trainer, task: SequenceTask, data: SequenceData
) -> list[str]:
    """What chose the checkpoint where the task's own metric could not; whether the model overfits.

    The validations' values are in metrics.csv, those before an interruption too.
    """
    found = [told] if (told := sampled(data)) else []
    chosen_by = next((c for c in trainer.callbacks if isinstance(c, Checkpoints)), None)  # type: ignore[attr-defined]
    if chosen_by is None or chosen_by.monitor is None:
        return found
    if chosen_by.monitor != task.monitor:
        found.append(
            f"{chosen_by.monitor} chose the checkpoint: {task.monitor} is undefined on the "
            "validation sequences."
        )
    if told := overfitting(run.path / "metrics.csv", chosen_by.monitor, chosen_by.mode):
        found.append(told)
    return found


@contextmanager
def _told_of(checkpoint: Path | None, trainer: lightning.Trainer) -> Iterator[None]:
    """Blame the checkpoint for what goes wrong before the first step that follows it.

    Of several processes any can be lost at any time, which is for the agent to mend.

    Raises:
        UserError: In the place of such an error.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        callbacks = trainer.callbacks  # type: ignore[attr-defined]  # Set by a connector.
        begun = any(isinstance(c, RunState) and c.first_step_done for c in callbacks)
        told = isinstance(error, UserError | TrainingError | torch.OutOfMemoryError)
        if checkpoint is None or begun or told or trainer.world_size > 1:
            raise
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise UserError(
            f"{checkpoint}: the run can't go on from this checkpoint, which is not as a run writes "
            f"it ({type(error).__name__}: {reason})"
        ) from error


def build_experiment(experiment: Experiment) -> tuple[SequenceData, SequenceTask]:
    """The data module and the task, the weights at their start."""
    data = experiment.build_data()
    data.require_usable(("train", "val", "test") if experiment.test else ("train", "val"))
    return data, experiment.build_task(data)


def judge(task: SequenceTask, data: SequenceData) -> dict[str, Any]:
    """The test metrics between what a trivial answer scores and the best that is possible.

    A metric that is not defined has no value, nor have its trivial and its best one: `undefined`
    says why.
    """
    trivial, best = task.trivial_scores(data), data.best_possible()
    direction = {"loss": "min", **task.metric_direction()}
    scores: dict[str, dict[str, float | str | None]] = {}
    for name, value in task.results.items():
        short = name.rpartition("/")[2]
        scores[name] = {"value": _finite(value)}
        if (reason := task.undefined.get(name)) is not None:
            scores[name] |= {"undefined": reason}
        if short in direction:
            scores[name] |= {
                "trivial": _finite(trivial.get(name, math.nan)),
                "best": None if reason else best.get(name, best.get(short)),
                "better": direction[short],
            }
    return scores


def _finite(value: float) -> float | None:
    # JSON has no NaN.
    return value if math.isfinite(value) else None


def finish(run: RunDirectory, task: SequenceTask, data: SequenceData) -> None:
    """Predictions of a test set that is not too large, and the plots."""
    from unrolled.data.outputs import write_table
    from unrolled.report.plots import plot_run

    for name, columns in task.tables.items():
        table = pa.table({column: values.numpy() for column, values in columns.items()})
        write_table(table, run.path / "predictions" / f"{name}.parquet")
    predictions = None
    if data.source("test").targets().numel() <= LARGEST_PREDICTIONS:
        predictions = predict_split(task, data, "test")
        write_table(predictions, run.path / "predictions" / "test.parquet")
    try:
        plot_run(run.path, task.main_metric, predictions)
    except Exception:
        # A picture is not worth a run.
        logging.getLogger("traceback").exception("the plots could not be drawn")


def quiet() -> None:
    """Keep Lightning's advertisements and known warnings off the terminal; train.log has them."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # Warnings go to the log: Lightning has one for each of its own deprecated calls.
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").addHandler(logging.NullHandler())
    # Of srun our processes know nothing; wherever SLURM is installed it would be asked for.
    warnings.filterwarnings("ignore", message="The `srun` command is available")
