"""Encoders that look back without a loop over time: every way of running one gives the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unrolled.models.causal import align
from unrolled.models.linear_recurrent import LinearRecurrent
from unrolled.models.memory_network import MemoryNetwork
from unrolled.models.min_gru import MinGRU
from unrolled.models.transformer import Transformer

INPUT, HIDDEN = 3, 4
TOLERANCE = {"rtol": 0.0, "atol": 1e-10}
KINDS: dict[str, Callable[[int], nn.Module]] = {
    "min_gru": lambda layers: MinGRU(INPUT, HIDDEN, layers),
    "min_gru_linear": lambda layers: MinGRU(INPUT, HIDDEN, layers, candidate="linear"),
    "linear_recurrent": lambda layers: LinearRecurrent(INPUT, HIDDEN, 5, layers),
    "transformer": lambda layers: Transformer(INPUT, HIDDEN, layers, max_length=20),
    "transformer_post": lambda layers: Transformer(
        INPUT, HIDDEN, layers, num_heads=2, feedforward_size=7, norm="post", max_length=7
    ),
    "memory_adjacent": lambda layers: MemoryNetwork(INPUT, HIDDEN, layers),
    "memory_layer_wise": lambda layers: MemoryNetwork(INPUT, HIDDEN, layers, tying="layer_wise"),
    "memory_small": lambda layers: MemoryNetwork(INPUT, HIDDEN, layers, memory_size=3),
    "memory_of_one": lambda layers: MemoryNetwork(INPUT, HIDDEN, layers, memory_size=1),
}

law = settings(max_examples=40, deadline=None)


@dataclass
class Case:
    """An encoder in float64 with a padded batch, `[batch, time, 3]`."""

    encoder: nn.Module
    x: Tensor
    lengths: Tensor


@st.composite
def cases(draw: st.DrawFn, equal: bool = False) -> Case:
    kind = draw(st.sampled_from(sorted(KINDS)))
    lengths = torch.tensor(draw(st.lists(st.integers(1, 7), min_size=1, max_size=4)))
    if equal:
        lengths = lengths.max().expand(len(lengths)).clone()
    time = int(lengths.max()) + draw(st.integers(0, 2))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    encoder = KINDS[kind](draw(st.integers(1, 3))).double()
    for parameter in encoder.parameters():
        # Larger than at the start of a training: a mistake in a small term shows too.
        parameter.data.add_(torch.randn_like(parameter), alpha=0.5)
    return Case(encoder, torch.randn(len(lengths), time, INPUT).double(), lengths)


def tensors(state: Any) -> list[Tensor]:
    """All tensors of a nested state."""
    return [state] if isinstance(state, Tensor) else [t for s in state for t in tensors(s)]


def rows(state: Any, index: Tensor) -> Any:
    """The state of some sequences of the batch, as any caller may select them."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        return state[:, index]
    return tuple(rows(s, index) for s in state)


def going_on(encoder: nn.Module, state: Any, batch: int) -> Tensor:
    """What a state does, whatever its columns: the outputs of more steps from it."""
    if isinstance(encoder, Transformer):
        encoder.max_length += 3
        old = encoder.positions
        more = torch.linspace(-1, 1, 3 * HIDDEN).double().view(3, HIDDEN)
        encoder.positions = nn.Parameter(torch.cat([old.detach(), more]))
    x = torch.linspace(-1, 1, batch * 3 * INPUT).double().view(batch, 3, INPUT)
    outputs: Tensor = encoder(x, torch.full((batch,), 3), state)[0]
    if isinstance(encoder, Transformer):
        encoder.max_length -= 3
        encoder.positions = old
    return outputs


@law
@given(cases())
def test_a_padded_batch_equals_each_sequence_alone(case: Case) -> None:
    outputs, state = case.encoder(case.x, case.lengths)
    assert outputs.shape == (*case.x.shape[:2], case.encoder.output_size)
    after = going_on(case.encoder, state, len(case.x))
    for i, length in enumerate(case.lengths.tolist()):
        alone, own = case.encoder(case.x[i : i + 1, :length], case.lengths[i : i + 1])
        torch.testing.assert_close(outputs[i, :length], alone[0], **TOLERANCE)
        assert torch.count_nonzero(outputs[i, length:]) == 0
        chosen = rows(state, torch.tensor([i]))
        torch.testing.assert_close(
            going_on(case.encoder, chosen, 1), going_on(case.encoder, own, 1), **TOLERANCE
        )
    assert after.shape == (len(case.x), 3, case.encoder.output_size)


@law
@given(cases(), st.sampled_from([-1e300, 1e30, torch.inf, torch.nan]), st.booleans())
def test_padding_never_changes_outputs_state_or_gradients(
    case: Case, garbage: float, carried: bool
) -> None:
    past = torch.arange(case.x.shape[1]) >= case.lengths[:, None]
    state = None
    if carried:
        if isinstance(case.encoder, Transformer):
            case.encoder = Transformer(INPUT, HIDDEN, max_length=20).double()
        start = (torch.arange(len(case.x)) % 3) + 1
        _, state = case.encoder(torch.ones(len(case.x), 3, INPUT).double(), start)
        state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
    results = []
    for filling in (0.0, garbage):
        x = case.x.masked_fill(past.unsqueeze(-1), filling).requires_grad_()
        case.encoder.zero_grad()
        outputs, new = case.encoder(x, case.lengths, state)
        parts = [s for s in tensors(new) if s.is_floating_point()]
        loss = outputs.square().sum() + sum(s.square().sum() for s in parts)
        loss.backward()
        assert x.grad is not None
        assert torch.equal(x.grad[past], torch.zeros_like(x.grad[past]))
        gradients = [p.grad for p in case.encoder.parameters() if p.grad is not None]
        assert gradients
        results.append([outputs.detach(), *(s.detach() for s in tensors(new)), x.grad, *gradients])
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)


