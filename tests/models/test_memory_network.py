"""The memory network: the published equations for each step by loops in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.models.memory_network import MemoryNetwork, by_age, by_column

TOLERANCE = {"rtol": 0.0, "atol": 1e-10}


def published(encoder: MemoryNetwork, x: np.ndarray, tying: str) -> np.ndarray:
    """Sukhbaatar et al. 2015, eq. 1 to 3 and section 2.2, for the question at each step."""
    size = encoder.output_size
    embeddings = encoder.embed.weight.detach().numpy().reshape(-1, size, x.shape[1])
    ages = encoder.ages.detach().numpy()
    result = []
    for t in range(len(x)):
        if tying == "adjacent":
            u = embeddings[0] @ x[t]
        else:
            assert encoder.question is not None
            u = encoder.question.weight.detach().numpy() @ x[t]
        first = max(0, t - encoder.memory_size + 1)
        for hop in range(encoder.num_hops):
            a, c = (hop, hop + 1) if tying == "adjacent" else (0, 1)
            m = np.stack([embeddings[a] @ x[i] + ages[a, t - i] for i in range(first, t + 1)])
            out = np.stack([embeddings[c] @ x[i] + ages[c, t - i] for i in range(first, t + 1)])
            p = np.exp(m @ u)
            o = (p / p.sum()) @ out
            if encoder.between is not None:
                u = encoder.between.weight.detach().numpy() @ u
            u = u + o
        result.append(u)
    return np.stack(result)


@pytest.mark.parametrize("tying", ["adjacent", "layer_wise"])
@pytest.mark.parametrize("hops", [1, 3])
@pytest.mark.parametrize("memory_size", [1, 4, 9, 100])
def test_outputs_equal_the_published_equations(tying: Any, hops: int, memory_size: int) -> None:
    torch.manual_seed(hops)
    encoder = MemoryNetwork(3, 4, hops, memory_size, tying).double()
    encoder.ages.data.mul_(5.0)
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    outputs, _ = encoder(x, torch.tensor([9, 9]))
    for i in range(2):
        expected = torch.from_numpy(published(encoder, x[i].numpy(), tying))
        torch.testing.assert_close(outputs[i], expected, **TOLERANCE)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(0, 5))
def test_scores_by_age_stand_at_the_column_of_that_age(batch: int, time: int, kept: int) -> None:
    columns = kept + time
    scores = torch.randn(batch, time, columns)
    found = by_column(scores)
    weights = torch.rand(batch, time, columns).tril(kept)
    back = by_age(weights)
    for t in range(time):
        for j in range(kept + t + 1):
            # Ages fall from left to right: the newest is the last.
            place = columns - 1 - (kept + t - j)
            assert torch.equal(found[:, t, j], scores[:, t, place])
            assert torch.equal(back[:, t, place], weights[:, t, j])
    torch.testing.assert_close(back.sum(-1), weights.sum(-1))


def test_the_memory_keeps_no_more_than_it_needs() -> None:
    encoder = MemoryNetwork(2, 3, memory_size=4)
    state = None
    for t in range(6):
        _, state = encoder.step(torch.randn(2, 2), state)
        assert state[0].shape == (4, 2, min(t + 1, 3), 3)
        assert state[1].shape == (1, 2, min(t + 1, 3))


def test_a_step_past_the_memory_is_forgotten() -> None:
    torch.manual_seed(0)
    encoder = MemoryNetwork(2, 3, memory_size=4).double()
    x = torch.randn(1, 9, 2, dtype=torch.float64, requires_grad=True)
    outputs, _ = encoder(x, torch.tensor([9]))
    (gradient,) = torch.autograd.grad(outputs[0, -1].sum(), x)
    assert torch.count_nonzero(gradient[0, :5]) == 0
    assert bool((gradient[0, 5:] != 0).all())
