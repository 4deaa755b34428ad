"""When a run saves where it is, and when it stops because it was asked to."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint
from pydantic import Field, PositiveInt

from unrolled.run.directory import BEST, LAST
from unrolled.run.interruption import Interrupted, interruption


class Checkpoints(Checkpoint):
    """best.ckpt, last.ckpt and the one before it, previous.ckpt.

    best.ckpt is saved after a validation with a better score than all before it. last.ckpt is saved
    between two optimizer steps or at the end of an epoch, from where the run goes on exactly;
    saving changes nothing in what comes after.

    Not two of Lightning's ModelCheckpoint: its `save_last` waits for a new best, its state holds
    the paths of one machine, each of them is asked at every step, and from what it saves before a
    validation Lightning goes on behind that validation.

    Args:
        run_dir: Its `checkpoints/` takes the files.
        monitor: The task's metric; None without validation: then there is no best.
        monitor_mode: Whether less or more of it is better; the task's.
        every_n_epochs: Epochs between two of last.ckpt; None saves by steps or minutes alone.
        every_n_steps: Optimizer steps between two, also within an epoch.
        every_n_minutes: Minutes after which the next step is followed by one.
        ask_every_n_steps: Steps after which several processes ask each other whether one of them
            is to save or to stop; with long steps it has to fit into the warning of a job.
    """

    def __init__(
        self,
        run_dir: Path,
        monitor: str | None,
        monitor_mode: Literal["min", "max"],
        every_n_epochs: PositiveInt | None = 1,
        every_n_steps: PositiveInt | None = None,
        every_n_minutes: Annotated[float, Field(gt=0)] | None = 10.0,
        ask_every_n_steps: PositiveInt = 10,
    ) -> None:
        self.folder = run_dir / "checkpoints"
        self.monitor = monitor
        self.mode = monitor_mode
        self.better = torch.lt if monitor_mode == "min" else torch.gt
        self.every_n_epochs = every_n_epochs
        self.every_n_steps = every_n_steps
        self.seconds = None if every_n_minutes is None else 60 * every_n_minutes
        self.ask_every_n_steps = ask_every_n_steps
        self.best_score: torch.Tensor | None = None
        self._saved_step = -1
        self._saved_at = time.monotonic()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """What was resumed is saved."""
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save what is due after the step before; stop when that was asked for.

        Here and not at the end of that step, when its validation and logging are still to come.

        Raises:
            Interrupted: After saving.
        """
        # Half of an accumulated gradient is in no checkpoint.
        if batch_idx % trainer.accumulate_grad_batches:
            return
        step = trainer.global_step
        wanted = self._wanted(trainer, step)
        stop = wanted == 2
        if step != self._saved_step and (
            wanted or (self.every_n_steps is not None and step % self.every_n_steps == 0)
        ):
            self._save_last(trainer)
        if stop:
            raise Interrupted(interruption.received or "another process")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Save the best."""
        if _saves(trainer) and self._improved(trainer):
            trainer.save_checkpoint(self.folder / BEST, weights_only=False)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Save what is due, and the end of the training in any case; stop when asked to.

        Raises:
            Interrupted: After saving.
        """
        if not _saves(trainer):
            return
        stop = self._agreed(trainer, 2 if interruption.received else 0) == 2
        due = self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if due or stop or _is_over(trainer):
            self._save_last(trainer)
        if stop:
            raise Interrupted(interruption.received or "another process")

    def _wanted(self, trainer: lightning.Trainer, step: int) -> int:
        """2 to save and stop, 1 to save; 0."""
        if trainer.world_size > 1 and step % self.ask_every_n_steps:
            return 0
        late = self.seconds is not None and time.monotonic() - self._saved_at > self.seconds
        return self._agreed(trainer, 2 if interruption.received else int(late))

    @staticmethod
    def _agreed(trainer: lightning.Trainer, wanted: int) -> int:
        if trainer.world_size == 1:
            return wanted
        mine = torch.tensor(wanted, device=trainer.strategy.root_device)
        return int(cast(torch.Tensor, trainer.strategy.reduce(mine, reduce_op="max")))

    def _save_last(self, trainer: lightning.Trainer) -> None:
        trainer.save_checkpoint(self.folder / LAST, weights_only=False)
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()

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
        if (self.folder / BEST).exists():
            self.best_score = state_dict["best_score"]


def _saves(trainer: lightning.Trainer) -> bool:
    return not trainer.fast_dev_run  # type: ignore[attr-defined]  # Set by a connector.


def _is_over(trainer: lightning.Trainer) -> bool:
    """Whether the epoch that ends is the last."""
    steps = 0 < trainer.max_steps <= trainer.global_step
    epochs = 0 < (trainer.max_epochs or -1) <= trainer.current_epoch + 1
    return steps or epochs or trainer.should_stop
