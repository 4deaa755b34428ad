"""Read-outs: each equals a loop over the sequences, and what is past the length has no part."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unrolled.models.readout import Attention, EveryStep, Last, Max, Mean, Sum, padding_mask
from unrolled.models.recurrent import GRU, LSTM

SIZE = 3
READOUTS: dict[str, Callable[[], nn.Module]] = {
    "last": lambda: Last(SIZE),
    "mean": lambda: Mean(SIZE),
    "sum": lambda: Sum(SIZE),
    "max": lambda: Max(SIZE),
    "attention": lambda: Attention(SIZE, attention_size=5),
}

law = settings(max_examples=25, deadline=None)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Outputs `[batch, time, 3]`, zero past the length as encoders give them, and lengths."""
    lengths = torch.tensor(draw(st.lists(st.integers(1, 6), min_size=1, max_size=5)))
    time = int(lengths.max()) + draw(st.integers(0, 2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    outputs = torch.randn(len(lengths), time, SIZE, generator=generator, dtype=torch.float64)
    past = torch.arange(time) >= lengths[:, None]
    return outputs.masked_fill(past.unsqueeze(-1), 0.0), lengths


def attention_weights(readout: Attention, steps: Tensor) -> list[float]:
    """The weights of one sequence's steps `[time, 3]`, one after the other."""
    hidden, query = readout.score[0], readout.score[2].weight[0]
    scores = [torch.tanh(hidden.weight @ h + hidden.bias) @ query for h in steps]
    powers = [s.exp().item() for s in scores]
    return [p / sum(powers) for p in powers]


def one_sequence(readout: nn.Module, steps: Tensor) -> Tensor:
    """What the read-out should give for one sequence's real steps, `[time, 3]`."""
    if isinstance(readout, Last):
        return steps[-1]
    if isinstance(readout, Mean | Sum):
        count = len(steps) if isinstance(readout, Mean) else 1
        means = [sum(steps[:, c].tolist()) / count for c in range(SIZE)]
        return torch.tensor(means, dtype=steps.dtype)
    if isinstance(readout, Max):
        return torch.tensor([max(steps[:, c].tolist()) for c in range(SIZE)], dtype=steps.dtype)
    assert isinstance(readout, Attention)
    weights = attention_weights(readout, steps)
    return sum((w * h for w, h in zip(weights, steps, strict=True)), torch.zeros_like(steps[0]))


@pytest.mark.parametrize("name", READOUTS)
@law
@given(batch=batches())
def test_a_read_out_equals_a_loop_over_the_sequences(
    name: str, batch: tuple[Tensor, Tensor]
) -> None:
    outputs, lengths = batch
    torch.manual_seed(1)
    readout = READOUTS[name]().double()
    vectors = readout(outputs, lengths)
    assert vectors.shape == (len(lengths), SIZE)
    for vector, steps, length in zip(vectors, outputs, lengths.tolist(), strict=True):
        expected = one_sequence(readout, steps[:length])
        torch.testing.assert_close(vector, expected, rtol=0.0, atol=1e-10)


# `Mean` relies on the zeros that encoders give; the test below this one holds it to the same.
@pytest.mark.parametrize("name", ["last", "max", "attention"])
@law
@given(batch=batches(), garbage=st.sampled_from([-1e30, 1e30, 1e300]))
def test_padding_never_changes_a_read_out_or_its_gradients(
    name: str, batch: tuple[Tensor, Tensor], garbage: float
) -> None:
    clean, lengths = batch
    past = padding_mask(lengths, clean.shape[1], clean.device)
    torch.manual_seed(1)
    readout = READOUTS[name]().double()
    results = []
    for filling in (0.0, garbage):
        outputs = clean.masked_fill(past.unsqueeze(-1), filling).requires_grad_()
        readout.zero_grad()
        vectors = readout(outputs, lengths)
        vectors.square().sum().backward()
        assert outputs.grad is not None
        assert torch.count_nonzero(outputs.grad[past]) == 0
        results.append([vectors.detach(), outputs.grad, *(p.grad for p in readout.parameters())])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", READOUTS)
@law
@given(batch=batches(), garbage=st.sampled_from([-1e30, 1e30]))
def test_padding_never_changes_a_read_out_behind_an_encoder(
    name: str, batch: tuple[Tensor, Tensor], garbage: float
) -> None:
    x, lengths = batch
    past = padding_mask(lengths, x.shape[1], x.device).unsqueeze(-1)
    torch.manual_seed(1)
    encoder, readout = GRU(SIZE, SIZE).double(), READOUTS[name]().double()
    clean = readout(encoder(x, lengths)[0], lengths)
    dirty = readout(encoder(x.masked_fill(past, garbage), lengths)[0], lengths)
    assert torch.equal(clean, dirty)
    wider = torch.cat([x, torch.full_like(x[:, :1], garbage)], 1)
    torch.testing.assert_close(
        readout(encoder(wider, lengths)[0], lengths), clean, rtol=0.0, atol=1e-12
    )


@law
@given(batches())
def test_attention_weights_sum_to_one_over_the_real_steps(batch: tuple[Tensor, Tensor]) -> None:
    outputs, lengths = batch
    torch.manual_seed(1)
    readout = Attention(SIZE).double()
    past = padding_mask(lengths, outputs.shape[1], outputs.device)
    # With a one in a channel of every real step, the weighted mean of that channel is the sum of
    # the real steps' weights; past the length the channel would add another value.
    marked = outputs.clone()
    marked[:, :, 0] = torch.where(past, 1e6, 1.0)
    torch.testing.assert_close(
        readout(marked, lengths)[:, 0],
        torch.ones(len(lengths), dtype=torch.float64),
        rtol=0.0,
        atol=1e-12,
    )


@law
@given(batches())
def test_attention_with_equal_scores_is_the_mean(batch: tuple[Tensor, Tensor]) -> None:
    outputs, lengths = batch
    attention, mean = Attention(SIZE).double(), Mean(SIZE)
    with torch.no_grad():
        attention.score[2].weight.zero_()
    torch.testing.assert_close(
        attention(outputs, lengths), mean(outputs, lengths), rtol=0.0, atol=1e-12
    )


def test_max_of_negative_values_is_not_the_padding() -> None:
    outputs = torch.tensor([[[-3.0], [-1.0], [0.0]], [[-2.0], [-5.0], [-4.0]]])
    vectors = Max(1)(outputs, torch.tensor([2, 3]))
    assert vectors.tolist() == [[-1.0], [-2.0]]


def test_last_of_both_directions_is_all_steps_forward_beside_one_step_backward() -> None:
    torch.manual_seed(0)
    encoder = LSTM(SIZE, 4, bidirectional=True).double()
    x, lengths = torch.randn(3, 5, SIZE, dtype=torch.float64), torch.tensor([5, 2, 3])
    outputs, (hidden, _) = encoder(x, lengths)
    vectors = Last(encoder.output_size)(outputs, lengths)
    torch.testing.assert_close(vectors[:, :4], hidden[0])
    for i, length in enumerate(lengths.tolist()):
        only_last, _ = encoder(x[i : i + 1, length - 1 : length], torch.tensor([1]))
        torch.testing.assert_close(vectors[i, 4:], only_last[0, 0, 4:])


@pytest.mark.parametrize("name", READOUTS)
def test_a_read_out_names_the_size_of_its_vectors(name: str) -> None:
    readout = READOUTS[name]()
    vectors = readout(torch.ones(2, 4, SIZE), torch.tensor([4, 4]))
    assert readout.output_size == vectors.shape[1] == SIZE


def test_the_padding_mask_is_true_from_the_length_on() -> None:
    mask = padding_mask(torch.tensor([1, 3, 2]), 3, torch.device("cpu"))
    assert mask.tolist() == [[False, True, True], [False, False, False], [False, False, True]]


def test_every_step_gives_every_step() -> None:
    outputs = torch.randn(2, 3, SIZE)
    assert EveryStep(SIZE)(outputs, torch.tensor([3, 1])) is outputs
