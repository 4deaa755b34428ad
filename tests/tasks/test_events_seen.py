"""What is seen of a sequence while it goes on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.data.batch import SequenceBatch
from unrolled.data.schema import Categorical, Numeric, Schema
from unrolled.data.store import JaggedSequences
from unrolled.models.embedding import EventEmbedding
from unrolled.models.head import BinaryHead
from unrolled.models.readout import EveryStep, Last
from unrolled.models.recurrent import LSTM
from unrolled.models.sequence import SequenceModel
from unrolled.tasks.events_seen import first_events, outputs_after

law = settings(max_examples=25, deadline=None)
lists = st.lists(st.integers(1, 9), min_size=1, max_size=6)
SCHEMA = Schema((Categorical("page", 7), Numeric("gap")), 2)


def sessions(lengths: list[int]) -> JaggedSequences:
    """Sessions with random pages and gaps."""
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    total = int(offsets[-1])
    columns = {"page": torch.randint(1, 7, (total,)), "gap": torch.rand(total) + 0.1}
    return JaggedSequences(columns, offsets, torch.arange(len(lengths)) % 2)


def whole(source: JaggedSequences) -> SequenceBatch:
    return source.gather(torch.arange(len(source)))


@law
@given(lists, st.integers(1, 10))
def test_the_first_events_are_those_of_the_sequences_that_end_there(
    lengths: list[int], count: int
) -> None:
    source = sessions(lengths)
    cut = first_events(whole(source), count)
    assert cut.lengths.tolist() == [min(length, count) for length in lengths]
    assert cut.targets.tolist() == source.labels.tolist()  # type: ignore[union-attr]
    assert cut.features["page"].shape == (len(lengths), min(max(lengths), count))
    for name, values in source.columns.items():
        for row, length in enumerate(cut.lengths.tolist()):
            start = int(source.offsets[row])
            expected = values[start : start + length]
            assert torch.equal(cut.features[name][row, :length], expected)
            assert not cut.features[name][row, length:].any()


def test_the_batch_that_is_cut_stays_as_it_was() -> None:
    batch = whole(sessions([4, 2]))
    before = {name: values.clone() for name, values in batch.features.items()}
    first_events(batch, 2)
    assert batch.lengths.tolist() == [4, 2]
    assert all(torch.equal(batch.features[name], before[name]) for name in before)


def test_sequences_with_a_target_for_each_step_are_not_cut() -> None:
    batch = whole(sessions([2, 2]))
    batch.targets = torch.zeros(2, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="a target for each step"):
        first_events(batch, 1)


@law
@given(lists, st.integers(1, 10))
def test_one_pass_over_the_session_answers_as_its_first_events_alone_do(
    lengths: list[int], count: int
) -> None:
    embedding = EventEmbedding(SCHEMA)
    encoder = LSTM(embedding.output_size, 8)
    head = BinaryHead(8)
    every_step = SequenceModel(embedding, encoder, EveryStep(8), head)
    at_the_end = SequenceModel(embedding, encoder, Last(8), head)
    batch = whole(sessions(lengths))
    with torch.no_grad():
        unfolding = outputs_after(every_step(batch), batch.lengths, count)
        alone = at_the_end(first_events(batch, count))
    torch.testing.assert_close(unfolding, alone, rtol=1e-5, atol=1e-6)
