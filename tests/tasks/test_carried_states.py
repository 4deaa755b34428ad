"""A run over streams goes on with another number of processes as if it had never been stopped."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unrolled.data.batch import SequenceBatch
from unrolled.data.schema import Numeric, Schema
from unrolled.data.store import JaggedSequences
from unrolled.data.streams import StreamLoader
from unrolled.errors import UserError
from unrolled.models.embedding import DenseEmbedding
from unrolled.models.head import ClassificationHead
from unrolled.models.memory_network import MemoryNetwork
from unrolled.models.readout import EveryStep
from unrolled.models.recurrent import GRU, LSTM
from unrolled.models.sequence import SequenceModel
from unrolled.models.transformer import Transformer
from unrolled.tasks import carried_states
from unrolled.tasks.classification import Classification

law = settings(max_examples=12, deadline=None)
STREAMS = 3

ENCODERS: list[Callable[[int], nn.Module]] = [
    lambda size: GRU(size, 4),
    lambda size: LSTM(size, 4, num_layers=2),
    lambda size: Transformer(size, 4, max_length=64, dropout=0.0),
    # It remembers more than a window, of sequences that began at different steps.
    lambda size: MemoryNetwork(size, 4, memory_size=9),
]


def sequences(of_lengths: list[int]) -> JaggedSequences:
    """Event i has the number i, and a random one."""
    offsets = torch.cat([torch.zeros(1), (torch.tensor(of_lengths) + 1).cumsum(0)]).long()
    count = int(offsets[-1])
    columns = {"x": torch.randn(count, generator=torch.Generator().manual_seed(0))}
    source = JaggedSequences(columns, offsets, None, None, "next_item", "item")
    source.columns["item"] = torch.zeros(count, dtype=torch.int64)
    source.columns["event"] = torch.arange(count)
    return source


def make_task(make_encoder: Callable[[int], nn.Module]) -> Classification:
    torch.manual_seed(1)
    embedding = DenseEmbedding(Schema((Numeric("x"),), 2))
    encoder: Any = make_encoder(embedding.output_size)
    readout = EveryStep(encoder.output_size)
    head = ClassificationHead(encoder.output_size, 2)
    model = SequenceModel(embedding, encoder, readout, head)
    return Classification(model, partial(torch.optim.SGD, lr=0.1))


def batches(source: JaggedSequences, rank: int, ranks: int) -> list[SequenceBatch]:
    return list(StreamLoader(source, 3, STREAMS, shuffle=True, seed=4, rank=rank, num_ranks=ranks))


def read(task: Classification, windows: list[SequenceBatch], into: dict[int, Tensor]) -> None:
    """The encoder's output at each event."""
    for window in windows:
        with torch.no_grad():
            outputs = task.encode(window)
        into.update(zip(window.features["event"].tolist(), outputs, strict=True))


def saved(tasks: list[Classification]) -> list[Any]:
    """What a checkpoint of these processes has, after the way through a file."""
    file = io.BytesIO()
    torch.save([task._carried.state_dict()[0] for task in tasks], file)
    file.seek(0)
    states: list[Any] = torch.load(file, weights_only=True)
    return states


@pytest.mark.parametrize("make_encoder", ENCODERS, ids=["gru", "lstm", "transformer", "memory"])
@law
@given(
    st.lists(st.integers(1, 8), min_size=14, max_size=30),
    st.integers(1, STREAMS),
    st.integers(1, STREAMS),
    st.data(),
)
def test_outputs_are_those_of_a_run_whose_processes_never_changed(
    make_encoder: Callable[[int], nn.Module],
    of_lengths: list[int],
    before: int,
    after: int,
    data: st.DataObject,
) -> None:
    source = sequences(of_lengths)
    loader = StreamLoader(source, 3, STREAMS)
    stop = data.draw(st.integers(1, len(loader)), label="stop")
    task, expected = make_task(make_encoder), {}
    read(task, batches(source, 0, 1), expected)

    found: dict[int, Tensor] = {}
    first = [make_task(make_encoder) for _ in range(before)]
    for rank, one in enumerate(first):
        read(one, batches(source, rank, before)[:stop], found)
    states = saved(first)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(carried_states, "num_processes", lambda: after)
        for rank in range(after):
            patch.setattr(carried_states, "rank", lambda rank=rank: rank)
            one = make_task(make_encoder)
            one._carried.load_state_dict(states)
            read(one, batches(source, rank, after)[stop:], found)

    assert found.keys() == expected.keys()
    events = sorted(expected)
    torch.testing.assert_close(
        torch.stack([found[e] for e in events]), torch.stack([expected[e] for e in events]),
        rtol=0.0, atol=1e-6,
    )  # fmt: skip


def test_the_states_are_needed_and_their_rows_are_not_in_order() -> None:
    """What the test above would not see if it were wrong: a state that does not matter."""
    source = sequences([5, 7, 2, 8, 6, 3, 4, 8, 7, 5, 6, 8, 2, 7])
    whole, task, other = batches(source, 0, 1), make_task(ENCODERS[0]), make_task(ENCODERS[0])
    parts = [make_task(ENCODERS[0]) for _ in range(2)]
    expected: dict[int, Tensor] = {}
    read(task, whole[:3], expected)
    for rank, part in enumerate(parts):
        read(part, batches(source, rank, 2)[:2], {})
    states = saved(parts)
    ids = torch.cat([state["sequences"] for state in states])
    assert not torch.equal(ids, whole[1].ids)
    without: dict[int, Tensor] = {}
    read(other, whole[2:3], without)
    going_on = [e for e in without if not torch.equal(without[e], expected[e])]
    assert len(going_on) > 3


def test_a_checkpoint_of_other_data_is_refused() -> None:
    source = sequences([8] * 14)
    task = make_task(ENCODERS[0])
    state = torch.zeros(1, 1, 4)
    rows = [{"state": state, "sequences": torch.tensor([k])} for k in (98, 99)]
    task._carried.load_state_dict(rows)
    with pytest.raises(UserError, match=r"no state of sequence .* other data"):
        task.encode(batches(source, 0, 1)[1])
