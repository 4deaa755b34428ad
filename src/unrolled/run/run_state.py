"""What ties the training to its run directory."""

from __future__ import annotations

import contextlib
import gc
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.profilers import PassThroughProfiler

from unrolled.data.processes import gather
from unrolled.errors import UserError
from unrolled.run.checkpoint import class_path
from unrolled.run.directory import RunDirectory, now
from unrolled.run.drift import identities
from unrolled.run.metrics_csv import MetricsCSV
from unrolled.run.random_states import random_states, set_random_states
from unrolled.run.wandb_logger import WandbLogger


class RunState(Callback):
    """Ties the training to its run directory.

    One callback for all of it, because Lightning calls every callback six times a step.

    - Refuses to train when the processes of a run do not have the same config.
    - Writes the task's name and the config's identity into every checkpoint, and refuses one of
      another config.
    - Keeps the random states of all processes in the checkpoint, so that dropout goes on where it
      was.
    - Keeps status.json up to date, and metrics.csv free of steps that a resume repeats.

    Args:
        run: The run directory.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.config_hash = run.config_hash()
        self.identity, *self.earlier = identities(run.config())
        self.random_states: list[dict[str, Any]] | None = None
        self.first_step_done = False

    def setup(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        """Compare the config with that of the first process."""
        first = trainer.strategy.broadcast(self.config_hash)
        if first != self.config_hash:
            raise UserError(
                f"process {trainer.global_rank} has another config than process 0 "
                f"({self.config_hash[:12]} and {first[:12]})"
            )

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Add the identity; write what was logged, so that a resumed run logs only the rest."""
        for logger in trainer.loggers:
            logger.save()
        checkpoint["unrolled"] = {
            "task": class_path(pl_module),
            "identity": self.identity,
            "rows": sum(logger.num_rows for logger in _tables(trainer)),
            # By early stopping; a limit of steps may be another when the run goes on.
            "stopped": trainer.should_stop and not 0 < trainer.max_steps <= trainer.global_step,
        }
        _between_steps(trainer, checkpoint["loops"]["fit_loop"])

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse what is not of this run; take back what was logged after it was saved."""
        own = checkpoint.get("unrolled", {})
        if own.get("identity") not in (self.identity, *self.earlier):
            raise UserError(
                f"{self.run.checkpoints}: the checkpoint is of a run with another config than "
                "config.yaml; one of the two files was changed or comes from elsewhere"
            )
        trainer.should_stop = own["stopped"]
        for table in _tables(trainer):
            table.keep(own["rows"])
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.forget_after(checkpoint["global_step"])

    def state_dict(self) -> dict[str, Any]:
        """The random states of each process, in the order of their ranks."""
        return {"random_states": gather(random_states())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep them until the first step: building the rest of the run draws numbers too."""
        self.random_states = state_dict["random_states"]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Restore the random states; forget what a run logged that died before it had saved."""
        _take_up(trainer)
        if self.random_states is None:
            for table in _tables(trainer):
                table.keep(0)
        else:
            rank = trainer.global_rank
            set_random_states(self.random_states[min(rank, len(self.random_states) - 1)])
            if rank >= len(self.random_states):
                # A process that was not there before: numbers of its own, not those of another.
                torch.manual_seed(int(torch.randint(2**62, ())) + rank)
        # The imported libraries are a million objects: searching them for garbage takes a quarter
        # of a second each time, as much as a hundred steps of a small model.
        gc.collect()
        gc.freeze()

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Let the garbage collector see everything again; note how far the run came."""
        gc.unfreeze()
        if trainer.is_global_zero:
            self.run.set_status(steps=trainer.global_step, epochs=trainer.current_epoch)

    def on_exception(self, trainer: lightning.Trainer, *args: Any) -> None:
        """The same when the training fails or is interrupted."""
        self.on_train_end(trainer, None)

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Note when the first step was done; let the last one be followed by a validation."""
        if trainer.global_step >= trainer.max_steps > 0:
            # Else a limit within an epoch would leave the last steps unjudged, and best.ckpt old.
            trainer.should_stop = True
        if not self.first_step_done:
            self.first_step_done = True
            if trainer.is_global_zero:
                self.run.set_status(first_step=now())

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Write what was logged, for those who look on."""
        for logger in trainer.loggers:
            logger.save()


def _tables(trainer: lightning.Trainer) -> list[MetricsCSV]:
    return [logger for logger in trainer.loggers if isinstance(logger, MetricsCSV)]


def _take_up(trainer: lightning.Trainer) -> None:
    """Make Lightning's loops (2.6) go on where they were; the counterpart of `_between_steps`."""
    loop = trainer.fit_loop
    batches = loop.epoch_loop.batch_progress
    # The batch that was in hand is handed out again; by this count `check_val_every_n_epoch=null`
    # says when to validate.
    batches.total.ready = batches.total.completed
    whole = batches.current.completed >= trainer.num_training_batches
    if loop.restarted_on_epoch_end and whole:
        # Where steps limit the run, the epoch would end a second time, without a batch.
        loop.epoch_progress.increment_completed()
        loop.reset_restart_stage()
        loop.epoch_loop.reset_restart_stage()
        _Loop.restarting.fset(loop, False)  # type: ignore[attr-defined]  # A property.


def _between_steps(trainer: lightning.Trainer, loop: dict[str, Any]) -> None:
    """Make the loops' state one from which Lightning goes on exactly, where a batch is in hand.

    Lightning (2.6) takes what its loaders hand out for used, "the batch in hand is the last" for
    "the epoch is over", and counts one more batch that stepped than there was.
    """
    # The data module has the position.
    loop["state_dict"].pop("combined_loader", None)
    epoch_loop = trainer.fit_loop.epoch_loop
    batches = epoch_loop.batch_progress.current
    if batches.ready == batches.completed:
        return
    loop["epoch_loop.batch_progress"]["is_last_batch"] = False
    if not trainer.fit_loop._should_accumulate():
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1


class Unprofiled(PassThroughProfiler):
    """No profile, at no cost: Lightning's own makes a context manager for each of 60 calls a step.

    With it and 4 more callbacks a step of a small model took 1.27 times the hand-written loop's.
    """

    _nothing = contextlib.nullcontext()

    def profile(self, action_name: str) -> Any:
        """The same empty context for every action."""
        return self._nothing
