"""Preparation against the usual pandas code: the same log, the same result, the ratio of the times.

    python benchmarks/prepare.py                                     5 million events, both
    python benchmarks/prepare.py --events 50000000 --memory 2GB      preparation alone, in a process
                                                                     that may not have more
    python benchmarks/prepare.py --events 50000000 --memory 2GB --train 300
                                                                     and so many steps of
                                                                     task=next_item on its store

The log is generated: users with sessions, items of a power law. It is cut into 30-minute sessions;
sessions of one event, items of fewer than five and items that training has not are left out; the
last tenth is for the test and the one before for validation. `--memory` sets RLIMIT_DATA, which
counts all that a process allocates, used or not, but not the code of its libraries nor files that
are mapped for reading; the largest resident size, which counts those too, is printed. Of the run
that trains on the store, without a limit, it is printed too, with what of it is the process's own
memory and what are pages of files (the store, mapped, and libraries), which the system takes back
when others need them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DESCRIPTION = {
    "user": "user", "session_gap": 30, "time": "time", "item": "item",
    "min_length": 2, "min_support": 5, "training_items_only": True,
}  # fmt: skip


def generate(path: Path, events: int, seed: int = 0) -> None:
    """Write a log in pieces of a million events, in the order of their time, more or less."""
    rng = np.random.default_rng(seed)
    users = max(events // 25, 1)
    shares = np.cumsum(1 / np.arange(1, 50_001))
    schema = pa.schema({"user": pa.int64(), "time": pa.timestamp("ms"), "item": pa.int64()})
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, events, 1_000_000):
            count = min(1_000_000, events - start)
            user = rng.integers(0, users, count)
            # Each user comes six times a month, at times that depend on the user alone.
            visit = (user * 2_654_435_761 + rng.integers(0, 6, count) * 40_503_307) % (30 * 86_400)
            time_ms = (1_700_000_000 + visit) * 1000 + rng.integers(0, 1_200_000, count)
            item = np.searchsorted(shares / shares[-1], rng.random(count)) * 7919 + 13
            columns = [user, pa.array(time_ms, pa.timestamp("ms")), item]
            writer.write_table(pa.table(columns, schema=schema))


def with_unrolled(path: Path, stores: Path) -> Path:
    """The store."""
    from unrolled.data.log import EventLog
    from unrolled.data.prepare import prepare

    return prepare(EventLog(path=path, **DESCRIPTION), stores)


def with_pandas(path: Path) -> dict[str, list[list[int]]]:
    """The usual code: sort, difference, groupby, one list a session; ids by falling count."""
    import pandas as pd

    log = pd.read_parquet(path)
    log = log.sort_values(["user", "time"], kind="stable")
    gap = log.groupby("user")["time"].diff() > pd.Timedelta(minutes=30)
    first = log["user"] != log["user"].shift()
    log["session"] = (gap | first).cumsum()
    start = log.groupby("session")["time"].min()
    log["row"] = log.index
    row = log.groupby("session")["row"].min()
    log = log[log.groupby("session")["item"].transform("size") >= 2]
    log = log[log.groupby("item")["item"].transform("size") >= 5]
    log = log[log.groupby("session")["item"].transform("size") >= 2]
    sessions = pd.DataFrame({"start": start, "row": row}).loc[log["session"].unique()]
    sessions = sessions.sort_values(["start", "row"])
    place = (np.arange(len(sessions)) + 0.5) / len(sessions)
    sessions["split"] = np.select([place < 0.8, place < 0.9], ["train", "val"], "test")
    sessions["rank"] = np.arange(len(sessions))
    log = log.join(sessions[["split", "rank"]], on="session")
    train = log[log["split"] == "train"]
    counts = train["item"].value_counts().rename_axis("item").reset_index(name="count")
    counts["text"] = counts["item"].astype(str)
    counts = counts.sort_values(["count", "text"], ascending=[False, True])
    ids = pd.Series(np.arange(len(counts)) + 2, index=counts["item"])
    log["id"] = log["item"].map(ids)
    log = log.dropna(subset=["id"])
    log["id"] = log["id"].astype(int)
    held_out = log["split"] != "train"
    log = log[~held_out | (log.groupby("session")["id"].transform("size") >= 2)]
    lists = log.groupby(["split", "rank"])["id"].agg(list)
    return {split: lists.loc[split].tolist() for split in ("train", "val", "test")}


def same(store: Path, expected: dict[str, list[list[int]]]) -> None:
    """Assert that each sequence has the same items in the same order."""
    for split, lists in expected.items():
        with pa.memory_map(str(store / f"{split}-00000.arrow")) as file:
            column = pa.ipc.open_file(file).read_all()["item"].combine_chunks()
            wanted = pa.array(lists, pa.large_list(pa.int32()))
            assert column.offsets.equals(wanted.offsets), f"{split}: other lengths"
            assert column.values.equals(wanted.values), f"{split}: other items"


def limited(path: Path, stores: Path, memory: int) -> None:
    """Prepare in a child that may not allocate more."""
    child = [sys.executable, __file__, "--child", str(path), str(stores), "--memory", str(memory)]
    # Arrow's own allocator reserves a gigabyte of addresses at once, which the limit counts.
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}
    subprocess.run(child, check=True, env=environment)


def child(path: Path, stores: Path, memory: int) -> None:
    """The child: set the limit, then import and prepare."""
    if memory:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    started, cpu = time.monotonic(), time.process_time()
    store = with_unrolled(path, stores)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        f"preparation: {time.monotonic() - started:.1f} s, {time.process_time() - cpu:.1f} CPU "
        f"seconds, largest resident size {used.ru_maxrss / 1e6:.2f} GB"
    )
    counts = json.loads((store / "store.json").read_text())["counts"]
    print(f"{sum(c['events'] for c in counts.values()):,} events written to {store}")


def train(path: Path, stores: Path, steps: int) -> None:
    """A run on the store, in a process of its own as always; the memory that it takes."""
    from unrolled.run.allowed import allow
    from unrolled.run.compose import compose
    from unrolled.run.directory import RunDirectory
    from unrolled.run.launch import launch
    from unrolled.run.overrides import read_command_line
    from unrolled.run.work import FINISHED

    described = [f"data.source.{key}={value}" for key, value in DESCRIPTION.items()]
    typed = [
        "task=next_item", "data=events", f"data.source.path={path}", "data.source.gap=false",
        *described, f"data.store_dir={stores}", f"trainer.max_steps={steps}", "trainer=cpu",
        "trainer.limit_val_batches=0", "test=false", "logger=none",
    ]  # fmt: skip
    config = compose(read_command_line(typed)).config
    allow(["resident"])
    watch = {"memory": {"_target_": "resident.Resident"}}
    config = {**config, "callbacks": {**config["callbacks"], **watch}}
    # Where the process that trains finds the callback.
    here = [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, here))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    before = sum(os.times()[2:4])
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(config, Path(folder) / "run", "benchmark")
        if launch(run) != FINISHED:
            raise SystemExit(run.status()["error"])
        seen = run.read_json("memory.json")
    print(
        f"training: {steps} steps, {seen['cpu_seconds']:.1f} CPU seconds "
        f"({sum(os.times()[2:4]) - before:.1f} with all before), largest resident size "
        f"{seen['VmHWM'] / 1e9:.2f} GB; while it trains {seen['RssAnon'] / 1e9:.2f} GB of its own "
        f"and {seen['RssFile'] / 1e9:.2f} GB of files"
    )


def size(text: str) -> int:
    """Bytes, from 2GB or 2000000000."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6)):
        if text.upper().endswith(unit):
            return int(float(text[: -len(unit)]) * factor)
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--memory", type=size, default=0, help="limit of the process, e.g. 2GB")
    parser.add_argument("--train", type=int, metavar="STEPS", help="train on the store")
    parser.add_argument("--folder", type=Path, help="where the log and the store go and stay")
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(*args.child, args.memory)
    with tempfile.TemporaryDirectory() as made:
        folder = args.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        path, stores = folder / f"log-{args.events}.parquet", folder / "stores"
        if not path.exists():
            generate(path, args.events)
        print(f"{args.events:,} events, {path.stat().st_size / 1e6:.0f} MB of Parquet, "
              f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")  # fmt: skip
        if args.memory:
            limited(path, stores, args.memory)
        if args.train:
            train(path, stores, args.train)
        if args.memory or args.train:
            return None
        import pandas as pd  # Loaded before the clock starts, as the preparation's modules are.

        import unrolled.data.prepare

        print(f"pandas {pd.__version__}; {unrolled.data.prepare.__name__}")
        times = []
        for run in (lambda: with_unrolled(path, stores), lambda: with_pandas(path)):
            started, cpu = time.monotonic(), time.process_time()
            result = run()
            times.append((time.monotonic() - started, time.process_time() - cpu, result))
        (ours, our_cpu, store), (theirs, their_cpu, expected) = times
        same(store, expected)
        print(f"unrolled {ours:.1f} s, {our_cpu:.1f} CPU seconds")
        print(f"pandas   {theirs:.1f} s, {their_cpu:.1f} CPU seconds")
        print(f"unrolled takes {ours / theirs:.3f} of the time and {our_cpu / their_cpu:.3f} of "
              "the CPU seconds of pandas; the sequences are equal")  # fmt: skip
    return None


if __name__ == "__main__":
    main()
