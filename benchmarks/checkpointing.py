"""What checkpoints by minutes cost: time per update with them against without.

    python benchmarks/checkpointing.py [--rounds 3] [--epochs 400] [--seconds 3]

One run of `task=bitcount`, in which every second epoch saves last.ckpt by the clock and the others
do not. A checkpoint every three seconds is 200 times as many as the default of one in ten minutes.
The ratio is that of the sums of the epochs' times, from before the first batch to after the last,
saving included; the median round counts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import lightning
import torch
from lightning.pytorch.callbacks import Callback

from unrolled.run.checkpoints import Checkpoints
from unrolled.run.compose import compose
from unrolled.run.directory import RunDirectory
from unrolled.run.experiment import Experiment
from unrolled.run.overrides import read_command_line
from unrolled.run.trainer import build_trainer
from unrolled.run.training import build_experiment, quiet


class EverySecondEpoch(Callback):
    """Turns saving by the clock on and off, and times both."""

    def __init__(self, checkpoints: Checkpoints, seconds: float) -> None:
        self.checkpoints = checkpoints
        self.interval = seconds
        self.seconds = {True: 0.0, False: 0.0}
        self.saved = 0

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: Any) -> None:
        self.on = trainer.current_epoch % 2 == 1
        self.checkpoints.seconds = self.interval if self.on else None
        self.start = time.perf_counter()

    def on_save_checkpoint(self, *args: Any) -> None:
        self.saved += 1

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        if index + 1 == trainer.num_training_batches:
            self.seconds[self.on] += time.perf_counter() - self.start


def one_round(epochs: int, seconds: float) -> tuple[float, int]:
    """The ratio on / off, and how many checkpoints were saved."""
    typed = ["task=bitcount", "trainer=cpu", "data.batch_size=200", "scheduler=constant",
             f"trainer.max_epochs={epochs}", "trainer.max_steps=-1", "trainer.limit_val_batches=0",
             "callbacks.checkpoints.every_n_epochs=null", "logger=none", "test=false"]  # fmt: skip
    config = compose(read_command_line(typed)).config
    experiment = Experiment(**config)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(config, Path(folder) / "run", "benchmark")
        data, task = build_experiment(experiment)
        trainer = build_trainer(experiment, run, data, task)
        checkpoints = next(c for c in trainer.callbacks if isinstance(c, Checkpoints))
        timer = EverySecondEpoch(checkpoints, seconds)
        trainer.callbacks.insert(0, timer)
        trainer.fit(task, datamodule=data)
        assert (run.checkpoints / "last.ckpt").is_file()
    return timer.seconds[True] / timer.seconds[False], timer.saved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    rounds = [one_round(arguments.epochs, arguments.seconds) for _ in range(arguments.rounds)]
    ratios = [ratio for ratio, _ in rounds]
    print(
        f"on / off {statistics.median(ratios):.4f} (min {min(ratios):.4f}, max {max(ratios):.4f}; "
        f"{rounds[0][1]} checkpoints in the first round)"
    )


if __name__ == "__main__":
    main()
