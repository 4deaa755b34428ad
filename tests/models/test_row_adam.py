"""Adam that touches the rows of a table that a step uses."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.models.row_adam import ROWS, RowAdam
from unrolled.models.row_gradients import clip, unite_rows, use_row_gradients

ROWS_USED = [[1, 3, 3], [0], [3, 1], [2, 2, 2, 5], [3], [0, 5]]


def make(sparse: bool = True) -> tuple[nn.Embedding, nn.Linear, RowAdam]:
    torch.manual_seed(0)
    table = nn.Embedding(6, 3, dtype=torch.float64)
    linear = nn.Linear(3, 2, dtype=torch.float64)
    if sparse:
        use_row_gradients([table])
    groups = [{"params": list(linear.parameters())}, {"params": [table.weight], ROWS: True}]
    return table, linear, RowAdam(groups, lr=0.1, betas=(0.8, 0.9))


def backward(table: nn.Embedding, linear: nn.Linear, ids: list[int]) -> None:
    table.weight.grad = None
    linear.zero_grad()
    linear(table(torch.tensor(ids))).square().sum().backward()
    unite_rows([table])


def by_definition(table: list[list[float]], gradients: list[Tensor]) -> list[list[float]]:
    """All rows at every step, a number at a time."""
    second = [0.0] * len(table)
    table = [list(row) for row in table]
    for t, gradient in enumerate(gradients, 1):
        for row, values in enumerate(gradient.tolist()):
            mean = sum(g * g for g in values) / len(values)
            second[row] = 0.9 * second[row] + 0.1 * mean
            root = math.sqrt(second[row] / (1 - 0.9**t)) + 1e-8
            table[row] = [w - 0.1 * g / root for w, g in zip(table[row], values, strict=True)]
    return table


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=1, max_size=8))
def test_rows_that_are_used_move_by_the_rule_of_the_whole_table(used: list[list[int]]) -> None:
    table, linear, optimizer = make()
    start = table.weight.tolist()
    gradients = []
    for ids in used:
        backward(table, linear, ids)
        assert table.weight.grad is not None
        assert table.weight.grad.is_sparse
        assert len(table.weight.grad.values()) == len(set(ids))
        gradients.append(table.weight.grad.to_dense())
        before = table.weight.detach().clone()
        optimizer.step()
        unused = [row for row in range(6) if row not in ids]
        assert torch.equal(table.weight[unused], before[unused])
    expected = torch.tensor(by_definition(start, gradients), dtype=torch.float64)
    torch.testing.assert_close(table.weight.detach(), expected, rtol=1e-12, atol=1e-12)


def test_whole_gradients_are_the_same_and_other_parameters_are_adams() -> None:
    (table, linear, optimizer), (whole, of_whole, other) = make(), make(sparse=False)
    plain = copy.deepcopy(linear)
    adam = torch.optim.Adam(plain.parameters(), lr=0.1, betas=(0.8, 0.9))
    for ids in ROWS_USED:
        backward(table, linear, ids)
        backward(whole, of_whole, ids)
        for mine, its in zip(linear.parameters(), plain.parameters(), strict=True):
            its.grad = mine.grad
        for one in (optimizer, other, adam):
            one.step()
    assert not whole.weight.grad.is_sparse  # type: ignore[union-attr]
    torch.testing.assert_close(table.weight, whole.weight, rtol=1e-12, atol=1e-12)
    assert torch.equal(linear.weight, plain.weight)
    assert optimizer.param_groups[1]["params"][0].grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_goes_on_from_its_state_is_bit_for_bit_what_was_not_stopped(
    dtype: torch.dtype,
) -> None:
    table, linear, optimizer = make()
    table.to(dtype)
    linear.to(dtype)
    stopped = None
    for number, ids in enumerate(ROWS_USED):
        if number == 3:
            stopped = copy.deepcopy((table, linear, optimizer.state_dict()))
        backward(table, linear, ids)
        optimizer.step(lambda: None)
    assert stopped is not None
    again, of_again, state = stopped
    _, _, other = make()
    other.param_groups[0]["params"] = list(of_again.parameters())
    other.param_groups[1]["params"] = [again.weight]
    other.load_state_dict(state)
    for ids in ROWS_USED[3:]:
        backward(again, of_again, ids)
        other.step()
    assert torch.equal(again.weight, table.weight)
    assert torch.equal(of_again.weight, linear.weight)


@pytest.mark.parametrize("by_value", [False, True], ids=["norm", "value"])
def test_rows_are_clipped_as_torch_clips_whole_gradients(by_value: bool) -> None:
    (table, linear, _), (whole, of_whole, _) = make(), make(sparse=False)
    backward(table, linear, [1, 3, 3])
    backward(whole, of_whole, [1, 3, 3])
    clip([p.grad for m in (table, linear) for p in m.parameters()], 0.3, by_value)  # type: ignore[misc]
    parameters = [p for m in (whole, of_whole) for p in m.parameters()]
    if by_value:
        torch.nn.utils.clip_grad_value_(parameters, 0.3)
    else:
        torch.nn.utils.clip_grad_norm_(parameters, 0.3)
    assert table.weight.grad is not None
    assert table.weight.grad.is_sparse
    torch.testing.assert_close(table.weight.grad.to_dense(), whole.weight.grad)
    torch.testing.assert_close(linear.weight.grad, of_whole.weight.grad)


def test_a_row_that_is_used_for_the_first_time_late_moves_as_far_as_its_rarity_says() -> None:
    # One gradient in t steps has the mean square |g|^2 / t: the rarer a row, the further it moves.
    table = nn.Embedding(2, 1, sparse=True)
    optimizer = RowAdam([{"params": [table.weight], ROWS: True}], lr=0.01, betas=(0.9, 0.999))
    for step in range(1, 101):
        used = torch.tensor([0, 1] if step == 100 else [0])
        before = table.weight.detach().clone()
        table.weight.grad = None
        F.embedding(used, table.weight, sparse=True).sum().backward()
        optimizer.step()
    moved = (before - table.weight.detach()).flatten().tolist()
    share = (1 - 0.999) / (1 - 0.999**100)
    assert moved == pytest.approx([0.01, 0.01 / math.sqrt(share)], rel=1e-4)
