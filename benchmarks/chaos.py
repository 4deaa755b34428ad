"""Kill training processes at random steps, resume, and compare with runs that were never stopped.

    python benchmarks/chaos.py [--kills 100] [--seed 0]

Each run is that of a user: `unrolled.run.work` on a run directory, in processes of its own, ended
by SIGKILL, or asked to stop as by a terminal that is closed (SIGHUP). They are forked from one
process that has imported torch already, which saves the seconds of start-up. A run is killed at
random places (before or after an optimizer step, while a checkpoint is written, in a validation),
resumed, killed again, until it is through. Then last.ckpt,
best.ckpt, metrics.csv and metrics.json must be those of the run that was never stopped, to the bit.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from forked import Kill, create, num_processes, work_on

from unrolled.run.directory import RunDirectory
from unrolled.run.interruption import EXIT_CODE
from unrolled.run.overrides import read_command_line
from unrolled.run.resume import resume

FREQUENT = ["callbacks.checkpoints.every_n_steps=3", "logger=none", "trainer=cpu",
            "trainer.log_every_n_steps=5"]  # fmt: skip
BITCOUNT = [*FREQUENT, "task=bitcount", "data.length=8", "data.train_size=200", "data.val_size=40",
            "data.batch_size=20", "trainer.max_epochs=3", "trainer.max_steps=-1",
            "scheduler=constant"]  # fmt: skip
SHOP = [*FREQUENT, "task=purchase_intent", "data.source.sessions=400", "data.batch_size=32",
        "model.hidden_size=8", "embedding.dropout=0.2", "trainer.max_epochs=2",
        "trainer.max_steps=-1", "scheduler=constant"]  # fmt: skip
BUCKETED = ["data.batching=bucketed", "data.events_per_batch=256"]
BY_STEPS = ["trainer.max_epochs=-1", "trainer.max_steps=25", "scheduler=one_cycle",
            "scheduler.total_steps=25"]  # fmt: skip
STREAM = ["data.batching=stream", "data.bptt=8"]
# Three streams for two processes: their carried states differ in size.
TEXT = [*FREQUENT, "task=next_word", "data.source.train_symbols=900",
        "data.source.eval_symbols=300", "data.batch_size=3", "model.hidden_size=8",
        "trainer.max_epochs=2", "trainer.max_steps=-1", "scheduler=constant"]  # fmt: skip
BY_BATCHES = ["trainer.check_val_every_n_epoch=null", "trainer.val_check_interval=7",
              "trainer.max_epochs=2"]  # fmt: skip
EMA = ["callbacks=[default,ema]", "callbacks.ema.decay=0.9", "trainer.precision=bf16-mixed",
       "trainer.gradient_clip_val=0.1"]  # fmt: skip
EARLY = ["callbacks.early._target_=lightning.pytorch.callbacks.EarlyStopping",
         "callbacks.early.monitor=val/loss", "callbacks.early.patience=1",
         "callbacks.early.min_delta=0.1", "trainer.max_epochs=9"]  # fmt: skip
TWO = ["trainer.devices=2", "trainer.strategy=ddp"]

RUNS = {
    "random": [*BITCOUNT, "trainer.val_check_interval=0.5"],
    "random, accumulated": [*BITCOUNT, "trainer.accumulate_grad_batches=3", "data.workers=2"],
    "random, steps": [*BITCOUNT, *BY_STEPS],
    "bucketed, dropout": [*SHOP, *BUCKETED],
    "packed, dropout": [*SHOP, "data.batching=packed"],
    "stream, workers": [*SHOP, *STREAM, "data.workers=2"],
    "validated by batches": [*BITCOUNT, *BY_BATCHES],
    "stopped early, EMA": [
        *SHOP,
        *EMA,
        *EARLY,
        "trainer.limit_train_batches=8",
        "data.hpo_val=0.4",
        "test=false",
    ],
    "text, 2 ranks": [*TEXT, *TWO],
    "stream, 2 ranks": [*SHOP, *TWO, *STREAM, "data.hpo_val=0.4"],
    "bucketed, 2 ranks": [*SHOP, *TWO, *BUCKETED, "trainer.accumulate_grad_batches=2"],
}
"""What is run, by name."""


def outcome(run: RunDirectory) -> dict[str, Any]:
    """All of a run that must not depend on whether it was stopped."""
    metrics = run.read_json("metrics.json")
    del metrics["seconds"]
    files = {
        path.stem: torch.load(path, weights_only=True)
        for path in (run.checkpoints / "last.ckpt", run.checkpoints / "best.ckpt")
        if path.exists()
    }
    for file in files.values():
        # How often the loops of validation and test began is no state of the training.
        loops = file["loops"]["fit_loop"]
        file["loops"] = {name: loops[name] for name in loops if "val_loop" not in name}
    return {**files, "metrics.csv": (run.path / "metrics.csv").read_text(), "metrics.json": metrics}


def differences(a: Any, b: Any, key: str = "") -> list[str]:
    """Where two outcomes differ."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [d for k in a for d in differences(a[k], b[k], f"{key}/{k}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in
                differences(x, y, f"{key}/{i}")]  # fmt: skip
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
        return [] if same else [key]
    # NaN is the same as NaN.
    return [] if type(a) is type(b) and (a == b or (a != a and b != b)) else [key]


