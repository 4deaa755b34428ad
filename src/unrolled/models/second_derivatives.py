"""Gradients of gradients for functions whose gradient is written out by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def gradients_by_autograd(
    plain: Callable[..., Tensor], inputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...]
) -> tuple[Tensor | None, ...]:
    """The gradients of a function's inputs, with a graph of their own.

    A hand-written `backward` calls this when it is asked for a graph (grad mode is on in it).
    `torch.autograd.function.once_differentiable` would not do: it refuses only when the incoming
    gradient needs a gradient itself. That of `loss.sum()` does not, and the second derivative
    would then silently lack every term that comes from the inputs.

    Args:
        plain: The same function in operations that autograd knows.
        inputs: Its inputs, as saved.
        gradients: The gradient of its output.

    Returns:
        One gradient for each input; None for an input that needs none.
    """
    # Aliases: an input can depend on another one, whose gradient must not pass through it here.
    aliases = tuple(t.view_as(t) for t in inputs)
    needed = [t for t in aliases if t.requires_grad]
    found = iter(torch.autograd.grad(plain(*aliases), needed, gradients, create_graph=True))
    return tuple(next(found) if t.requires_grad else None for t in aliases)
