"""Unrolling: every way of running a cell gives what it gives on each sequence alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unrolled.models.cells.elman import Elman, ElmanCell
from unrolled.models.cells.mufuru import MuFuRu
from unrolled.models.cells.norm_lstm import NormLSTM
from unrolled.models.cells.peephole_lstm import PeepholeLSTM, PeepholeLSTMCell
from unrolled.models.cells.reset_before_gru import ResetBeforeGRU, ResetBeforeGRUCell
from unrolled.models.compose import Chain, LearnedStart, Recurrence
from unrolled.models.state import State, detach_state, map_state, select_rows
from unrolled.models.unroll import Cell, Unroll, layered

INPUT, HIDDEN = 3, 4
EXACT = {"rtol": 0.0, "atol": 1e-10}
law = settings(max_examples=20, deadline=None)


class Plus(nn.Module):
    """A module of a user: `(x_t, h) -> h`."""

    def __init__(self, input_size: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(input_size + size, size)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return self.linear(torch.cat([x, h], -1)).tanh()  # type: ignore[no-any-return]


def nested(size: int) -> Cell:
    """A chain in a chain, with modules before, between and after the cells."""
    inner = Chain(ResetBeforeGRUCell(5, 3), nn.Linear(3, 6), ElmanCell(6, HIDDEN))
    return Chain(nn.Linear(size, 5), nn.Tanh(), inner, nn.Tanh())


Make = Callable[..., Unroll]


def of_cells(cell: Callable[[int], Cell]) -> Make:
    def make(input_size: int, hidden_size: int, layers: int, both: bool, **options: Any) -> Unroll:
        return Unroll(layered(cell, input_size, layers, both), both, **options)

    return make


def with_options(encoder: Make, **fixed: Any) -> Make:
    return lambda *sizes, **options: encoder(*sizes, **fixed, **options)


KINDS: dict[str, Make] = {
    "elman": Elman,
    "elman zero": with_options(Elman, start="zero", transfer="tanh"),
    "peepholes": PeepholeLSTM,
    "peepholes full": with_options(PeepholeLSTM, peepholes="full", start="learned"),
    "gru": with_options(ResetBeforeGRU, start="learned"),
    "mufuru": MuFuRu,
    "layer norm": NormLSTM,
    "batch norm": with_options(NormLSTM, norm="batch", max_steps=4),
    "recurrence": of_cells(lambda size: Recurrence(Plus(size, HIDDEN), HIDDEN)),
    "nested": of_cells(nested),
    "learned start of a chain": of_cells(lambda size: LearnedStart(nested(size))),
}


@dataclass
class Case:
    """An encoder in float64, evaluated, with a padded batch and maybe a state to start from."""

    encoder: Unroll
    x: Tensor
    lengths: Tensor
    state: State | None

    def past(self) -> Tensor:
        return torch.arange(self.x.shape[1]) >= self.lengths[:, None]


@st.composite
def cases(draw: st.DrawFn, directions: tuple[bool, ...] = (False, True)) -> Case:
    kind = draw(st.sampled_from(sorted(KINDS)))
    both = draw(st.sampled_from(directions))
    lengths = torch.tensor(draw(st.lists(st.integers(1, 6), min_size=1, max_size=5)))
    time = int(lengths.max()) + draw(st.integers(0, 2))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    encoder = KINDS[kind](INPUT, HIDDEN, draw(st.integers(1, 2)), both).double().eval()
    with torch.no_grad():
        for tensor in [*encoder.parameters(), *encoder.buffers()]:
            tensor.uniform_(-1, 1) if tensor.requires_grad else tensor.uniform_(0.5, 1.5)
    x = torch.randn(len(lengths), time, INPUT, dtype=torch.float64)
    state = None
    if draw(st.booleans()):
        # A state that can be: that after some steps.
        _, state = encoder(
            torch.randn(len(lengths), 2, INPUT).double(), torch.full_like(lengths, 2)
        )
        state = detach_state(state)
    return Case(encoder, x, lengths, state)


def tensors(state: State) -> list[Tensor]:
    found: list[Tensor] = []
    map_state(lambda s: (found.append(s), s)[1], state)
    return found


def rows(state: State | None, index: list[int]) -> State | None:
    return None if state is None else select_rows(state, torch.tensor(index, dtype=torch.int64))


def assert_equal_states(one: State, other: State) -> None:
    map_state(lambda a, b: (torch.testing.assert_close(a, b, **EXACT), a)[1], one, other)


@law
@given(cases())
def test_a_padded_batch_equals_each_sequence_alone(case: Case) -> None:
    outputs, state = case.encoder(case.x, case.lengths, case.state)
    assert outputs.shape == (*case.x.shape[:2], case.encoder.output_size)
    layers = len(case.encoder.cells)
    assert all(s.shape[:2] == (layers, len(case.x)) for s in tensors(state))
    for k, length in enumerate(case.lengths.tolist()):
        alone, state_alone = case.encoder(
            case.x[k : k + 1, :length], case.lengths[k : k + 1], rows(case.state, [k])
        )
        torch.testing.assert_close(outputs[k, :length], alone[0], **EXACT)
        assert torch.count_nonzero(outputs[k, length:]) == 0
        assert_equal_states(rows(state, [k]), state_alone)  # type: ignore[arg-type]


@law
@given(cases(), st.sampled_from([math.nan, math.inf, -1e300, 1e-3]), st.booleans())
def test_padding_changes_nothing(case: Case, garbage: float, training: bool) -> None:
    case.encoder.train(training)
    buffers = [b.clone() for b in case.encoder.buffers()]
    past = case.past()
    results = []
    for filling in (0.0, garbage):
        with torch.no_grad():
            for buffer, before in zip(case.encoder.buffers(), buffers, strict=True):
                buffer.copy_(before)
        x = case.x.masked_fill(past.unsqueeze(-1), filling).requires_grad_()
        case.encoder.zero_grad()
        outputs, state = case.encoder(x, case.lengths, case.state)
        (outputs.square().sum() + sum(s.square().sum() for s in tensors(state))).backward()
        assert x.grad is not None
        assert torch.count_nonzero(x.grad[past]) == 0
        gradients = [p.grad for p in case.encoder.parameters() if p.grad is not None]
        statistics = [b.clone() for b in case.encoder.buffers()]
        results.append([outputs.detach(), *tensors(state), x.grad, *gradients, *statistics])
    for clean, dirty in zip(*results, strict=True):
        assert bool(clean.isfinite().all())
        assert torch.equal(clean, dirty)


@law
@given(cases(directions=(False,)))
def test_one_step_at_a_time_equals_the_full_pass(case: Case) -> None:
    outputs, final = case.encoder(case.x, case.lengths, case.state)
    state = case.state
    assert case.encoder.causal
    for t in range(int(case.lengths.max())):
        output, state = case.encoder.step(case.x[:, t], state)
        going = case.lengths > t
        torch.testing.assert_close(output[going], outputs[going, t], **EXACT)
        for k in torch.nonzero(case.lengths == t + 1).flatten().tolist():
            assert_equal_states(rows(state, [k]), rows(final, [k]))  # type: ignore[arg-type]


@law
@given(cases(directions=(False,)), st.data())
def test_chunks_with_carried_state_equal_one_pass(case: Case, data: st.DataObject) -> None:
    outputs, final = case.encoder(case.x, case.lengths, case.state)
    state, start = case.state, 0
    going = torch.arange(len(case.x))
    while len(going):
        end = data.draw(st.integers(start + 1, case.x.shape[1]), label="end of chunk")
        lengths = (case.lengths[going] - start).clamp(max=end - start)
        chunk, state = case.encoder(case.x[going, start:end], lengths, state)
        torch.testing.assert_close(chunk, outputs[going, start:end], **EXACT)
        for place, k in enumerate(going.tolist()):
            if case.lengths[k] <= end:
                assert_equal_states(rows(state, [place]), rows(final, [k]))  # type: ignore[arg-type]
        left = torch.nonzero(case.lengths[going] > end).flatten()
        state, going, start = select_rows(state, left), going[left], end


@law
@given(cases(), st.integers(1, 3))
def test_more_padding_changes_nothing_where_all_lengths_are_equal(case: Case, extra: int) -> None:
    batch, time, _ = case.x.shape
    lengths = torch.full((batch,), time)
    dense, state = case.encoder(case.x, lengths, case.state)
    wider = torch.cat([case.x, torch.full((batch, extra, INPUT), math.nan).double()], 1)
    packed, state_packed = case.encoder(wider, lengths, case.state)
    torch.testing.assert_close(packed[:, :time], dense, **EXACT)
    assert torch.count_nonzero(packed[:, time:]) == 0
    assert_equal_states(state, state_packed)


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("bptt", [1, 2, 3, 9])
def test_truncated_backpropagation_is_detaching_by_hand(kind: str, bptt: int) -> None:
    torch.manual_seed(0)
    make = of_cells(nested) if kind == "nested" else KINDS[kind]
    encoder = make(INPUT, HIDDEN, 1, False, bptt=bptt).double().eval()
    lengths, x = torch.tensor([7, 4, 6]), torch.randn(3, 7, INPUT, dtype=torch.float64)
    outputs, _ = encoder(x, lengths)
    outputs.square().sum().backward()
    found = [p.grad for p in encoder.parameters()]
    encoder.zero_grad()
    state: State | None = None
    total = torch.zeros((), dtype=torch.float64)
    for t in range(7):
        if state is not None and t % bptt == 0:
            state = detach_state(state)
        output, state = encoder.step(x[:, t], state)
        total = total + output[lengths > t].square().sum()
    total.backward()
    for ours, parameter in zip(found, encoder.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-9, atol=1e-10)


def test_the_backward_direction_counts_its_own_steps_of_backpropagation() -> None:
    torch.manual_seed(0)
    encoder = PeepholeLSTM(INPUT, HIDDEN, bidirectional=True, bptt=2).double()
    x = torch.randn(1, 5, INPUT, dtype=torch.float64, requires_grad=True)
    outputs, _ = encoder(x, torch.tensor([5]))
    # It reads steps 5 4 | 3 2 | 1: what it says at step 2 depends on 3 and 2 for the gradient.
    (gradient,) = torch.autograd.grad(outputs[0, 1, HIDDEN:].sum(), x)
    assert [bool(step.any()) for step in gradient[0]] == [False, True, True, False, False]


def test_the_state_before_the_first_step_can_be_learned() -> None:
    torch.manual_seed(0)
    encoder = PeepholeLSTM(INPUT, HIDDEN, start="learned").double()
    plain = PeepholeLSTM(INPUT, HIDDEN).double()
    plain.load_state_dict(
        {k.replace(".cell.", "."): v for k, v in encoder.state_dict().items()}, strict=False
    )
    x, lengths = torch.randn(2, 3, INPUT, dtype=torch.float64), torch.tensor([3, 2])
    # It starts at zero, and then is learned like any weight.
    assert torch.equal(encoder(x, lengths)[0], plain(x, lengths)[0])
    cell = encoder.cells[0]
    assert isinstance(cell, LearnedStart)
    with torch.no_grad():
        for value in cell.values:
            value.normal_()
    h, c = (v.detach().expand(2, -1).unsqueeze(0) for v in cell.values)
    outputs, _ = encoder(x, lengths)
    torch.testing.assert_close(outputs, plain(x, lengths, (h, c))[0], **EXACT)
    outputs.sum().backward()
    assert all(v.grad is not None and bool(v.grad.any()) for v in cell.values)


def test_a_recurrence_takes_indices() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.linear = nn.Embedding(10, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return (self.table(x) + self.linear(h)).sigmoid()  # type: ignore[no-any-return]

    torch.manual_seed(0)
    module = Words().double()
    encoder = Unroll([Recurrence(module, 4)])
    x = torch.randint(10, (2, 3))
    outputs, state = encoder(x, torch.tensor([3, 2]))
    h = torch.zeros(2, 4, dtype=torch.float64)
    for t in range(3):
        h = module(x[:, t], h)
        torch.testing.assert_close(outputs[0, t], h[0], **EXACT)
    assert isinstance(state, Tensor)
    torch.testing.assert_close(state[0, 0], h[0], **EXACT)


def test_a_chain_equals_its_parts_one_after_the_other() -> None:
    torch.manual_seed(0)
    first, last = PeepholeLSTMCell(5, 6), ResetBeforeGRUCell(2, 4)
    before, between = nn.Linear(INPUT, 5), nn.Linear(6, 2)
    chain = Unroll([Chain(before, first, between, nn.Tanh(), last)]).double()
    x, lengths = torch.randn(3, 6, INPUT, dtype=torch.float64), torch.tensor([6, 3, 4])
    outputs, state = chain(x, lengths)
    middle, state_first = Unroll([first])(before(x), lengths)
    expected, state_last = Unroll([last])(between(middle).tanh(), lengths)
    torch.testing.assert_close(outputs, expected)
    assert_equal_states(state, (state_first, state_last))
    assert len([*chain.parameters()]) == 4 + 3 + 1 + 4


def test_a_chain_needs_a_cell() -> None:
    with pytest.raises(
        ValueError, match=r"^a chain without a cell has no state: use nn.Sequential$"
    ):
        Chain(nn.Linear(2, 2))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_bidirectional_encoder_refuses_single_steps(kind: str) -> None:
    encoder = KINDS[kind](INPUT, HIDDEN, 1, True)
    assert not encoder.causal
    message = r"^a bidirectional encoder can't go step by step: it reads the future$"
    with pytest.raises(ValueError, match=message):
        encoder.step(torch.zeros(2, INPUT))


def test_dropout_acts_between_layers_and_in_training_only() -> None:
    torch.manual_seed(0)
    encoder = Elman(INPUT, HIDDEN, 2, dropout=0.5)
    x, lengths = torch.randn(4, 6, INPUT), torch.tensor([6, 3, 5, 1])
    assert not torch.equal(encoder(x, lengths)[0], encoder(x, lengths)[0])
    encoder.eval()
    plain = Elman(INPUT, HIDDEN, 2)
    plain.load_state_dict(encoder.state_dict())
    assert torch.equal(encoder(x, lengths)[0], plain(x, lengths)[0])
    single = Elman(INPUT, HIDDEN, dropout=0.5)
    assert torch.equal(single(x, lengths)[0], single(x, lengths)[0])
