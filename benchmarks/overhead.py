"""What the framework costs: time per update against a loop written by hand.

    python benchmarks/overhead.py [--rounds 7] [--updates 400] [--batch-size 1000 200]

Both train the bitcount model with the same optimizer, schedule, clipping and batches, in this
process, in turn. The framework runs as `python train.py task=bitcount` does, with its default
loggers (metrics.csv, W&B offline), callbacks and progress; timed are its training epochs from the
first batch to the last. Validation and checkpoints, which the hand-written loop does not have, are
left out. The ratio is taken within each round, framework over loop; the median counts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from unrolled.run.compose import compose
from unrolled.run.directory import RunDirectory
from unrolled.run.experiment import Experiment
from unrolled.run.overrides import read_command_line
from unrolled.run.training import build_experiment, build_trainer, quiet


class TrainingTime(Callback):
    """Sums the time from each epoch's first batch to its last."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on_train_epoch_start(self, *args: object) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: object, outputs: object, batch: object, index: int
    ) -> None:
        if index + 1 == trainer.num_training_batches or trainer.global_step == trainer.max_steps:
            self.seconds += time.perf_counter() - self.start


def framework(experiment: Experiment, run: RunDirectory, updates: int) -> tuple[float, float]:
    """Seconds per update, and the last training loss."""
    data, task = build_experiment(experiment, run)
    trainer = build_trainer(experiment, run, data, task)
    timer = TrainingTime()
    trainer.callbacks.append(timer)
    trainer.fit(task, datamodule=data)
    return timer.seconds / updates, sum(float(p.detach().double().sum()) for p in task.parameters())


def by_hand(experiment: Experiment, run: RunDirectory, updates: int) -> tuple[float, float]:
    """Seconds per update of the loop that a practitioner would write, and its weights' sum."""
    data, task = build_experiment(experiment, run)
    model = task.model
    optimizer = task.make_optimizer(model.parameters())
    scheduler = task.make_scheduler(optimizer)
    clip = experiment.trainer["gradient_clip_val"]
    loader = data.train_dataloader()
    done, seconds = 0, 0.0
    model.train()
    while done < updates:
        start = time.perf_counter()
        for batch in loader:
            loss = model.head.loss(model(batch), batch.targets).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            scheduler.step()
            done += 1
            if done == updates:
                break
        seconds += time.perf_counter() - start
    return seconds / updates, sum(float(p.detach().double().sum()) for p in model.parameters())


def measure(batch_size: int, rounds: int, updates: int) -> None:
    line = read_command_line(
        ["task=bitcount", "trainer=cpu", f"data.batch_size={batch_size}",
         f"trainer.max_steps={updates}"]
    )  # fmt: skip
    config = compose(line).config
    experiment = Experiment(**config)
    ratios, hand_ms = [], []
    for index in range(rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            run = RunDirectory.create(config, Path(folder) / "run", "benchmark")
            lightning.seed_everything(0, verbose=False)
            ours, our_sum = framework(experiment, run, updates)
            lightning.seed_everything(0, verbose=False)
            theirs, their_sum = by_hand(experiment, run, updates)
            import wandb

            wandb.finish()
        assert our_sum == their_sum, "the two do not compute the same"
        if index:  # The first round warms up.
            ratios.append(ours / theirs)
            hand_ms.append(1000 * theirs)
    print(
        f"batch {batch_size:>5}: framework / by hand {statistics.median(ratios):.3f} "
        f"(min {min(ratios):.3f}, max {max(ratios):.3f}, {rounds} rounds of {updates} updates); "
        f"by hand {statistics.median(hand_ms):.2f} ms; equal weights after the last update",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1000, 200])
    arguments = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    for batch_size in arguments.batch_size:
        measure(batch_size, arguments.rounds, arguments.updates)


if __name__ == "__main__":
    main()
