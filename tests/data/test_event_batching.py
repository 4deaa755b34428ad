"""`data.batching` chooses how an event store's sequences become batches, in training and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from unrolled.data.batching import BatchLoader, PackedLoader
from unrolled.data.buckets import BucketedLoader
from unrolled.data.events import Batching, EventData
from unrolled.data.log import EventLog
from unrolled.data.store import JaggedSequences
from unrolled.data.streams import StreamLoader


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 60 visits of 1 to 9 pages, and its store."""
    folder = tmp_path_factory.mktemp("log")
    parts = ["train"] * 8 + ["val", "test"]
    lines = [
        f"{i},{k},p{(i + k) % 4},{i // 10 % 2},{parts[i % 10]}"
        for i in range(60)
        for k in range(1 + i * 7 % 9)
    ]
    (folder / "log.csv").write_text("\n".join(["visit,second,page,buys,part", *lines]) + "\n")
    return folder


def make(folder: Path, batching: Batching, **options: Any) -> EventData:
    log = EventLog(
        path=folder / "log.csv",
        sequence="visit",
        order="second",
        categorical=["page"],
        label="buys",
        split="part",
    )
    return EventData(log, folder / "stores", batch_size=4, batching=batching, bptt=3, **options)


@pytest.mark.parametrize(
    ("batching", "train", "judged"),
    [
        ("random", BatchLoader, BatchLoader),
        ("bucketed", BucketedLoader, BucketedLoader),
        ("packed", PackedLoader, PackedLoader),
        ("stream", StreamLoader, PackedLoader),
    ],
)
def test_each_kind_has_its_loader_and_judges_whole_sequences_once(
    folder: Path, batching: Batching, train: type, judged: type
) -> None:
    data = make(folder, batching)
    assert type(data.loader("train")) is train
    source = data.source("test")
    loader = data.loader("test")
    assert type(loader) is judged
    ids, lengths = [], []
    for batch in loader:
        assert batch.continues is None
        ids += batch.ids.tolist()
        lengths += batch.lengths.tolist()
    assert sorted(ids) == list(range(len(source))) == list(range(6))
    assert lengths == source.lengths[torch.tensor(ids)].tolist()


def test_the_options_reach_the_loaders(folder: Path) -> None:
    bucketed = make(folder, "bucketed", events_per_batch=32).loader("train")
    assert isinstance(bucketed, BucketedLoader)
    assert bucketed.events_per_batch == 32
    stream = make(folder, "stream", seed=7).loader("train")
    assert isinstance(stream, StreamLoader)
    assert (stream.bptt, stream.num_streams, stream.shuffle, stream.seed) == (3, 4, True, 7)


@pytest.mark.parametrize("placement", ["disk", "memory", "device", "auto"])
def test_the_events_lie_where_they_are_wanted(folder: Path, placement: Any) -> None:
    source = make(folder, "random", placement=placement).loader("train").source
    assert isinstance(source, JaggedSequences)
    opened = make(folder, "random").source("train")
    assert torch.equal(source.columns["page"], opened.columns["page"])
    assert source.device.type == "cpu"
