"""Worker processes: the same batches in the same order, whatever is resumed with however many."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unrolled.data.batch import SequenceBatch
from unrolled.data.batching import AT_ONCE, BatchLoader, Loader, PackedLoader
from unrolled.data.buckets import BucketedLoader
from unrolled.data.events import EventData
from unrolled.data.store import JaggedSequences
from unrolled.data.streams import StreamLoader
from unrolled.data.workers import WorkerError, WorkerLoader, dealt
from unrolled.errors import UserError
from unrolled.synthetic.bitcount import BitcountData

law = settings(max_examples=200, deadline=None)
few = settings(max_examples=8, deadline=None)
"""Each example starts processes."""


@law
@given(st.integers(0, 500), st.integers(0, 500), st.integers(1, 9))
def test_taken_in_turns_the_blocks_are_the_rest_of_the_epoch(
    first: int, more: int, workers: int
) -> None:
    shares = [list(dealt(first, first + more, w, workers)) for w in range(workers)]
    turns = max(len(share) for share in shares)
    blocks = [share[k] for k in range(turns) for share in shares if k < len(share)]
    assert [n for a, b in blocks for n in range(a, b)] == list(range(first, first + more))
    assert all(0 < b - a <= AT_ONCE for a, b in blocks)
    assert more < 2 * workers or all(shares)


def sequences(count: int) -> JaggedSequences:
    """Sequences of 1 to 12 events, each event with a number of its own."""
    lengths = torch.arange(count) * 7 % 12 + 1
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    events = torch.arange(int(offsets[-1]))
    columns = {"event": events, "value": events.float() / 7}
    return JaggedSequences(columns, offsets, torch.arange(count) % 2)


def make(kind: str, count: int, rank: int, num_ranks: int, shuffle: bool = True) -> Loader:
    source = sequences(count)
    sharding: Any = {"shuffle": shuffle, "seed": 3, "rank": rank, "num_ranks": num_ranks}
    if kind == "bucketed":
        return BucketedLoader(source, 30, **sharding)
    if kind == "stream":
        return StreamLoader(source, 4, 5, **sharding)
    return (PackedLoader if kind == "packed" else BatchLoader)(source, 6, **sharding)


def require_equal(found: SequenceBatch, expected: SequenceBatch) -> None:
    assert vars(found).keys() == vars(expected).keys()
    assert (found.weight, found.packed) == (expected.weight, expected.packed)
    assert found.features.keys() == expected.features.keys()
    pairs = [(found.features[name], expected.features[name]) for name in expected.features]
    for name in ("lengths", "targets", "ids", "continues"):
        pairs.append((getattr(found, name), getattr(expected, name)))
    for own, other in pairs:
        assert (own is None) == (other is None)
        if own is not None:
            assert own.dtype == other.dtype
            assert torch.equal(own, other)


def numbers(batch: SequenceBatch) -> list[int]:
    """The events of a batch."""
    events: Tensor = batch.features["event"]
    if not batch.packed:
        events = events[torch.arange(events.shape[1]) < batch.lengths.unsqueeze(1)]
    return events.tolist()


@few
@given(
    st.sampled_from(["random", "bucketed", "packed", "stream"]),
    st.integers(1, 120),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 3),
    st.booleans(),
    st.data(),
)
def test_batches_of_workers_are_those_of_the_process_itself_from_any_position(
    kind: str, count: int, ranks: int, before: int, after: int, shuffle: bool, data: st.DataObject
) -> None:
    """`before` workers up to a position, `after` of them from there on."""
    stop = data.draw(st.integers(0, len(make(kind, count, 0, ranks))), label="stop")
    seen: list[int] = []
    for rank in range(ranks):
        plain = make(kind, count, rank, ranks, shuffle)
        expected = [list(plain), list(plain)]
        seen += [n for batch in expected[0] for n in numbers(batch)]
        first = WorkerLoader(make(kind, count, rank, ranks, shuffle), before)
        used = list(islice(first, stop))
        position = first.state_dict()
        assert len(used) == min(stop, len(expected[0]))
        second = make(kind, count, rank, ranks, shuffle)
        second = WorkerLoader(second, after) if after else second
        second.load_state_dict(position)
        rest = list(second)
        if position["epoch"] == 0:
            found, whole = [used + rest, list(second)], expected
        else:
            found, whole = [used, rest], expected
        for epoch, of_epoch in zip(found, whole, strict=True):
            for own, other in zip(epoch, of_epoch, strict=True):
                require_equal(own, other)
    # Every event once, over all processes.
    assert sorted(seen) == list(range(int(sequences(count).offsets[-1])))
    assert multiprocessing.active_children() == []


def test_a_rank_without_a_share_of_a_batch_keeps_its_turn() -> None:
    # 13 sequences in 3 batches of 4 or 5, over 5 processes: the last has no share of two of them.
    plain = BatchLoader(sequences(13), 6, rank=4, num_ranks=5)
    expected = list(plain)
    assert len(expected) < plain.num_batches
    loader = WorkerLoader(BatchLoader(sequences(13), 6, rank=4, num_ranks=5), 2)
    for own, other in zip(loader, expected, strict=True):
        require_equal(own, other)
    assert loader.state_dict() == plain.state_dict() == {"epoch": 1, "next_batch": 0}


def test_a_position_counts_what_was_used_not_what_was_made_ahead() -> None:
    loader = WorkerLoader(make("random", 100, 0, 1), 2)
    assert len(loader) == 17
    positions = [loader.state_dict() for _ in islice(loader, 3)]
    assert positions == [{"epoch": 0, "next_batch": k} for k in (1, 2, 3)]


def test_torchs_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(WorkerLoader(make("random", 20, 0, 1), 1))
    assert torch.equal(torch.rand(3), expected)


class Broken(JaggedSequences):
    """Fails at sequence 17, in a way of its own."""

    error: Exception | None = None

    def gather_several(self, parts: list[Tensor]) -> Any:
        if any(17 in part for part in parts):
            if self.error is None:
                os.kill(os.getpid(), signal.SIGKILL)
            else:
                raise self.error
        return super().gather_several(parts)


def broken(error: Exception | None) -> WorkerLoader:
    whole = sequences(30)
    source = Broken(whole.columns, whole.offsets, whole.labels)
    source.error = error
    return WorkerLoader(BatchLoader(source, 2), 2)


def test_a_mistake_of_the_user_that_a_worker_finds_is_told_as_it_is() -> None:
    with pytest.raises(UserError) as error:
        list(broken(UserError("store: the file is gone", "store: really")))
    assert error.value.problems == ("store: the file is gone", "store: really")


def test_any_other_error_of_a_worker_begins_with_its_kind() -> None:
    with pytest.raises(WorkerError, match=r"^KeyError: 'sku'\nTraceback"):
        list(broken(KeyError("sku")))
    assert multiprocessing.active_children() == []


def test_a_killed_worker_ends_the_run_with_a_message_that_says_what_to_do() -> None:
    used: list[SequenceBatch] = []
    with pytest.raises(WorkerError, match=r"data\.workers=2 was killed.*data\.workers=0"):
        used.extend(broken(None))
    # What came before is whole and in its place.
    assert used
    for own, other in zip(used, BatchLoader(sequences(30), 2), strict=False):
        require_equal(own, other)
    assert multiprocessing.active_children() == []


def test_breaking_off_ends_the_workers_and_the_next_epoch_has_new_ones() -> None:
    loader = WorkerLoader(make("random", 100, 0, 1), 2)
    for _ in islice(loader, 2):
        assert len(multiprocessing.active_children()) == 2
    plain = make("random", 100, 0, 1)
    list(plain)
    for own, other in zip(loader, plain, strict=True):
        require_equal(own, other)
    assert multiprocessing.active_children() == []


ORPHANS = """
import multiprocessing, os, re, signal, sys, time
sys.path.insert(0, {tests!r})
from test_workers import make
from unrolled.data.workers import WorkerLoader
loader = WorkerLoader(make("random", 100, 0, 1), 2)
batches = iter(loader)
next(batches)
# As a terminal's Ctrl-C or SLURM's warning, which reach the whole group, once all are at work.
def ignores(pid, number):
    status = open(f"/proc/{{pid}}/status").read()
    return int(re.search("SigIgn:\\s+(\\w+)", status)[1], 16) >> (number - 1) & 1
