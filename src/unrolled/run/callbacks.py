"""Callbacks of every run: checkpoints, and what ties the training to its run directory."""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.profilers import PassThroughProfiler
from pydantic import PositiveInt

from unrolled.errors import UserError
from unrolled.run.checkpoint import class_path
from unrolled.run.directory import RunDirectory, now
from unrolled.run.metrics_csv import MetricsCSV


class _Checkpoint(ModelCheckpoint):
    """One file that is replaced, `checkpoints/<name>.ckpt`, at the end of an epoch."""

    name: ClassVar[str]

    def __init__(self, run_dir: Path, monitor: str | None, mode: str, every_n_epochs: int) -> None:
        super().__init__(
            dirpath=run_dir / "checkpoints",
            filename=self.name,
            monitor=monitor,
            mode=mode,
            save_top_k=1,
            every_n_epochs=every_n_epochs,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    @property
    def state_key(self) -> str:
        """The same wherever the run directory lies: Lightning's own key holds the arguments."""
        return self.name

    @property
    def path(self) -> Path:
        """The file."""
        assert self.dirpath is not None
        return Path(self.dirpath) / f"{self.name}.ckpt"

    def state_dict(self) -> dict[str, Any]:
        """Only the value: the file lies in the run's own folder, wherever that is moved to."""
        score = self.best_model_score
        return {"score": None if score is None else score.detach().cpu()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the value, and the file that goes with it."""
        score = state_dict["score"]
        if self.path.exists():
            self.best_model_path = str(self.path)
            if score is not None:
                self.best_model_score = self.kth_value = score
                self.kth_best_model_path = str(self.path)
                self.best_k_models = {str(self.path): score}


class BestCheckpoint(_Checkpoint):
    """best.ckpt: the epoch with the best value of the metric that the task monitors.

    Args:
        run_dir: Its `checkpoints/` takes the file.
        monitor: The task's; None without validation: then the newest is the best.
        monitor_mode: Whether less or more of it is better; the task's.
        every_n_epochs: Epochs between two checks.
    """

    name = "best"

    def __init__(
        self,
        run_dir: Path,
        monitor: str | None,
        monitor_mode: Literal["min", "max"],
        every_n_epochs: PositiveInt = 1,
    ) -> None:
        super().__init__(run_dir, monitor, monitor_mode, every_n_epochs)


class LastCheckpoint(_Checkpoint):
    """last.ckpt: what a resumed run goes on from.

    Args:
        run_dir: Its `checkpoints/` takes the file.
        every_n_epochs: Epochs between two checkpoints.
    """

    name = "last"

    def __init__(self, run_dir: Path, every_n_epochs: PositiveInt = 1) -> None:
        super().__init__(run_dir, None, "min", every_n_epochs)


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
            if isinstance(logger, MetricsCSV):
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
        """Note when the first step was done."""
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
