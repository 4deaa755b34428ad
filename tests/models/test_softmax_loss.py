"""Cross-entropies with gradients of their own: the same numbers as torch's, in less memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from unrolled.models import softmax_loss
from unrolled.models.softmax_loss import chunked_cross_entropy, sampled_cross_entropy

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def example(seed: int, events: int, items: int, size: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors, weights, biases, all wanting gradients."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64).requires_grad_()

    return draw(events, size), draw(items, size), draw(items)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    events=st.integers(1, 20),
    items=st.integers(2, 30),
    rows=st.integers(1, 25),
)
def test_in_chunks_it_is_torchs_cross_entropy(
    seed: int, events: int, items: int, rows: int
) -> None:
    x, weight, bias = example(seed, events, items)
    targets = torch.randint(items, (events,), generator=torch.Generator().manual_seed(seed))
    outer = torch.arange(1.0, events + 1, dtype=torch.float64)
    expected = F.cross_entropy(F.linear(x, weight, bias), targets, reduction="none")
    expected_gradients = torch.autograd.grad(expected, (x, weight, bias), outer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(softmax_loss, "CHUNK_BYTES", 8 * items * rows)
        losses = chunked_cross_entropy(x, weight, bias, targets)
        gradients = torch.autograd.grad(losses, (x, weight, bias), outer)
    torch.testing.assert_close(losses, expected, **EXACT)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


class _Largest(TorchDispatchMode):
    """Bytes of the largest tensor that any operation makes."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.bytes = max(self.bytes, result.nbytes)
        return result


def test_the_logits_of_a_large_catalogue_are_never_whole_in_memory() -> None:
    events, items = 2000, 5000
    x = torch.randn(events, 8, requires_grad=True)
    weight = torch.randn(items, 8, requires_grad=True)
    with pytest.MonkeyPatch.context() as patch, _Largest() as largest:
        patch.setattr(softmax_loss, "CHUNK_BYTES", 2**20)
        targets = torch.randint(items, (events,))
        chunked_cross_entropy(x, weight, torch.zeros(items), targets).sum().backward()
    assert largest.bytes <= 2**20 < 4 * events * items / 30


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), events=st.integers(1, 9), items=st.integers(2, 12))
def test_of_sampled_items_it_is_the_cross_entropy_of_those_that_count(
    seed: int, events: int, items: int
) -> None:
    x, weight, bias = example(seed, events, items)
    random = torch.Generator().manual_seed(seed)
    own = torch.randn(events, generator=random, dtype=torch.float64).requires_grad_()
    column = torch.randint(items, (events,), generator=random)
    rows = torch.arange(0, events, 2)
    scores = F.linear(x, weight, bias)
    out = torch.zeros_like(scores, dtype=torch.bool)
    out[rows, column[rows]] = True
    both = torch.cat([own.unsqueeze(1), scores.masked_fill(out, -torch.inf)], 1)
    expected = both.logsumexp(1) - own
    losses = sampled_cross_entropy(x, own, weight, bias, (rows, column[rows]))
    torch.testing.assert_close(losses, expected, **EXACT)
    outer = torch.arange(1.0, events + 1, dtype=torch.float64)
    inputs = (x, own, weight, bias)
    for ours, theirs in zip(
        torch.autograd.grad(losses, inputs, outer),
        torch.autograd.grad(expected, inputs, outer),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, **EXACT)


def test_both_gradients_are_those_of_small_differences() -> None:
    x, weight, bias = example(0, 5, 7)
    targets = torch.tensor([0, 6, 2, 2, 5])
    assert torch.autograd.gradcheck(
        lambda *p: chunked_cross_entropy(*p, targets), (x, weight, bias)
    )
    own = torch.randn(5, dtype=torch.float64, requires_grad=True)
    out = (torch.tensor([1, 3]), torch.tensor([0, 4]))
    assert torch.autograd.gradcheck(
        lambda a, b, c, d: sampled_cross_entropy(a, b, c, d, out), (x, own, weight, bias)
    )


def test_large_scores_do_not_overflow() -> None:
    x, weight, bias = (1000 * p.detach() for p in example(1, 6, 9))
    targets = torch.arange(6)
    expected = F.cross_entropy(F.linear(x, weight, bias), targets, reduction="none")
    torch.testing.assert_close(chunked_cross_entropy(x, weight, bias, targets), expected)
    own = F.linear(x, weight, bias).gather(1, targets.unsqueeze(1)).squeeze(1)
    out = (torch.arange(6), targets)
    torch.testing.assert_close(sampled_cross_entropy(x, own, weight, bias, out), expected)
