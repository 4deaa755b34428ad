"""How far a run is: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from lightning.pytorch.utilities import rank_zero_only
from pydantic import PositiveInt
from rich.progress import Progress

from unrolled.tasks.schedule import last_step
from unrolled.terminal import Terminal, say


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
        self.last_step = -1
        self.began = -float("inf")

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Only a validation that itself is long has lines of its own."""
        self.began = time.monotonic()

    def on_test_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Only a test that itself is long has lines of its own."""
        self.began = time.monotonic()

    @rank_zero_only
    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Print where the run is."""
        self._line(trainer, force=False)

    @rank_zero_only
    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Print where the run ended, unless the last line has said so."""
        if trainer.global_step != self.last_step:
            self._line(trainer, force=True)

    def _line(self, trainer: lightning.Trainer, *, force: bool) -> None:
        if not force and time.monotonic() - self.last < self.seconds_between:
            return
        self.last = time.monotonic()
        values = trainer.callback_metrics
        shown = [f"{n} {float(values[n]):.4g}" for n in ("train/loss", self.metric) if n in values]
        steps = self.last_step = trainer.global_step
        of = f"/{last}" if (last := last_step(trainer)) > 0 else ""
        # Not `current_epoch`, which at the end of training is one further than before it.
        epoch = trainer.fit_loop.epoch_progress.current.ready
        say(f"step {steps}{of}  epoch {epoch}  {'  '.join(shown)}")

    @rank_zero_only
    def on_validation_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Print how far a long validation is."""
        done = _batches(trainer.num_val_batches, *args)
        self.tell(f"step {trainer.global_step}: validation, batch", *done)

    @rank_zero_only
    def on_test_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Print how far a long test is."""
        self.tell("test, batch", *_batches(trainer.num_test_batches, *args))

    @rank_zero_only
    def tell(self, name: str, done: int, total: int) -> None:
        """Print how far something is, unless it began or a line was printed just now."""
        quiet_since = max(self.last, self.began)
        if done < total and time.monotonic() - quiet_since >= self.seconds_between:
            self.last = time.monotonic()
            say(f"{name} {done:,} of {total:,}")


def _batches(
    counts: Sequence[int | float],
    pl_module: Any,
    outputs: Any,
    batch: Any,
    batch_idx: int,
    dataloader_idx: int = 0,
) -> tuple[int, int]:
    """Number of batches done and of all, over all loaders; `counts` has those of each loader.

    The other arguments are those of Lightning's hooks.
    """
    batches = list(map(int, counts))
    return sum(batches[:dataloader_idx]) + batch_idx + 1, sum(batches)


class Bar(RichProgressBar):
    """Lightning's Rich bar, which says how many steps there are and does not draw too often.

    Args:
        refresh_every_n_steps: How often the bar takes up the position and the metrics.
    """

    SECONDS_BETWEEN_DRAWINGS = 0.1
    """A drawing takes some milliseconds: with short epochs, half of the time of a small model."""

    def __init__(self, refresh_every_n_steps: int) -> None:
        super().__init__(refresh_every_n_steps, theme=RichProgressBarTheme(metrics_format=".4g"))
        self._drawn = -float("inf")
        self._other: Progress | None = None

    def refresh(self, hard: bool = False) -> None:
        """Draw, unless that was done just now."""
        if time.monotonic() - self._drawn >= self.SECONDS_BETWEEN_DRAWINGS:
            super().refresh(hard)
            self._drawn = time.monotonic()

    @rank_zero_only
    def tell(self, name: str, done: int, total: int) -> None:
        """Draw how far something beside training, validation and test is; wipe it at its end."""
        if self._other is None:
            self._other = Progress(console=Terminal(), transient=True)
            self._other.start()
            self._task = self._other.add_task(name)
        self._other.update(self._task, description=name, completed=done, total=total)
        if done >= total:
            self._other.stop()
            self._other = None

    def _get_train_description(self, current_epoch: int) -> str:
        trainer = self.trainer
        of = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        steps = f", step {trainer.global_step}"
        steps += f"/{last}" if (last := last_step(trainer)) > 0 else ""
        return f"Epoch {current_epoch + 1}{of}{steps}"


def progress(
    main_metric: str, refresh_every_n_steps: PositiveInt = 10, seconds_between: float = 5.0
) -> Callback:
    """Lightning's Rich bar in a terminal, plain lines elsewhere.

    Args:
        main_metric: The task's.
        refresh_every_n_steps: Of the bar.
        seconds_between: Of the plain lines.
    """
    if not sys.stdout.isatty():
        return PlainProgress(f"val/{main_metric}", seconds_between)
    return Bar(refresh_every_n_steps)
