"""A few very long sequences among short ones: bounded batches, in which every sequence counts."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from unrolled.data.batch import SequenceBatch
from unrolled.data.batching import CELLS, BatchLoader
from unrolled.data.events import EventData
from unrolled.data.log import EventLog
from unrolled.data.store import JaggedSequences
from unrolled.errors import UserError
from unrolled.run import predictions
from unrolled.tasks.base import SequenceTask

law = settings(max_examples=40, deadline=None)
lengths = st.lists(st.one_of(st.integers(1, 5), st.integers(1, 90)), min_size=1, max_size=60)
batch_sizes, budgets, seeds = st.integers(1, 20), st.integers(90, 400), st.integers(0, 2**40)


def sequences(of_lengths: list[int]) -> JaggedSequences:
    """Sequence i has the event i as often as it is long."""
    sizes = torch.tensor(of_lengths)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    events = torch.arange(len(sizes)).repeat_interleave(sizes).int()
    return JaggedSequences({"event": events}, offsets, torch.zeros(len(sizes)).long())


@law
@given(lengths, batch_sizes, budgets, seeds, st.booleans())
def test_no_batch_has_more_cells_than_the_budget_and_all_sequences_come_once(
    of_lengths: list[int], batch_size: int, budget: int, seed: int, shuffle: bool
) -> None:
    source = sequences(of_lengths)
    loader = BatchLoader(source, batch_size, budget, shuffle=shuffle, seed=seed)
    for _ in range(2):
        batches = list(loader)
        assert len(batches) == len(loader)
        assert all(batch.features["event"].numel() <= budget for batch in batches)
        # A batch of the longest can have more of them where the batch size is small.
        assert all(len(batch) <= max(batch_size, budget // max(of_lengths)) for batch in batches)
        assert sorted(i for batch in batches for i in batch.ids.tolist()) == list(
            range(len(source))
        )
        assert all((b.features["event"].sum(1) == b.ids * b.lengths).all() for b in batches)


@law
@given(lengths, batch_sizes, seeds, st.booleans())
def test_without_a_long_sequence_nothing_differs_from_no_budget(
    of_lengths: list[int], batch_size: int, seed: int, shuffle: bool
) -> None:
    source = sequences(of_lengths)
    budget = max(of_lengths) * batch_size
    bounded = BatchLoader(source, batch_size, budget, shuffle=shuffle, seed=seed)
    free = BatchLoader(source, batch_size, shuffle=shuffle, seed=seed)
    for _ in range(2):
        expected = [(batch.ids.tolist(), 1.0) for batch in free]
        assert [(batch.ids.tolist(), batch.step_weight) for batch in bounded] == expected


@law
@given(lengths, batch_sizes, budgets, seeds)
def test_every_sequence_counts_alike_in_an_epoch(
    of_lengths: list[int], batch_size: int, budget: int, seed: int
) -> None:
    source = sequences(of_lengths)
    loader = BatchLoader(source, batch_size, budget, shuffle=True, seed=seed)
    assume(max(of_lengths) * batch_size > budget)
    counts = torch.zeros(len(source), dtype=torch.float64)
    for batch in loader:
        # The loss of a step is the mean over the batch, times its weight.
        counts[batch.ids] += batch.step_weight / len(batch)
    assert counts.tolist() == pytest.approx([len(loader) / len(source)] * len(source))


@law
@given(lengths, batch_sizes, budgets, seeds, st.integers(2, 4))
def test_many_ranks_have_as_many_batches_and_share_those_of_one(
    of_lengths: list[int], batch_size: int, budget: int, seed: int, num_ranks: int
) -> None:
    source = sequences(of_lengths)
    whole = list(BatchLoader(source, batch_size, budget, shuffle=True, seed=seed))
    parts = [
        BatchLoader(
            source, batch_size, budget, shuffle=True, seed=seed, rank=r, num_ranks=num_ranks
        )
        for r in range(num_ranks)
    ]
    assume(min(len(batch) for batch in whole) >= num_ranks)
    parts[0].require_shares()
    for expected, *shares in zip(whole, *parts, strict=True):
        turns = itertools.zip_longest(*(share.ids.tolist() for share in shares))
        dealt = [i for turn in turns for i in turn if i is not None]
        assert dealt == expected.ids.tolist()
        assert {share.step_weight for share in shares} == {expected.step_weight}
        assert sum(share.weight for share in shares) == pytest.approx(num_ranks)


@law
@given(lengths, batch_sizes, budgets, seeds, st.data())
def test_an_epoch_goes_on_where_it_was_left(
    of_lengths: list[int], batch_size: int, budget: int, seed: int, data: st.DataObject
) -> None:
    def loader() -> BatchLoader:
        return BatchLoader(sequences(of_lengths), batch_size, budget, shuffle=True, seed=seed)

    whole = loader()
    expected = [batch.ids.tolist() for _ in range(2) for batch in whole]
    stop = data.draw(st.integers(0, len(expected)))
    first, second = loader(), loader()
    seen = [batch.ids.tolist() for batch in itertools.islice(itertools.chain(first, first), stop)]
    second.load_state_dict(first.state_dict())
    rest = [batch.ids.tolist() for batch in itertools.chain(second, second)]
    assert seen + rest[: len(expected) - stop] == expected


def test_long_sequences_are_mixed_anew_each_epoch_and_come_in_random_order() -> None:
    loader = BatchLoader(
        sequences([50 + i % 5 for i in range(40)] + [1] * 40), 8, 160, shuffle=True
    )
    first, second = ([batch.ids.tolist() for batch in loader] for _ in range(2))
    long = [min(batch) < 40 for batch in first]
    assert long != sorted(long)
    assert long != sorted(long, reverse=True)
    pairs = [{frozenset(b) for b in epoch if len(b) < 8} for epoch in (first, second)]
    assert len(pairs[0]) == 20
    assert len(pairs[0] & pairs[1]) < 5


def test_too_few_of_the_longest_for_the_processes_are_told() -> None:
    loader = BatchLoader(sequences([90, *[2] * 30]), 8, 100, shuffle=True, num_ranks=2)
    with pytest.raises(UserError) as refused:
        loader.require_shares()
    assert str(refused.value) == (
        "data.cells_per_batch=100 has room for 1 of the longest sequences, of up to 90 events, too "
        "few for 2 processes; cut them by data.source.max_length, or make it larger"
    )


@pytest.fixture
def bot(tmp_path: Path) -> EventData:
    """500 sessions of 3 events, the last 80 to validate and test, and a bot's of 100,000."""
    session = np.append(np.repeat(np.arange(500), 3), np.full(100_000, 500))
    part = np.where(session < 420, "train", np.where(session < 460, "val", "test"))
    part[session == 500] = "train"
    columns = {
        "session": session,
        "time": session * 1000 + np.append(np.tile(np.arange(3), 500), np.arange(100_000) // 200),
        "item": np.arange(len(session)) % 7,
        "buy": session % 2,
        "part": part,
    }
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    log = EventLog(
        path=tmp_path / "log.parquet", sequence="session", time="time", item="item", label="buy",
        split="part",
    )  # fmt: skip
    return EventData(log, tmp_path / "stores")


def test_a_bot_is_told_by_the_account_and_its_batches_are_bounded(
    bot: EventData, capfd: pytest.CaptureFixture[str]
) -> None:
    loader = bot.loader("train")
    told = capfd.readouterr().err
    assert "  longest: session '500', 100,000 events, 98.52% of all\n" in told
    assert (
        "  warning: session '500' has 100,000 events, the mean is 202.6: perhaps no visitor but a "
        "program, or several in one. data.source.max_length=N keeps the last N events of each "
        "sequence; data.batching=bucketed pads a sequence to others of its length only\n"
    ) in told
    shapes = [tuple(batch.features["item"].shape) for batch in loader]
    # 420 ordinary ones and the bot, of which two would fit: it takes one of the others with it.
    assert sorted(shapes) == [(2, 100_000), (104, 3), (105, 3), (105, 3), (105, 3)]
    assert max(rows * steps for rows, steps in shapes) <= CELLS


def test_a_sequence_longer_than_any_batch_is_refused_before_training(bot: EventData) -> None:
    small = EventData(bot.log_source, bot.store_dir, cells_per_batch=50_000)
    with pytest.raises(UserError) as refused:
        small.require_usable(["train"])
    assert str(refused.value) == (
        "session '500' has 100,000 events, more than data.cells_per_batch=50,000, to which memory "
        "is bounded. Set data.source.max_length to keep the last events of each sequence, cut it "
        "by data.source.session_gap, or raise the bound"
    )
    small.require_usable(["val", "test"])


class Lengths(torch.nn.Module):
    """A task that predicts how long a sequence is."""

    device = torch.device("cpu")

    def predict_batch(self, batch: SequenceBatch) -> dict[str, Tensor]:
        return {"length": batch.lengths, "events": batch.features["event"]}


@law
@given(lengths, batch_sizes, budgets)
def test_predictions_of_long_sequences_stand_in_the_order_of_the_source(
    of_lengths: list[int], batch_size: int, budget: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictions, "CELLS", budget)
        table = predictions.predict_source(
            cast(SequenceTask, Lengths()), sequences(of_lengths), batch_size
        )
    assert table["length"].to_pylist() == of_lengths
    assert table["events"].to_pylist() == [[i] * length for i, length in enumerate(of_lengths)]
