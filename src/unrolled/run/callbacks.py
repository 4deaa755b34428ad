"""Callbacks of every run: checkpoints, progress, one config on all ranks, random states."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from lightning.pytorch.utilities import rank_zero_only
from pydantic import PositiveInt

from unrolled.errors import UserError
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


class SameConfig(Callback):
    """Refuse to train when the processes of a run do not have the same config."""

    def __init__(self, run: RunDirectory) -> None:
        self.hash = run.config_hash()

    def setup(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        """Compare with the first process."""
        first = trainer.strategy.broadcast(self.hash)
        if first != self.hash:
            raise UserError(
                f"process {trainer.global_rank} has another config than process 0 "
                f"({self.hash[:12]} and {first[:12]})"
            )


class RandomStates(Callback):
    """Keep torch's random states in the checkpoint, so that dropout goes on where it was."""

    def state_dict(self) -> dict[str, Any]:
        """The states of the CPU and of this process's GPU."""
        state = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self.restored = state_dict

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Restore as the last thing before the first step: building the run draws numbers too."""
        state = getattr(self, "restored", None)
        if state is not None:
            torch.set_rng_state(state["cpu"].cpu())
            if "cuda" in state and torch.cuda.is_available():
                torch.cuda.set_rng_state(state["cuda"].cpu())


class RunStatus(Callback):
    """Keeps status.json up to date, and metrics.csv free of steps that a resume repeats."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.first_step = False

    @rank_zero_only
    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Take back what was logged after the checkpoint that the run goes on from."""
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV) and trainer.global_step:
                logger.forget_after(trainer.global_step)

    @rank_zero_only
    def on_save_checkpoint(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Write what was logged up to here: a run that goes on from here logs only the rest."""
        for logger in trainer.loggers:
            logger.save()

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Note when the first step was done."""
        if not self.first_step:
            self.first_step = True
            if trainer.is_global_zero:
                self.run.set_status(first_step=now())

    @rank_zero_only
    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Note how far the run is, and write what was logged."""
        for logger in trainer.loggers:
            logger.save()


class PlainProgress(Callback):
    """A line now and then, where the output is no terminal.

    Args:
        metric: The validation metric to show.
        seconds_between: Least time between two lines.
    """

    def __init__(self, metric: str, seconds_between: float) -> None:
        self.metric = metric
        self.seconds_between = seconds_between
        self.last = -float("inf")

    @rank_zero_only
    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Print where the run is."""
        self._line(trainer, force=False)

    @rank_zero_only
    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Print where the run ended."""
        self._line(trainer, force=True)

    def _line(self, trainer: lightning.Trainer, *, force: bool) -> None:
        if not force and time.monotonic() - self.last < self.seconds_between:
            return
        self.last = time.monotonic()
        values = trainer.callback_metrics
        shown = [f"{n} {float(values[n]):.4g}" for n in ("train/loss", self.metric) if n in values]
        steps = trainer.global_step
        of = f"/{trainer.max_steps}" if trainer.max_steps > 0 else ""
        print(
            f"step {steps}{of}  epoch {trainer.current_epoch + 1}  {'  '.join(shown)}", flush=True
        )


def progress(
    main_metric: str, refresh_every_n_steps: PositiveInt = 25, seconds_between: float = 5.0
) -> Callback:
    """Lightning's Rich bar in a terminal, plain lines elsewhere.

    Args:
        main_metric: The task's.
        refresh_every_n_steps: Of the bar: drawing it costs as much as a small model's step.
        seconds_between: Of the plain lines.
    """
    if not sys.stdout.isatty():
        return PlainProgress(f"val/{main_metric}", seconds_between)
    return RichProgressBar(
        refresh_rate=refresh_every_n_steps,
        theme=RichProgressBarTheme(metrics_format=".4g"),
    )
