"""Gradients of large tables as the rows that a step used: torch's sparse tensors.

torch's own functions for norms and for clipping know no sparse tensors, but the rows' values are a
plain tensor that they can work on.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def use_row_gradients(tables: Iterable[nn.Embedding]) -> None:
    """Let the gradients of some tables have only the rows that were looked up."""
    for table in tables:
        table.sparse = True


def unite_rows(tables: Iterable[nn.Embedding]) -> None:
    """Add up the gradients of rows that were looked up more than once, so that each stands once."""
    for table in tables:
        gradient = table.weight.grad
        if gradient is not None and gradient.is_sparse:
            table.weight.grad = gradient.coalesce()


def values_of(gradient: Tensor) -> Tensor:
    """The gradient itself, or the values of its rows, after `unite_rows`; the same memory."""
    return gradient.values() if gradient.is_sparse else gradient


def clip(gradients: list[Tensor], limit: float, by_value: bool) -> None:
    """Clip gradients in place, as torch's `clip_grad_norm_` or `clip_grad_value_` does.

    Args:
        gradients: The gradients of all parameters; some can be rows.
        limit: Largest norm over all gradients, or largest size of each value.
        by_value: Whether each value is clipped by itself.
    """
    values = [values_of(gradient) for gradient in gradients]
    if by_value:
        torch._foreach_clamp_min_(values, -limit)
        torch._foreach_clamp_max_(values, limit)
        return
    norm = torch.nn.utils.get_total_norm(values)
    torch._foreach_mul_(values, (limit / (norm + 1e-6)).clamp(max=1.0))
