"""Next item on YOOCHOOSE 1/64: training speed, where its time goes, and the cost of ranking.

    UNROLLED_DATA=... python benchmarks/next_item.py [--steps 150] [--train] [overrides ...]
    python benchmarks/next_item.py --catalogues [--steps 150] [overrides ...]

`--catalogues` compares generated logs of 10,000 and of a million items, 2 million events each: the
speed, and the memory of the process that trains, at its end and at most. With a million items
GRU4Rec's code makes 8,000 events per CPU-second (9,600 with 10,000) and takes 2.3 GB.

Speed is events (clicks that have a next one) per CPU-second of `Trainer.fit` with one thread, after
20 steps of warming up, of the command `task=next_item experiment=next_item_yoochoose64` with the
overrides that are given. The share of matrix products is torch.profiler's own CPU time of products
and of oneDNN's recurrent layers in the time of the steps. GRU4Rec's PyTorch code makes 4,900 to
6,800 events per CPU-second on a machine like the one this was written on, with 100 units and 2,048
samples. `--train` trains to the end and prints the test metrics as well.

Ranking is that of 100,000 targets among 50,000 items, vectors of 100 channels, against the matrix
product alone, in the same chunks, by the faster of the two libraries that torch has.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
import lightning
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.profiler import ProfilerActivity, profile

from unrolled.metrics.ranking import CHUNK_BYTES, rank_in_chunks
from unrolled.models.product import affine
from unrolled.run.compose import compose
from unrolled.run.directory import RunDirectory
from unrolled.run.experiment import Experiment
from unrolled.run.launch import launch
from unrolled.run.overrides import read_command_line
from unrolled.run.training import quiet
from unrolled.run.work import FINISHED

# As `unrolled train` sets them for the processes that train; they are read when a process starts.
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**30)}
GRU4REC = 5_500
"""Events per CPU-second."""
WARM_UP = 20
PRODUCTS = ("mm", "addmm", "bmm", "_linear_pointwise", "mkldnn_rnn_layer", "linear_backward")


class Clock(lightning.Callback):
    """CPU seconds and events of the steps after the warm-up."""

    def __init__(self) -> None:
        self.events = 0
        self.began = self.seconds = 0.0

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx) -> None:
        if trainer.global_step > WARM_UP:
            self.events += int(batch.lengths.sum())
            self.seconds = time.process_time() - self.began
        else:
            self.began = time.process_time()


def fit(config: dict, steps: int, *callbacks: lightning.Callback) -> None:
    """Train some steps by Lightning, as a run does, without its files."""
    experiment = Experiment(**config)
    lightning.seed_everything(experiment.seed, verbose=False)
    data = experiment.build_data()
    task = experiment.build_task(data)
    lightning.Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        callbacks=list(callbacks), gradient_clip_val=config["trainer"].get("gradient_clip_val"),
    ).fit(task, datamodule=data)  # fmt: skip


def write_log(path: Path, items: int, events: int = 2_000_000, length: int = 5) -> None:
    """Sessions of equal length; each item at least once, the rest by a power law."""
    draw = np.random.default_rng(0)
    law = np.arange(1, items + 1) ** -0.8
    more = draw.choice(items, events - items, p=law / law.sum())
    clicked = np.concatenate([np.arange(items), more])
    draw.shuffle(clicked)
    session = np.arange(events // length).repeat(length)
    columns = {"session": session, "time": np.arange(events), "item": clicked[: len(session)]}
    pq.write_table(pa.table(columns), path)


def catalogues(steps: int, overrides: list[str]) -> None:
    """Speed and memory by the number of items, each in a process of its own."""
    print("    items   events per CPU-second   MB at the end   MB at most")
    for items in (10_000, 1_000_000):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "log.parquet"
            write_log(path, items)
            config = compose(
                read_command_line(
                    ["task=next_item", "model=lstm", "data=events", "trainer=cpu",
                     f"data.source.path={path}", "data.source.sequence=session",
                     "data.source.time=time", "data.source.item=item", "data.source.gap=false",
                     f"data.store_dir={folder}/stores", *overrides]
                )
            ).config  # fmt: skip
            # The preparation's memory is not that of the process that trains.
            for measures in (False, True):
                worker = multiprocessing.get_context("spawn").Process(
                    target=one_catalogue, args=(config, steps, items, measures)
                )
                worker.start()
                worker.join()
                if worker.exitcode:
                    raise SystemExit(worker.exitcode)


def one_catalogue(config: dict, steps: int, items: int, measures: bool) -> None:
    """Prepare the log; or train, and print a line of the table."""
    torch.set_num_threads(1)
    quiet()
    if not measures:
        Experiment(**config).build_data().setup()
        return
    clock = Clock()
    fit(config, WARM_UP + steps, clock)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    end = pages * resource.getpagesize() / 1e6
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(
        f"{items:9,} {clock.events / clock.seconds:23,.0f} {end:15,.0f} {most:12,.0f}", flush=True
    )


class Profile(lightning.Callback):
    """Where the CPU time of the steps after the warm-up goes."""

    def __init__(self) -> None:
        self.profiler = profile(activities=[ProfilerActivity.CPU])

    def on_train_batch_start(self, trainer, task, batch, batch_idx) -> None:
        if trainer.global_step == WARM_UP:
            self.profiler.start()

    def on_train_end(self, trainer, task) -> None:
        self.profiler.stop()


def training(config: dict, steps: int) -> None:
    clock = Clock()
    fit(config, WARM_UP + steps, clock)
    speed = clock.events / clock.seconds
    print(f"training   {speed:9,.0f} events per CPU-second, {speed / GRU4REC:.1f} x GRU4Rec's")
    profiled = Profile()
    fit(config, WARM_UP + 20, profiled)
    averages = sorted(
        profiled.profiler.key_averages(), key=lambda a: a.self_cpu_time_total, reverse=True
    )
    total = sum(a.self_cpu_time_total for a in averages)
    products = sum(
        a.self_cpu_time_total
        for a in averages
        if a.key.rpartition("::")[2].removesuffix("_backward") in PRODUCTS
    )
    print(f"           {products / total:9.1%} of its time are matrix products and torch's GRU")
    for a in averages[:10]:
        print(f"           {a.self_cpu_time_total / total:9.1%} {a.key}")


def train(config: dict) -> None:
    """A whole run, with its test."""
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(config, Path(folder) / "run", "benchmark")
        before = sum(os.times()[2:4])
        if launch(run) != FINISHED:
            raise SystemExit(run.status()["error"])
        cpu = sum(os.times()[2:4]) - before
        result = run.read_json("metrics.json")
    print(f"whole run  {cpu:9,.0f} CPU seconds with start-up, validation, test and references")
    for name, score in result["metrics"].items():
        others = "".join(
            f"  {reference} {found.get(name, float('nan')):.4f}"
            for reference, found in result["references"].items()
        )
        print(f"  {name:32} {score['value']:.4f}{others}")


def ranking(queries: int = 100_000, items: int = 50_000, size: int = 100) -> None:
    torch.manual_seed(0)
    x, vectors = torch.randn(queries, size), torch.randn(items, size)
    targets = torch.randint(items, (queries,))
    rows = CHUNK_BYTES // (4 * items)

    def seconds(run: Callable[[], object]) -> float:
        began = time.process_time()
        run()
        return time.process_time() - began

    def score(some: torch.Tensor) -> torch.Tensor:
        return affine(some, vectors)

    def product(some: torch.Tensor) -> None:
        for part in some.split(rows):
            score(part)

    def plain_product(some: torch.Tensor) -> None:
        for part in some.split(rows):
            part @ vectors.T

    with torch.inference_mode():
        rank_in_chunks(x[:1000], score, targets[:1000], items)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        alone, ranks, top = [], [], []
        # One after the other, so that what else runs on the machine meets all of them.
        for part in range(0, queries, 20_000):
            some, wanted = x[part : part + 20_000], targets[part : part + 20_000]
            alone.append(seconds(lambda s=some: product(s)))
            ranks.append(seconds(lambda s=some, w=wanted: rank_in_chunks(s, score, w, items)))
            top.append(seconds(lambda s=some, w=wanted: rank_in_chunks(s, score, w, items, 20)))
        plain = seconds(lambda: plain_product(x[:20_000])) * queries / 20_000
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    base = sum(alone)
    print(f"ranking    {queries:,} x {items:,}: the product alone {base:.1f} CPU seconds")
    print(f"           {sum(ranks) / base:9.2f} x with ranks")
    print(f"           {sum(top) / base:9.2f} x with ranks and the best 20 items")
    print(f"           {plain / base:9.2f} x torch's own product without ranks")
    print(f"           {grown / 1024:9.1f} MiB more memory than 1,000 queries need")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--catalogues", action="store_true")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    if not ALLOCATOR.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ALLOCATOR})
    torch.set_num_threads(1)
    quiet()
    if arguments.catalogues:
        catalogues(arguments.steps, arguments.overrides)
        return
    command = ["task=next_item", "experiment=next_item_yoochoose64", "trainer=cpu"]
    config = compose(read_command_line([*command, *arguments.overrides])).config
    ranking()
    training(config, arguments.steps)
    if arguments.train:
        train({**config, "logger": {}})


if __name__ == "__main__":
    main()