@law
@given(cases())
def test_one_step_at_a_time_equals_the_full_pass(case: Case) -> None:
    outputs, final = case.encoder(case.x, case.lengths)
    state = None
    for t in range(int(case.lengths.max())):
        output, state = case.encoder.step(case.x[:, t], state)
        assert output.shape == (len(case.x), case.encoder.output_size)
        going = case.lengths > t
        torch.testing.assert_close(output[going], outputs[going, t], **TOLERANCE)
        for i in torch.nonzero(case.lengths == t + 1).flatten():
            torch.testing.assert_close(
                going_on(case.encoder, rows(state, i.view(1)), 1),
                going_on(case.encoder, rows(final, i.view(1)), 1),
                **TOLERANCE,
            )


@law
@given(cases(), st.data())
def test_chunks_with_carried_state_equal_one_pass(case: Case, data: st.DataObject) -> None:
    outputs, final = case.encoder(case.x, case.lengths)
    # Each sequence goes at a pace of its own; one that has ended leaves the batch.
    state: Any = None
    left, start = torch.arange(len(case.x)), torch.zeros_like(case.lengths)
    while len(left):
        most = int((case.lengths - start)[left].min())
        paces = data.draw(
            st.lists(st.integers(1, max(1, most)), min_size=len(left), max_size=len(left))
        )
        lengths = torch.tensor(paces)
        chunk = torch.full((len(left), int(lengths.max()), INPUT), torch.nan).double()
        for k, i in enumerate(left.tolist()):
            chunk[k, : lengths[k]] = case.x[i, start[i] : start[i] + lengths[k]]
        found, state = case.encoder(chunk, lengths, state)
        for k, i in enumerate(left.tolist()):
            expected = outputs[i, start[i] : start[i] + lengths[k]]
            torch.testing.assert_close(found[k, : lengths[k]], expected, **TOLERANCE)
        start[left] += lengths
        for k in torch.nonzero(start[left] == case.lengths[left]).flatten():
            torch.testing.assert_close(
                going_on(case.encoder, rows(state, k.view(1)), 1),
                going_on(case.encoder, rows(final, left[k].view(1)), 1),
                **TOLERANCE,
            )
        keep = torch.nonzero(start[left] < case.lengths[left]).flatten()
        left, state = left[keep], rows(state, keep)


@law
@given(cases())
def test_a_state_of_zeros_is_the_start(case: Case) -> None:
    _, state = case.encoder(case.x, case.lengths)
    batch = len(case.x)
    zeros = rows(state, torch.arange(batch))
    for part in tensors(zeros):
        part.detach().zero_()
    # Columns of forgotten sequences take no room: a Transformer of 7 steps reads 7 again.
    again, _ = case.encoder(case.x, case.lengths, zeros)
    torch.testing.assert_close(again, case.encoder(case.x, case.lengths)[0], **TOLERANCE)
    torch.testing.assert_close(
        going_on(case.encoder, zeros, batch), going_on(case.encoder, None, batch), **TOLERANCE
    )


@law
@given(cases())
def test_outputs_depend_on_no_later_step(case: Case) -> None:
    assert case.encoder.causal
    x = case.x.clone().requires_grad_()
    outputs, _ = case.encoder(x, case.lengths)
    t = int(case.lengths[0]) - 1
    (gradient,) = torch.autograd.grad(outputs[0, t // 2].sum(), x)
    assert torch.count_nonzero(gradient[0, t // 2 + 1 :]) == 0
    assert torch.count_nonzero(gradient[1:]) == 0
    assert torch.count_nonzero(gradient[0, t // 2]) > 0


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_gradients_equal_finite_differences(kind: str) -> None:
    torch.manual_seed(0)
    encoder = KINDS[kind](2).double()
    x = torch.randn(2, 4, INPUT, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([4, 2])
    _, state = encoder(torch.randn(2, 3, INPUT, dtype=torch.float64), torch.tensor([3, 1]))
    floats = [s.detach().requires_grad_() for s in tensors(state) if s.is_floating_point()]
    others = [s for s in tensors(state) if not s.is_floating_point()]
    names = list(dict(encoder.named_parameters()))

    def run(x: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        weights = dict(zip(names, inputs[: len(names)], strict=True))
        given_state: Any = (*inputs[len(names) :], *others)
        given_state = given_state[0] if isinstance(state, Tensor) else given_state
        result: Any = torch.func.functional_call(encoder, weights, (x, lengths, given_state))
        return (result[0], *(s for s in tensors(result[1]) if s.is_floating_point()))

    def fresh(x: Tensor, *inputs: Tensor) -> Tensor:
        weights = dict(zip(names, inputs, strict=True))
        outputs: Tensor = torch.func.functional_call(encoder, weights, (x, lengths))[0]
        return outputs

    parameters = tuple(encoder.parameters())
    assert torch.autograd.gradcheck(fresh, (x, *parameters), fast_mode=True)
    assert torch.autograd.gradcheck(run, (x, *parameters, *floats), fast_mode=True)


def test_align_moves_real_columns_to_the_end_in_their_order() -> None:
    columns = torch.arange(10).view(1, 2, 5, 1)
    real = torch.tensor([[[1, 0, 1, 0, 0], [0, 1, 1, 1, 1]]]).bool()
    (aligned,), kept = align((columns,), real, 3)
    assert aligned[0, 0, 1:, 0].tolist() == [0, 2]
    assert aligned[0, 1, :, 0].tolist() == [7, 8, 9]
    assert kept.tolist() == [[[False, True, True], [True, True, True]]]
