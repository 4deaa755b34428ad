"""The whole model: packed gives what padded gives, and windows of a stream what whole ones give."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unrolled.data.batch import SequenceBatch, pack_steps, pad_steps
from unrolled.data.batching import BatchLoader, PackedLoader
from unrolled.data.schema import Categorical, Numeric, Schema
from unrolled.data.store import JaggedSequences
from unrolled.data.streams import StreamLoader
from unrolled.models.cells.elman import Elman, ElmanCell
from unrolled.models.cells.mufuru import MuFuRu
from unrolled.models.cells.norm_lstm import NormLSTM
from unrolled.models.cells.peephole_lstm import PeepholeLSTM
from unrolled.models.cells.reset_before_gru import ResetBeforeGRU
from unrolled.models.compose import LearnedStart
from unrolled.models.embedding import EventEmbedding
from unrolled.models.head import ClassificationHead
from unrolled.models.linear_recurrent import LinearRecurrent
from unrolled.models.memory_network import MemoryNetwork
from unrolled.models.min_gru import MinGRU
from unrolled.models.readout import EveryStep, Last, Mean
from unrolled.models.recurrent import GRU, LSTM, RNN
from unrolled.models.reset import Reset
from unrolled.models.sequence import SequenceModel
from unrolled.models.state import num_rows, take_up
from unrolled.models.transformer import Transformer
from unrolled.models.unroll import Unroll

law = settings(max_examples=8, deadline=None)
lengths = st.lists(st.integers(1, 9), min_size=1, max_size=8)
INPUT, SIZE = 5, 4
CLOSE = {"rtol": 0.0, "atol": 1e-10}

CAUSAL: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: LSTM(INPUT, SIZE),
    "gru in two layers": lambda: GRU(INPUT, SIZE, 2),
    "rnn": lambda: RNN(INPUT, SIZE),
    "elman": lambda: Elman(INPUT, SIZE),
    "learned start": lambda: Unroll([LearnedStart(ElmanCell(INPUT, SIZE))]),
    "peephole lstm": lambda: PeepholeLSTM(INPUT, SIZE, 2),
    "norm lstm": lambda: NormLSTM(INPUT, SIZE),
    "reset-before gru": lambda: ResetBeforeGRU(INPUT, SIZE),
    "mufuru": lambda: MuFuRu(INPUT, SIZE),
    "min gru": lambda: MinGRU(INPUT, SIZE),
    "linear recurrent": lambda: LinearRecurrent(INPUT, SIZE, SIZE),
    "transformer": lambda: Transformer(INPUT, SIZE, num_heads=2),
    "memory network": lambda: MemoryNetwork(INPUT, SIZE),
    "reset": lambda: Reset(INPUT, lambda **sizes: LSTM(**sizes, hidden_size=SIZE)),
}
ENCODERS = CAUSAL | {
    "lstm both ways": lambda: LSTM(INPUT, SIZE, bidirectional=True, merge="sum"),
    "peephole both ways": lambda: PeepholeLSTM(INPUT, SIZE, bidirectional=True, merge="mean"),
}
SCHEMA = Schema((Categorical("item", 9), Numeric("price")), 9)


def sequences(of_lengths: list[int]) -> JaggedSequences:
    """Random items and prices, a next item at every step."""
    offsets = torch.cat([torch.zeros(1), (torch.tensor(of_lengths) + 1).cumsum(0)]).long()
    count = int(offsets[-1])
    columns = {
        "item": torch.randint(2, 9, (count,), dtype=torch.int32),
        "price": torch.randn(count, dtype=torch.float64),
    }
    return JaggedSequences(columns, offsets, None, None, "next_item", "item")


def make_model(encoder: nn.Module, readout: type[nn.Module] = EveryStep) -> SequenceModel:
    model = SequenceModel(
        EventEmbedding(SCHEMA, 4), encoder, readout(SIZE), ClassificationHead(SIZE, 9)
    )
    # Weights that start at zero would hide what a state does.
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model.double().eval()


def flat(batch: SequenceBatch, outputs: Tensor) -> Tensor:
    return outputs if batch.packed else pack_steps(outputs, batch.lengths)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("readout", [EveryStep, Last, Mean])
@law
@given(of_lengths=lengths, seed=st.integers(0, 2**31))
def test_packed_gives_the_outputs_and_gradients_of_padded(
    name: str, readout: type[nn.Module], of_lengths: list[int], seed: int
) -> None:
    torch.manual_seed(seed)
    # Longest first, as a packed batch has them.
    source, model = (
        sequences(sorted(of_lengths, reverse=True)),
        make_model(ENCODERS[name](), readout),
    )
    everything = len(of_lengths)
    results = []
    for loader in (BatchLoader(source, everything), PackedLoader(source, everything)):
        (batch,) = loader
        outputs = model(batch)
        if readout is EveryStep:
            outputs = flat(batch, outputs)
        loss = outputs.square().sum()
        results.append((outputs, *torch.autograd.grad(loss, list(model.parameters()))))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("name", CAUSAL)
@law
@given(
    of_lengths=lengths,
    bptt=st.integers(1, 6),
    streams=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
@torch.no_grad()
def test_windows_of_a_stream_give_what_whole_sequences_give(
    name: str, of_lengths: list[int], bptt: int, streams: int, seed: int
) -> None:
    torch.manual_seed(seed)
    # Often enough for several streams.
    source, model = sequences(of_lengths * 3), make_model(CAUSAL[name]())
    whole = model(source.gather(torch.arange(len(source))))
    # `outputs[i, t]` is found under (sequence i, step t).
    found = torch.full_like(whole, torch.nan)
    done = torch.zeros(len(source), dtype=torch.int64)
    state = None
    for window in StreamLoader(source, bptt, streams, shuffle=True, seed=seed):
        encoded, state = model.encode(window, state)
        outputs = pad_steps(model.decode(encoded, window.lengths, window.packed), window.lengths)
        # A window may have the end of a long sequence and all of a short one, but none twice.
        assert len(set(window.ids.tolist())) == len(window)
        for row, (i, n) in enumerate(zip(window.ids, window.lengths, strict=True)):
            found[i, done[i] : done[i] + n] = outputs[row, :n]
            done[i] += n
    assert torch.equal(done, source.lengths)
    for i, n in enumerate(source.lengths):
        torch.testing.assert_close(found[i, :n], whole[i, :n], **CLOSE)


def test_rows_of_a_state_are_taken_up_or_start() -> None:
    state = (torch.arange(6.0).view(1, 3, 2), torch.arange(3).view(1, 3))
    like = torch.zeros(0)
    taken = take_up(state, torch.tensor([2, -1, 0, 2]), None, like)
    assert isinstance(taken, tuple)
    assert taken[0].tolist() == [[[4.0, 5.0], [0.0, 0.0], [0.0, 1.0], [4.0, 5.0]]]
    assert taken[1].tolist() == [[2, 0, 0, 2]]

    def start(count: int, like: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full((1, count, 2), 7.0), torch.full((1, count), 8)

    taken = take_up(state, torch.tensor([1, -1]), start, like)
    assert isinstance(taken, tuple)
    assert taken[0].tolist() == [[[2.0, 3.0], [7.0, 7.0]]]
    assert taken[1].tolist() == [[1, 8]]
    assert num_rows(state) == 3


def test_a_state_is_left_alone_where_every_row_goes_on() -> None:
    state = torch.randn(2, 3, 4)
    assert take_up(state, torch.arange(3), None, state) is state
    assert take_up(state, torch.full((5,), -1), None, state) is None
