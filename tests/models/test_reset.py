"""Reset at zero steps, against each piece run alone, and how it differs from holding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unrolled.models.cells.elman import Elman
from unrolled.models.cells.peephole_lstm import PeepholeLSTM
from unrolled.models.readout import Last
from unrolled.models.recurrent import GRU, LSTM
from unrolled.models.reset import Reset
from unrolled.models.state import State, detach_state, map_state, select_rows

KINDS: dict[str, Callable[..., Any]] = {
    "lstm": LSTM,
    "gru": GRU,
    "elman": Elman,
    "peepholes": PeepholeLSTM,
}
EXACT = {"rtol": 0.0, "atol": 1e-10}
law = settings(max_examples=25, deadline=None)


def make(kind: str, **options: Any) -> Reset:
    return Reset(2, lambda input_size: KINDS[kind](input_size, 3, **options)).double()


def row_of(state: State | None, k: int) -> State | None:
    return None if state is None else select_rows(state, torch.tensor([k]))


def assert_equal_states(one: State, other: State) -> None:
    map_state(lambda a, b: (torch.testing.assert_close(a, b, **EXACT), a)[1], one, other)


def by_hand(encoder: Reset, x: Tensor, state: State | None) -> tuple[Tensor, State]:
    """One row, `[time, input]`, piece after piece."""
    plain, fresh = encoder.encoder, encoder.start(1, x)
    outputs = x.new_zeros(len(x), encoder.output_size)
    current, start = (fresh if state is None else state), 0
    for t in range(len(x) + 1):
        if t < len(x) and bool(x[t].any()):
            continue
        if t > start:
            piece, current = plain(x[None, start:t], torch.tensor([t - start]), current)
            outputs[start:t] = piece[0]
        if t < len(x):
            current = fresh
        start = t + 1
    return outputs, current


@law
@given(
    st.sampled_from(sorted(KINDS)),
    st.booleans(),
    st.lists(st.lists(st.booleans(), min_size=1, max_size=7), min_size=1, max_size=4),
    st.booleans(),
)
def test_the_pieces_between_zero_steps_are_sequences_of_their_own(
    kind: str, bidirectional: bool, zeros: list[list[bool]], carried: bool
) -> None:
    torch.manual_seed(len(zeros))
    encoder = make(kind, num_layers=2, bidirectional=bidirectional)
    lengths = torch.tensor([len(z) for z in zeros])
    x = torch.randn(len(zeros), int(lengths.max()) + 1, 2, dtype=torch.float64)
    for k, row in enumerate(zeros):
        x[k, : len(row)][torch.tensor(row)] = 0.0
        x[k, len(row) :] = torch.nan
    state: State | None = None
    if carried:
        _, state = encoder.encoder(torch.randn(len(x), 2, 2).double(), torch.full_like(lengths, 2))
        state = detach_state(state)
    outputs, final = encoder(x, lengths, state)
    for k, length in enumerate(lengths.tolist()):
        expected, end = by_hand(encoder, x[k, :length], row_of(state, k))
        torch.testing.assert_close(outputs[k, :length], expected, **EXACT)
        assert torch.count_nonzero(outputs[k, length:]) == 0
        assert_equal_states(row_of(final, k), end)  # type: ignore[arg-type]
    if not bidirectional:
        current = state
        for t in range(x.shape[1]):
            output, current = encoder.step(x[:, t].nan_to_num(), current)
            going = lengths > t
            torch.testing.assert_close(output[going], outputs[going, t], **EXACT)
            for k in torch.nonzero(lengths == t + 1).flatten().tolist():
                assert_equal_states(row_of(current, k), row_of(final, k))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_padding_and_zero_steps_get_no_gradient(kind: str) -> None:
    torch.manual_seed(0)
    encoder = make(kind)
    x = torch.randn(2, 5, 2, dtype=torch.float64)
    x[0, 2] = 0.0
    x[1, 3:] = torch.nan
    x.requires_grad_()
    outputs, state = encoder(x, torch.tensor([5, 3]))
    (outputs.sum() + sum(s.sum() for s in flat(state))).backward()
    assert x.grad is not None
    read = x.grad.any(-1)
    assert read.tolist() == [[True, True, False, True, True], [True, True, True, False, False]]
    assert all(bool(p.grad.isfinite().all()) for p in encoder.parameters() if p.grad is not None)
    # What follows a zero step owes nothing to what came before it.
    (gradient,) = torch.autograd.grad(encoder(x, torch.tensor([5, 3]))[0][0, 4].sum(), x)
    assert gradient[0].any(-1).tolist() == [False, False, False, True, True]


def flat(state: State) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else [s for part in state for s in flat(part)]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_hold_reset_and_select_differ_as_documented(kind: str) -> None:
    torch.manual_seed(0)
    encoder = make(kind)
    held = encoder.encoder
    real = torch.randn(1, 3, 2, dtype=torch.float64)
    padded = torch.cat([real, torch.zeros(1, 2, 2, dtype=torch.float64)], 1)
    three, five = torch.tensor([3]), torch.tensor([5])
    expected, state = held(real, three)
    select = Last(3)

    # Hold: the steps past the length are none, the state stays, `last` is that of the last real.
    outputs, kept = held(padded, three)
    torch.testing.assert_close(outputs[:, :3], expected, **EXACT)
    assert_equal_states(kept, state)
    assert torch.equal(select(outputs, three), outputs[:, 2])

    # Reset: the zero steps are steps, so the state is lost and `last` finds zero.
    outputs, lost = encoder(padded, five)
    torch.testing.assert_close(outputs[:, :3], expected, **EXACT)
    assert_equal_states(lost, encoder.start(1, real))
    assert torch.equal(select(outputs, five), torch.zeros_like(outputs[:, 0]))

    # With padding on the left `last` finds what it should.
    left = padded.roll(2, 1)
    outputs, kept = encoder(left, five)
    torch.testing.assert_close(select(outputs, five), expected[:, -1], **EXACT)
    assert_equal_states(kept, state)

    # Neither: the encoder alone reads zero steps inside the length like any other.
    outputs, _ = held(padded, five)
    assert bool((outputs[:, 3:] != 0).all())


def test_a_batch_of_zeros_gives_zeros_and_the_start() -> None:
    encoder = make("elman")
    x = torch.zeros(2, 4, 2, dtype=torch.float64)
    outputs, state = encoder(x, torch.tensor([4, 2]))
    assert torch.equal(outputs, torch.zeros(2, 4, 3, dtype=torch.float64))
    assert_equal_states(state, encoder.start(2, x))


def test_reset_is_as_wide_and_as_causal_as_its_encoder() -> None:
    assert make("lstm").causal
    both = Reset(2, lambda input_size, hidden_size: LSTM(input_size, hidden_size, 1, True), 5)
    assert not both.causal
    assert both.output_size == 10
    with pytest.raises(ValueError, match=r"^a bidirectional encoder can't go step by step"):
        both.step(torch.zeros(1, 2))
