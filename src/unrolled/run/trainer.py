"""The trainer of a run: Lightning's, with the run's loggers, callbacks and checkpoints."""

from __future__ import annotations

import logging

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.loggers import Logger

from unrolled.data.module import SequenceData
from unrolled.errors import UserError
from unrolled.run.checkpoint_files import CheckpointFiles
from unrolled.run.directory import RunDirectory
from unrolled.run.experiment import Experiment, build, wanted
from unrolled.run.metrics_csv import MetricsCSV
from unrolled.run.monitor import monitor_of, require_defined, undefined_apart
from unrolled.run.numerics import numerics
from unrolled.run.run_state import RunState, Unprofiled
from unrolled.run.validation_size import most_validated, sampled
from unrolled.tasks.base import SequenceTask

log = logging.getLogger(__name__)


def build_trainer(
    experiment: Experiment, run: RunDirectory, data: SequenceData, task: SequenceTask
) -> lightning.Trainer:
    """The trainer with loggers and callbacks.

    Raises:
        UserError: When the machine does not have what the trainer asks for.
    """
    node = dict(experiment.trainer)
    if node.get("accelerator") == "gpu" and not torch.cuda.is_available():
        raise UserError(
            "trainer.accelerator=gpu: this machine has no CUDA device; use trainer=cpu, or "
            "trainer=auto for the best there is"
        )
    if node.get("reload_dataloaders_every_n_epochs"):
        raise UserError(
            "trainer.reload_dataloaders_every_n_epochs: a loader knows its epoch, and a new one "
            "would begin with the first again; leave it out"
        )
    validates = len(data.validation()) > 0 and node.get("limit_val_batches", 1) != 0
    if validates:
        data.most_validated = most_validated(task, data, node)
    monitor = monitor_of(task, data) if validates else None
    if monitor is not None:
        require_defined(experiment.callbacks, task, data)
    supplied = {
        "run_dir": run.path,
        "config": run.config(),
        "monitor": None if monitor is None else monitor.name,
        "monitor_mode": task.mode if monitor is None else monitor.mode,
        "main_metric": task.main_metric,
    }
    of_callbacks = {**supplied, "mode": supplied["monitor_mode"]}
    loggers: list[Logger] = [MetricsCSV(run.path)]
    for name, part in experiment.logger.items():
        built = build(part, f"logger.{name}", **wanted(part, supplied))
        if built is not None:
            loggers.append(built)
    callbacks: list[Callback] = [RunState(run)]
    for name, part in experiment.callbacks.items():
        callbacks.append(build(part, f"callbacks.{name}", **wanted(part, of_callbacks)))
    plugins = [build(part, "trainer.plugins") for part in node.pop("plugins", None) or []]
    # The bar is a callback that knows where it prints.
    node = {
        "enable_progress_bar": any(isinstance(c, ProgressBar) for c in callbacks),
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "profiler": Unprofiled(),
        **node,
        **numerics(node),
    }
    if not validates:
        node["limit_val_batches"] = 0
    trainer: lightning.Trainer = build(
        node,
        "trainer",
        logger=loggers,
        callbacks=callbacks,
        default_root_dir=run.path,
        plugins=[CheckpointFiles(), *plugins],
        # Our loaders shard themselves.
        use_distributed_sampler=False,
    )
    if monitor is not None and trainer.is_global_zero:
        for told in filter(None, (sampled(data), monitor.told(), undefined_apart(task, data))):
            log.warning("%s", told)
    # Lightning's handler of SIGTERM waits for the other processes, which may not have it.
    signals = trainer._signal_connector
    signals.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer
