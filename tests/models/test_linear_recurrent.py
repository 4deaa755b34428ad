"""The linear recurrent unit: the published recurrence, step by step in numpy."""

from __future__ import annotations

import math
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unrolled.models.linear_recurrent import LinearRecurrent, constant_recurrence
from unrolled.models.state import detach_state

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}
law = settings(max_examples=25, deadline=None)


def published(encoder: LinearRecurrent, x: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Section 3 and appendix A of the paper, sequential, `[time, input]` to `[time, hidden]`."""

    def linear(name: str, values: np.ndarray) -> np.ndarray:
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    weights = {k: v.detach().numpy() for k, v in encoder.state_dict().items()}
    x = linear("project", x)
    for k, start in enumerate(state):
        name = f"layers.{k}."
        nu, theta, log_gamma = (
            weights[name + "drawn"] + encoder.layers[k].factor_rate * weights[name + "moved"]
        )
        factor = np.exp(-np.exp(nu) + 1j * theta)
        b = weights[name + "write"][0::2] + 1j * weights[name + "write"][1::2]
        # Re(C h) is the real part's weights times the real part less the imaginary part's.
        c = weights[name + "read"][:, 0::2] - 1j * weights[name + "read"][:, 1::2]
        h = start[:, 0] + 1j * start[:, 1]
        steps = []
        for x_t in x:
            u = (x_t - x_t.mean()) / np.sqrt(x_t.var() + 1e-5)
            u = u * weights[name + "norm.weight"] + weights[name + "norm.bias"]
            h = factor * h + np.exp(log_gamma) * (b @ u)
            y = (c @ h).real + weights[name + "skip"] * u
            y = y * np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in y])
            value, gate = np.split(linear(name + "mix", y), 2)
            steps.append(x_t + value / (1 + np.exp(-gate)))
        x = np.stack(steps)
    return x


@law
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 40))
def test_outputs_equal_the_published_equations(seed: int, layers: int, time: int) -> None:
    torch.manual_seed(seed)
    encoder = LinearRecurrent(3, 4, 5, layers).double()
    for parameter in encoder.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.5)
    x = torch.randn(2, time, 3, dtype=torch.float64)
    state = torch.randn(layers, 2, 5, 2, dtype=torch.float64)
    outputs, last = encoder(x, torch.full((2,), time), state)
    for i in range(2):
        expected = torch.from_numpy(published(encoder, x[i].numpy(), state[:, i].numpy()))
        torch.testing.assert_close(outputs[i], expected, **TOLERANCE)
    assert last.shape == state.shape


@pytest.mark.parametrize("time", [1, 2, 3, 5, 9, 10, 220, 999])
@pytest.mark.parametrize("radius", [0.0, 0.5, 0.9999, 1.0])
def test_blocks_of_steps_equal_the_loop(time: int, radius: float) -> None:
    torch.manual_seed(time)
    factor = torch.polar(torch.full((5,), radius).double(), 2 * math.pi * torch.rand(5).double())
    terms, weights = torch.randn(2, 2, time, 5, dtype=torch.complex128)
    start = torch.randn(2, 5, dtype=torch.complex128)
    inputs = [v.requires_grad_() for v in (factor, terms, start)]
    h, states = start, []
    for t in range(time):
        h = factor * h + terms[:, t]
        states.append(h)
    loop = torch.stack(states, 1)
    blocks = constant_recurrence(factor, terms, start)
    torch.testing.assert_close(blocks, loop, **TOLERANCE)
    found = torch.autograd.grad((blocks * weights).real.sum(), inputs)
    expected = torch.autograd.grad((loop * weights).real.sum(), inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **TOLERANCE)


def test_single_precision_loses_little_over_two_thousand_steps() -> None:
    torch.manual_seed(0)
    angle = 2 * math.pi * torch.rand(16)
    factor = torch.polar(torch.full((16,), 0.9999), angle)
    terms = torch.randn(2, 2000, 16, dtype=torch.complex64)
    # The loop over the same rounded factors, in double precision.
    exact = constant_recurrence(factor.to(torch.complex128), terms.to(torch.complex128))
    error = (constant_recurrence(factor, terms) - exact).abs().max() / exact.abs().max()
    assert error < 1e-4


@pytest.mark.parametrize("time", [1, 2, 7])
def test_the_recurrence_passes_gradcheck(time: int) -> None:
    torch.manual_seed(0)
    factor = (0.7 * torch.randn(2, dtype=torch.complex128)).requires_grad_()
    terms = torch.randn(2, time, 2, dtype=torch.complex128, requires_grad=True)
    start = torch.randn(2, 2, dtype=torch.complex128, requires_grad=True)
    assert torch.autograd.gradcheck(constant_recurrence, (factor, terms))
    assert torch.autograd.gradcheck(constant_recurrence, (factor, terms, start))


def layer_factors(encoder: LinearRecurrent) -> tuple[Tensor, Tensor]:
    factor, gamma = encoder.layers[0].factors()
    return factor.detach(), gamma.detach()


@law
@given(
    st.floats(0, 0.999), st.floats(0.001, 0.9999), st.floats(0, 2 * math.pi), st.integers(0, 2**31)
)
def test_factors_start_within_the_ring(one: float, other: float, phase: float, seed: int) -> None:
    torch.manual_seed(seed)
    low, high = sorted((one, other))
    encoder = LinearRecurrent(
        2, 3, state_size=50, min_radius=min(low, 0.999), max_radius=high, max_phase=phase
    )
    factor, gamma = layer_factors(encoder)
    radius, angle = factor.abs(), factor.angle().remainder(2 * math.pi)
    assert float(radius.min()) >= low - 1e-5
    assert float(radius.max()) <= high + 1e-5
    assert bool(((angle <= phase + 1e-5) | (angle > 2 * math.pi - 1e-5)).all())
    assert torch.isfinite(gamma).all()
    torch.testing.assert_close(gamma, (1 - radius.square()).sqrt(), rtol=1e-2, atol=1e-5)


def test_factors_fill_the_ring_evenly() -> None:
    torch.manual_seed(0)
    encoder = LinearRecurrent(2, 3, state_size=20_000, min_radius=0.5, max_radius=0.9)
    factor, _ = layer_factors(encoder)
    # Half of the area, half of the angles, and as much on every side of the centre.
    middle = math.sqrt((0.5**2 + 0.9**2) / 2)
    assert float((factor.abs() < middle).float().mean()) == pytest.approx(0.5, abs=0.02)
    assert float(factor.mean().abs()) < 0.02


def test_the_memory_of_white_noise_is_as_large_as_the_noise() -> None:
    torch.manual_seed(0)
    encoder = LinearRecurrent(2, 8, state_size=64, min_radius=0.8, max_radius=0.99)
    layer = encoder.layers[0]
    _, states = layer(torch.randn(4, 2000, 8), None)
    # Real and imaginary part of a number: a variance of 1/2 each.
    assert float(states[:, 500:].detach().square().mean()) == pytest.approx(0.5, rel=0.1)


def test_the_factor_rate_scales_what_an_update_does_to_the_factors() -> None:
    starts, after = [], []
    for rate in (0.0, 0.01, 1.0):
        torch.manual_seed(0)
        encoder = LinearRecurrent(3, 4, 5, 1, max_radius=0.99, factor_rate=rate)
        starts.append(layer_factors(encoder)[0])
        optimizer = torch.optim.Adam(encoder.parameters(), lr=0.01)
        outputs, _ = encoder(torch.randn(2, 9, 3), torch.tensor([9, 9]))
        outputs[:, -1].square().sum().backward()
        optimizer.step()
        after.append(layer_factors(encoder)[0])
    assert torch.equal(starts[0], starts[2])
    assert torch.equal(starts[0], after[0])
    turned = [(a / starts[0]).angle().abs() for a in after]
    # Adam's first step is the learning rate, whatever the gradient.
    torch.testing.assert_close(turned[1], torch.full((5,), 1e-4), rtol=0.05, atol=0.0)
    torch.testing.assert_close(turned[2], torch.full((5,), 1e-2), rtol=0.05, atol=0.0)


def test_the_state_is_real_and_can_be_saved_and_detached() -> None:
    encoder = LinearRecurrent(3, 4, 5)
    _, state = encoder(torch.randn(2, 6, 3), torch.tensor([6, 2]))
    detached = detach_state(state)
    assert isinstance(detached, Tensor)
    assert detached.shape == (2, 2, 5, 2)
    assert state.requires_grad
    assert not detached.requires_grad
    file = BytesIO()
    torch.save({"state": detached, "weights": encoder.state_dict()}, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True)["state"], detached)


def test_half_precision_leaves_the_memory_in_single_precision() -> None:
    torch.manual_seed(0)
    encoder = LinearRecurrent(3, 4, 5)
    x, lengths = torch.randn(2, 6, 3), torch.tensor([6, 2])
    exact, _ = encoder(x, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        outputs, state = encoder(x, lengths)
        outputs.float().sum().backward()
    assert state.dtype == torch.float32
    torch.testing.assert_close(outputs.float(), exact, rtol=0.1, atol=0.1)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    encoder = LinearRecurrent(3, 4, dropout=0.5)
    x, lengths = torch.randn(4, 6, 3), torch.tensor([6, 3, 5, 1])
    assert not torch.equal(encoder(x, lengths)[0], encoder(x, lengths)[0])
    encoder.eval()
    assert torch.equal(encoder(x, lengths)[0], encoder(x, lengths)[0])


def test_a_ring_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match=r"min_radius=0\.95 is larger than max_radius=0\.9"):
        LinearRecurrent(2, min_radius=0.95, max_radius=0.9)
