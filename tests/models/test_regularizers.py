"""NormStabilizer: its value and gradient by the published formulas, sequence by sequence."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.models.min_gru import MinGRU
from unrolled.models.recurrent import GRU, LSTM
from unrolled.models.regularizers import NormStabilizer

law = settings(max_examples=25, deadline=None)
over_time = st.sampled_from(["mean", "sum"])


def published(
    h: np.ndarray, lengths: list[int], beta: float, over: str
) -> tuple[float, np.ndarray]:
    """The penalty, and (2 beta / B) [(n_t - n_{t-1}) + (n_t - n_{t+1})] h_t / n_t for each step."""
    penalty, gradient = 0.0, np.zeros_like(h)
    for i, length in enumerate(lengths):
        n = np.sqrt((h[i] ** 2).sum(-1))
        scale = beta / len(lengths) / (length if over == "mean" else 1)
        for t in range(length):
            factor = 0.0
            if t > 0:
                penalty += scale * (n[t] - n[t - 1]) ** 2
                factor += n[t] - n[t - 1]
            if t + 1 < length:
                factor += n[t] - n[t + 1]
            gradient[i, t] = 2 * scale * factor * h[i, t] / n[t]
    return penalty, gradient


@law
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=5),
    st.floats(0.1, 50),
    over_time,
    st.integers(0, 2**31),
)
def test_value_and_gradient_equal_the_formulas(
    lengths: list[int], beta: float, over: Literal["mean", "sum"], seed: int
) -> None:
    torch.manual_seed(seed)
    outputs = torch.randn(len(lengths), max(lengths) + 1, 4, dtype=torch.float64)
    for i, length in enumerate(lengths):
        outputs[i, length:] = torch.nan
    outputs.requires_grad_()
    penalty = NormStabilizer(beta, over)(outputs, torch.tensor(lengths))
    value, gradient = published(outputs.detach().numpy(), lengths, beta, over)
    assert penalty.shape == ()
    assert float(penalty.detach()) == pytest.approx(value, rel=1e-10, abs=1e-12)
    (found,) = torch.autograd.grad(penalty, outputs)
    torch.testing.assert_close(found, torch.from_numpy(gradient), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("over", ["mean", "sum"])
def test_the_gradient_equals_finite_differences(over: Any) -> None:
    torch.manual_seed(0)
    outputs = torch.randn(3, 5, 2, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([5, 1, 3])
    penalty = NormStabilizer(2.0, over)
    assert torch.autograd.gradcheck(lambda h: penalty(h, lengths), (outputs,))


def test_states_of_zeros_have_a_finite_gradient() -> None:
    outputs = torch.zeros(2, 4, 3, requires_grad=True)
    NormStabilizer()(outputs, torch.tensor([4, 2])).backward()
    assert outputs.grad is not None
    assert torch.count_nonzero(outputs.grad) == 0
    # One step of norm 5 among zeros: the zeros stay where they are, it is drawn to them.
    outputs = torch.zeros(1, 3, 2)
    outputs[0, 1] = torch.tensor([3.0, 4.0])
    outputs.requires_grad_()
    penalty = NormStabilizer(over_time="sum")(outputs, torch.tensor([3]))
    penalty.backward()
    assert outputs.grad is not None
    assert float(penalty.detach()) == pytest.approx(50.0)
    assert outputs.grad[0, 1].tolist() == pytest.approx([12.0, 16.0])
    assert torch.count_nonzero(outputs.grad[0, [0, 2]]) == 0


def test_equal_norms_cost_nothing_whatever_their_direction() -> None:
    angles = torch.linspace(0, 3, 6, dtype=torch.float64)
    circle = 2 * torch.stack([angles.cos(), angles.sin()], -1).unsqueeze(0)
    assert float(NormStabilizer(1e6)(circle, torch.tensor([6]))) == pytest.approx(0, abs=1e-20)
    # The step into the circle from a state of zeros is not among the changes.
    assert float(NormStabilizer()(circle[:, :1], torch.tensor([1]))) == 0.0


@pytest.mark.parametrize("kind", [LSTM, GRU, MinGRU])
def test_a_trained_penalty_evens_the_norms_of_any_encoder(kind: Any) -> None:
    torch.manual_seed(0)
    encoder, penalty = kind(3, 8), NormStabilizer()
    x, lengths = torch.randn(8, 12, 3), torch.randint(2, 13, (8,))
    optimizer = torch.optim.Adam(encoder.parameters(), lr=0.02)
    before = float(penalty(encoder(x, lengths)[0], lengths).detach())
    for _ in range(20):
        optimizer.zero_grad()
        loss = penalty(encoder(x, lengths)[0], lengths)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.6 * before
