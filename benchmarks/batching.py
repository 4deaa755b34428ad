"""Batching alone, beside a Dataset with one item per sequence; its share of a step; its padding.

    UNROLLED_DATA=... python benchmarks/batching.py [--data clickstream ...] [--steps 60]

For each data set and kind of batching: events per CPU-second of making an epoch's batches (sorting,
gathering, everything but the model) over those of `torch.utils.data.DataLoader` with a Dataset that
gives one sequence's tensors and `pad_sequence`, in this process, for the same batch size and the
same features and targets; the share of a training step (forward, backward, clipping, Adam; default
LSTM and embedding, for more than 1,000 classes sampled softmax) that making its batch takes; and
the share of real cells. One thread; both with the memory allocator's settings of a run.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from unrolled.run.launch import environment

os.environ.setdefault("OMP_NUM_THREADS", "1")
if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
    # The memory allocator's settings of a run; they are read when a process starts.
    os.execve(sys.executable, [sys.executable, *sys.argv], environment({"devices": 1}))

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from unrolled.data.batch import SequenceBatch
from unrolled.data.events import EventData
from unrolled.data.store import JaggedSequences
from unrolled.models.embedding import EventEmbedding
from unrolled.models.head import ClassificationHead
from unrolled.models.readout import EveryStep, Last
from unrolled.models.recurrent import LSTM
from unrolled.models.sampled import SampledSoftmaxHead
from unrolled.models.sequence import SequenceModel
from unrolled.run.compose import compose
from unrolled.run.experiment import Experiment
from unrolled.run.overrides import read_command_line
from unrolled.tasks.classification import Classification

TARGETS = {
    "clickstream": "label",
    "yoochoose64": "next_item",
    "taobao_tpp": "next_event",
    "shop": "label",
}
KINDS = ("random", "bucketed", "packed", "stream")


class OneByOne(Dataset[tuple[dict[str, Tensor], Tensor]]):
    """The sequences of a store one at a time, as a tutorial has it."""

    def __init__(self, source: JaggedSequences) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        source = self.source
        start = int(source.starts[index])
        window = slice(start, start + int(source.lengths[index]))
        features = {name: values[window] for name, values in source.columns.items()}
        if not source.per_step:
            assert source.labels is not None
            return features, source.labels[source.rows[index]]
        return features, source.targets_at(torch.arange(window.start, window.stop))


def collate(items: list[tuple[dict[str, Tensor], Tensor]]) -> tuple[Any, ...]:
    """Padded features, lengths and targets."""
    first = next(iter(items[0][0]))
    features = {
        name: pad_sequence([item[0][name] for item in items], batch_first=True)
        for name in items[0][0]
    }
    lengths = torch.tensor([len(item[0][first]) for item in items])
    targets = [item[1] for item in items]
    return (
        features,
        lengths,
        pad_sequence(targets, True) if targets[0].dim() else torch.stack(targets),
    )


def cpu_seconds(work: Callable[[], Any], at_least: float = 1.0) -> float:
    """CPU seconds of doing something once, after having done it once already."""
    work()
    start, times = time.process_time(), 0
    while (spent := time.process_time() - start) < at_least:
        work()
        times += 1
    return spent / times


def exhaust(loader: Iterable[Any]) -> None:
    for _ in loader:
        pass


def share_of_step(data: EventData, kind: str, steps: int) -> float:
    """CPU seconds of the loader over those of whole training steps."""
    torch.manual_seed(0)
    schema = data.schema
    classes = schema.num_classes
    assert classes is not None
    embedding = EventEmbedding(schema)
    encoder = LSTM(embedding.output_size)
    readout = EveryStep(64) if schema.per_step else Last(64)
    head = SampledSoftmaxHead(64, classes) if classes > 1000 else ClassificationHead(64, classes)
    model = SequenceModel(embedding, encoder, readout, head)
    task = Classification(model, torch.optim.Adam)
    optimizer = torch.optim.Adam(task.parameters())

    def step(batch: SequenceBatch) -> None:
        # Of the next event, its type.
        if batch.targets.is_floating_point():
            types = batch.targets[..., 0]
            batch.targets = types.nan_to_num(-100.0).long()
        loss = task.losses(task(batch), batch).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()

    loader = data.loader("train")
    exhaust(islice(loader, 3))
    batching = whole = 0.0
    batches = iter(loader)
    for _ in range(min(steps, len(loader))):
        start = time.process_time()
        batch = next(batches)
        batching += time.process_time() - start
        step(batch)
        whole += time.process_time() - start
    return batching / whole


def density(loader: Iterable[SequenceBatch]) -> float:
    """Real cells over all cells of an epoch."""
    real = cells = 0
    for batch in loader:
        real += int(batch.lengths.sum())
        cells += next(iter(batch.features.values())).shape[:2].numel() if not batch.packed else 0
        cells += int(batch.lengths.sum()) if batch.packed else 0
    return real / cells


def measure(name: str, steps: int, stores: Path | None) -> None:
    typed = ["task=purchase_intent", f"data={name}", f"data.target={TARGETS[name]}"]
    typed += [] if stores is None else [f"data.store_dir={stores}"]

    def build(kind: str) -> EventData:
        config = compose(read_command_line([*typed, f"data.batching={kind}"])).config
        data = Experiment(**config).build_data()
        assert isinstance(data, EventData)
        return data

    data = build("random")
    source = data.source("train")
    events = int(source.lengths.sum())
    plain = DataLoader(OneByOne(source), data.batch_size, shuffle=True, collate_fn=collate)
    theirs = events / cpu_seconds(lambda: exhaust(plain))
    print(f"\n{name}, {TARGETS[name]}: {len(source):,} sequences, {events:,} steps, "
          f"longest {int(source.lengths.max())}")  # fmt: skip
    print(f"  one by one and pad_sequence: {theirs:,.0f} events per CPU-second")
    for kind in KINDS:
        data = build(kind)
        loader = data.loader("train")
        ours = events / cpu_seconds(lambda loader=loader: exhaust(loader))
        share = share_of_step(data, kind, steps)
        real = {split: density(data.loader(split)) for split in ("train", "test")}
        print(
            f"  {kind:9} x{ours / theirs:6.1f} events per CPU-second ({ours:12,.0f}); "
            f"{100 * share:4.1f} % of a step; real cells train {real['train']:.3f}, "
            f"test {real['test']:.3f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--stores", type=Path, help="folder of prepared stores")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.data:
        measure(name, arguments.steps, arguments.stores)


if __name__ == "__main__":
    main()