for child in multiprocessing.active_children():
    while not ignores(child.pid, signal.SIGUSR1):
        time.sleep(0.01)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        os.kill(child.pid, number)
for _ in range(15):
    next(batches)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    # A zombie holds no lock; it waits for the system to take note of it.
    return status.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell no process of its parent")
@pytest.mark.parametrize("end", ["killed", "leaves"])
def test_workers_outlive_signals_to_the_group_but_not_the_process_they_work_for(end: str) -> None:
    script = ORPHANS.format(tests=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", script, end], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == (-signal.SIGKILL if end == "killed" else 0), done.stderr
    workers = [int(pid) for pid in done.stdout.split()]
    assert len(workers) == 2
    # torch's own workers look after their parent every five seconds.
    deadline = time.monotonic() + 2
    while any(is_alive(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_data_module_hands_out_loaders_with_workers(split: Any) -> None:
    options: Any = {"length": 6, "train_size": 30, "val_size": 8, "batch_size": 7, "seed": 2}
    plain, ahead = BitcountData(**options), BitcountData(**options, workers=2)
    loader = ahead.loader(split)
    assert isinstance(loader, WorkerLoader)
    for own, other in zip(loader, plain.loader(split), strict=True):
        require_equal(own, other)


def test_workers_and_events_on_the_device_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.workers=1: processes gather on the CPU"):
        EventData(object(), tmp_path, placement="device", workers=1)  # type: ignore[arg-type]


def test_too_few_sequences_for_the_processes_are_refused_with_workers_too() -> None:
    with pytest.raises(UserError, match=r"data\.batch_size=6"):
        WorkerLoader(make("random", 13, 0, 5), 1).require_shares()
