"""What the framework costs: time per update against a loop written by hand.

    python benchmarks/overhead.py [--rounds 5] [--epochs 24] [--batch-size 1000 200]

Both train the bitcount model with the same optimizer, schedule, clipping and batches, in one
process, side by side: after each epoch of the framework the hand-written loop trains its own copy
for the same epoch. The framework runs as `python train.py task=bitcount` does, with its default
loggers (metrics.csv, W&B offline), callbacks and progress. Timed is each epoch from before its
first batch to after its last; validation and checkpoints, which the hand-written loop does not
have, are left out. The ratio is that of the two sums over all epochs of a round; the median round
counts. At the end both models must have the same weights, to the bit.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from unrolled.run.launch import environment

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
    # The memory allocator's settings of a run; they are read when a process starts.
    os.execve(sys.executable, [sys.executable, *sys.argv], environment({"devices": 1}))

import lightning
import torch
import wandb
from lightning.pytorch.callbacks import Callback

from unrolled.run.compose import compose
from unrolled.run.directory import RunDirectory
from unrolled.run.experiment import Experiment
from unrolled.run.overrides import read_command_line
from unrolled.run.trainer import build_trainer
from unrolled.run.training import build_experiment, quiet


class ByHand:
    """The loop that a practitioner would write."""

    def __init__(self, experiment: Experiment, run: RunDirectory) -> None:
        data, task = build_experiment(experiment)
        self.model = task.model
        self.optimizer = task.make_optimizer(self.model.parameters())
        self.scheduler = task.make_scheduler(self.optimizer)
        self.clip = experiment.trainer["gradient_clip_val"]
        self.loader = data.train_dataloader()

    def epoch(self) -> None:
        for batch in self.loader:
            loss = self.model.head.loss(self.model(batch), batch.targets).mean()
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
            self.scheduler.step()


class SideBySide(Callback):
    """Times the framework's epochs, and after each one by hand."""

    def __init__(self, by_hand: ByHand) -> None:
        self.by_hand = by_hand
        self.framework_seconds = self.hand_seconds = 0.0

    def on_train_epoch_start(self, *args: Any) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        if index + 1 == trainer.num_training_batches:
            self.framework_seconds += time.perf_counter() - self.start

    def on_train_epoch_end(self, *args: Any) -> None:
        start = time.perf_counter()
        self.by_hand.epoch()
        self.hand_seconds += time.perf_counter() - start


def one_round(config: dict[str, Any]) -> tuple[float, float]:
    """Seconds of all epochs: framework, by hand."""
    experiment = Experiment(**config)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(config, Path(folder) / "run", "benchmark")
        lightning.seed_everything(0, verbose=False)
        by_hand = ByHand(experiment, run)
        lightning.seed_everything(0, verbose=False)
        data, task = build_experiment(experiment)
        trainer = build_trainer(experiment, run, data, task)
        timer = SideBySide(by_hand)
        trainer.callbacks.append(timer)
        trainer.fit(task, datamodule=data)
        wandb.finish()
    for ours, theirs in zip(task.model.parameters(), by_hand.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), "the two do not compute the same"
    return timer.framework_seconds, timer.hand_seconds


def measure(batch_size: int, rounds: int, epochs: int) -> None:
    updates = epochs * (10_000 // batch_size)
    typed = ["task=bitcount", "trainer=cpu", f"data.batch_size={batch_size}"]
    config = compose(read_command_line([*typed, f"trainer.max_steps={updates}"])).config
    results = [one_round(config) for _ in range(rounds + 1)][1:]  # The first warms up.
    ratios = [ours / theirs for ours, theirs in results]
    hand_ms = 1000 * statistics.median(theirs for _, theirs in results) / updates
    print(
        f"batch {batch_size:>5}: framework / by hand {statistics.median(ratios):.3f} "
        f"(min {min(ratios):.3f}, max {max(ratios):.3f}, {rounds} rounds of {updates} updates); "
        f"by hand {hand_ms:.2f} ms; equal weights to the bit",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1000, 200])
    arguments = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    for batch_size in arguments.batch_size:
        measure(batch_size, arguments.rounds, arguments.epochs)


if __name__ == "__main__":
    main()
