"""Callbacks of every run: checkpoints, and what ties the training to its run directory."""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.profilers import PassThroughProfiler
from pydantic import PositiveInt

from unrolled.errors import UserError
from unrolled.run.checkpoint import class_path
from unrolled.run.directory import RunDirectory, now
from unrolled.run.metrics_csv import MetricsCSV
from unrolled.run.wandb_logger import WandbLogger


class Checkpoints(Checkpoint):
    """best.ckpt and last.ckpt, saved at the end of epochs, in this order: last knows the best.

    Not two of Lightning's ModelCheckpoint: its `save_last` waits for a new best, its state holds
    the paths of one machine, and each of them is asked at every step.

    Args:
        run_dir: Its `checkpoints/` takes the files.
        monitor: The task's metric; None without validation: then there is no best.
        monitor_mode: Whether less or more of it is better; the task's.
        every_n_epochs: Epochs between two checkpoints; the run can go on from these.
    """

    def __init__(
        self,
        run_dir: Path,
        monitor: str | None,
        monitor_mode: Literal["min", "max"],
        every_n_epochs: PositiveInt = 1,
    ) -> None:
        self.folder = run_dir / "checkpoints"
        self.monitor = monitor
        self.better = torch.lt if monitor_mode == "min" else torch.gt
        self.every_n_epochs = every_n_epochs
        self.best_score: torch.Tensor | None = None

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Save what is due."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # Set by a connector.
            return
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            if self._improved(trainer):
                trainer.save_checkpoint(self.folder / "best.ckpt")
            trainer.save_checkpoint(self.folder / "last.ckpt")

    def _improved(self, trainer: lightning.Trainer) -> bool:
        score = trainer.callback_metrics.get(self.monitor or "")
        if score is None:
            return False
        score, best = score.detach().cpu().clone(), self.best_score
        improved = best is None or bool(torch.isnan(best)) or bool(self.better(score, best))
        # The processes agree, or only some of them would wait for the others to save.
        improved = trainer.strategy.reduce_boolean_decision(improved, all=False)
        if improved:
            self.best_score = score
        return improved

    def state_dict(self) -> dict[str, Any]:
        """Only the value: the file lies in the run's own folder, wherever that is moved to."""
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the value, if the file that goes with it is there."""
        if (self.folder / "best.ckpt").exists():
            self.best_score = state_dict["best_score"]


class RunState(Callback):
    """Ties the training to its run directory.

    One callback for all of it, because Lightning calls every callback six times a step.

    - Refuses to train when the processes of a run do not have the same config.
    - Writes the task's name and the config's hash into every checkpoint.
    - Keeps torch's random states in the checkpoint, so that dropout goes on where it was.
    - Keeps status.json up to date, and metrics.csv free of steps that a resume repeats.

    Args:
        run: The run directory.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.config_hash = run.config_hash()
        self.random_states: dict[str, torch.Tensor] | None = None
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
        checkpoint["unrolled"] = {"task": class_path(pl_module), "config_hash": self.config_hash}
        for logger in trainer.loggers:
            logger.save()

    def state_dict(self) -> dict[str, Any]:
        """The random states of the CPU and of this process's GPU."""
        states = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            states["cuda"] = torch.cuda.get_rng_state()
        return states

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep them until the first step: building the rest of the run draws numbers too."""
        self.random_states = state_dict

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Restore the random states; take back what was logged after the checkpoint."""
        if self.random_states is not None:
            torch.set_rng_state(self.random_states["cpu"].cpu())
            if "cuda" in self.random_states and torch.cuda.is_available():
                torch.cuda.set_rng_state(self.random_states["cuda"].cpu())
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV | WandbLogger):
                logger.forget_after(trainer.global_step)
        # The imported libraries are a million objects: searching them for garbage takes a quarter
        # of a second each time, as much as a hundred steps of a small model.
        gc.collect()
        gc.freeze()

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Let the garbage collector see everything again; note how far the run came."""
        gc.unfreeze()
        if trainer.is_global_zero:
            self.run.set_status(steps=trainer.global_step)

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


class Unprofiled(PassThroughProfiler):
    """No profile, at no cost: Lightning's own makes a context manager for each of 60 calls a step.

    With it and 4 more callbacks a step of a small model took 1.27 times the hand-written loop's.
    """

    _nothing = contextlib.nullcontext()

    def profile(self, action_name: str) -> Any:
        """The same empty context for every action."""
        return self._nothing
