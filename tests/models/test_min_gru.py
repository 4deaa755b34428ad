"""MinGRU: the published recurrence, step by step in numpy, whatever its gates are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.models.min_gru import MinGRU, linear_recurrence

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}
law = settings(max_examples=25, deadline=None)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -x))


def published(encoder: MinGRU, x: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Algorithm 1 of the paper, sequential, `[time, input]` to `[time, hidden]`."""
    size = encoder.output_size
    for layer, h in zip(encoder.layers, state, strict=True):
        weight, bias = (p.detach().numpy() for p in (layer.weight, layer.bias))
        steps = []
        for x_t in x:
            z = sigmoid(weight[:size] @ x_t + bias[:size])
            candidate = weight[size:] @ x_t + bias[size:]
            if encoder.candidate == "positive":
                candidate = np.where(candidate >= 0, candidate + 0.5, sigmoid(candidate))
            h = (1 - z) * h + z * candidate
            steps.append(h)
        x = np.stack(steps)
    return x


@law
@given(
    st.integers(0, 2**31),
    st.integers(1, 3),
    st.integers(1, 70),
    st.sampled_from(["positive", "linear"]),
)
def test_outputs_equal_the_published_equations(
    seed: int, layers: int, time: int, candidate: str
) -> None:
    torch.manual_seed(seed)
    encoder = MinGRU(3, 4, layers, candidate=candidate).double()  # type: ignore[arg-type]
    for parameter in encoder.parameters():
        parameter.data.mul_(3.0)
    x = torch.randn(2, time, 3, dtype=torch.float64)
    state = torch.randn(layers, 2, 4, dtype=torch.float64)
    outputs, last = encoder(x, torch.full((2,), time), state)
    for i in range(2):
        expected = torch.from_numpy(published(encoder, x[i].numpy(), state[:, i].numpy()))
        torch.testing.assert_close(outputs[i], expected, **TOLERANCE)
        torch.testing.assert_close(last[-1, i], expected[-1], **TOLERANCE)


@pytest.mark.parametrize("time", [1, 2, 3, 999, 1000, 1024])
@pytest.mark.parametrize("scale", [1.0, 40.0, 1000.0])
def test_the_scan_equals_the_loop_for_gates_near_zero_and_one(time: int, scale: float) -> None:
    torch.manual_seed(time)
    gate = scale * torch.randn(2, time, 5, dtype=torch.float64)
    a, b = (-gate).sigmoid(), gate.sigmoid() * torch.randn(2, time, 5, dtype=torch.float64)
    start = torch.randn(2, 5, dtype=torch.float64)
    weights = torch.randn(2, time, 5, dtype=torch.float64)
    inputs = [v.requires_grad_() for v in (a, b, start)]
    h, states = start, []
    for t in range(time):
        h = a[:, t] * h + b[:, t]
        states.append(h)
    loop = torch.stack(states, 1)
    scan = linear_recurrence(a, b, start)
    torch.testing.assert_close(scan, loop, **TOLERANCE)
    found = torch.autograd.grad((scan * weights).sum(), inputs)
    expected = torch.autograd.grad((loop * weights).sum(), inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **TOLERANCE)


def test_in_single_precision_long_open_and_closed_gates_lose_nothing() -> None:
    # Logarithms of products, the paper's way, lose digits here: the sum of 1,000 of them is large.
    a = torch.full((1, 1000, 1), 1.0)
    a[:, 500] = 0.0
    b = torch.zeros(1, 1000, 1)
    b[:, 500] = 0.1
    assert torch.equal(linear_recurrence(a, b)[0, 500:], torch.full((500, 1), 0.1))


def test_the_scan_passes_gradcheck() -> None:
    torch.manual_seed(0)
    a = torch.rand(2, 7, 2, dtype=torch.float64, requires_grad=True)
    b = torch.randn(2, 7, 2, dtype=torch.float64, requires_grad=True)
    h = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(linear_recurrence, (a, b))
    assert torch.autograd.gradcheck(linear_recurrence, (a, b, h))


def test_the_gate_bias_decides_how_long_the_state_lasts() -> None:
    encoder = MinGRU(2, 3, num_layers=2, gate_bias=-4.0).double()
    for layer in encoder.layers:
        assert torch.equal(layer.bias[:3], torch.full((3,), -4.0).double())
        layer.weight.data.zero_()
        layer.bias.data[3:] = -1e3
    state = torch.ones(2, 1, 3).double()
    outputs, _ = encoder(torch.zeros(1, 50, 2).double(), torch.tensor([50]), state)
    kept = (1 - 1 / (1 + np.exp(4.0))) ** 50
    assert outputs[0, -1].tolist() == pytest.approx([kept] * 3)
    assert 0.3 < kept < 0.5


def test_dropout_acts_between_layers_and_in_training_only() -> None:
    torch.manual_seed(0)
    encoder = MinGRU(3, 4, num_layers=2, dropout=0.5)
    x, lengths = torch.randn(4, 6, 3), torch.tensor([6, 3, 5, 1])
    assert not torch.equal(encoder(x, lengths)[0], encoder(x, lengths)[0])
    assert torch.equal(encoder(x, lengths)[1][0], encoder(x, lengths)[1][0])
    encoder.eval()
    assert torch.equal(encoder(x, lengths)[0], encoder(x, lengths)[0])