def random_kill(draw: random.Random, ranks: int) -> tuple[Kill, int]:
    """Somewhere in the next third of a run, and by which signal.

    All processes of a run are asked to stop, not one; where they do not ask each other at that
    place, one of several is only killed.
    """
    place = draw.choice(
        ["before a step"] * 4 + ["after a step"] * 2
        + ["in a validation", "while a checkpoint is written", "in the test", "after the test"]
    )  # fmt: skip
    most = {"before a step": 12, "after a step": 12, "while a checkpoint is written": 6,
            "in a validation": 3}  # fmt: skip
    kill = Kill(place, draw.randint(1, most.get(place, 1)), draw.randrange(ranks))
    asks = ranks == 1 or place.endswith("a step")
    return kill, signal.SIGHUP if asks and draw.random() < 0.5 else signal.SIGKILL


def survive(run: RunDirectory, draw: random.Random, most: int) -> Counter[int]:
    """Kill a run up to `most` times and resume it after each until it is through.

    Returns:
        How often it was killed by each signal.
    """
    kills, path, ranks = Counter[int](), run.path, num_processes(run.config()["trainer"])
    assert isinstance(ranks, int)
    while True:
        kill, number = random_kill(draw, ranks) if kills.total() < most else (None, signal.SIGKILL)
        codes = work_on(run, kill, number)
        if codes == [0] * ranks:
            return kills
        killed = -signal.SIGKILL in codes if number == signal.SIGKILL else (
            codes == [EXIT_CODE] * ranks and run.status()["state"] == "interrupted"
        )  # fmt: skip
        assert killed, f"{path}: {codes}, see {path}/output.txt"
        kills[number] += 1
        run = resume(path, None, read_command_line([f"resume={path}"]))


def _folder(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


def main(kills: int, seed: int) -> int:
    """Kill until there were enough; 1 where a run differed."""
    draw = random.Random(seed)
    done, mismatches, rounds = Counter[int](), 0, 0
    with tempfile.TemporaryDirectory() as place:
        os.environ.setdefault("UNROLLED_STORES", f"{place}/stores")
        whole = {}
        for name, typed in RUNS.items():
            run = create(typed, Path(place) / f"whole-{_folder(name)}")
            codes = work_on(run)
            assert not any(codes), f"{name}: {codes}: {(run.path / 'output.txt').read_text()}"
            whole[name] = outcome(run)
        while done.total() < kills:
            rounds += 1
            for name, typed in RUNS.items():
                folder = Path(place) / f"{rounds}-{_folder(name)}"
                run = create(typed, folder)
                killed = survive(run, draw, min(6, kills - done.total()))
                wrong = differences(whole[name], outcome(run))
                done, mismatches = done + killed, mismatches + bool(wrong)
                told = " ".join(f"{signal.Signals(n).name} {killed[n]}" for n in sorted(killed))
                print(f"{name:24} {told or 'no kill'}  {wrong[:4] or 'equal'}", flush=True)
                if done.total() >= kills:
                    break
    print(
        f"{done.total()} kills ({done[signal.SIGHUP]} by SIGHUP), {done.total()} resumes, "
        f"{mismatches} mismatches"
    )
    return int(mismatches > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.exit(main(arguments.kills, arguments.seed))
