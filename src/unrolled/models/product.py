"""Matrix products of the cells, by the faster of the two libraries that torch brings.

On a CPU `torch.mm` is MKL's, torch's own LSTM is oneDNN's, and on AMD's processors MKL leaves half
of the speed unused: 64 x 128 by 128 x 512 runs at 95 GFLOP/s by MKL and at 166 by oneDNN (EPYC, one
core). torch calls oneDNN for plain float32 products only from compiled code, by an operator that is
called here where it exists; everywhere else, and for small products, these are torch's own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_SMALLEST = 2**21
"""Multiplications from which on oneDNN gains more than the detour costs."""

_onednn: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x W^T + b`: `[N, input]` to `[N, output]`."""
    if not _faster(x, weight):
        return F.linear(x, weight, bias)
    return _Product.apply(x, weight, bias)  # type: ignore[no-any-return, no-untyped-call]


def add_product(base: Tensor, h: Tensor, weight: Tensor) -> Tensor:
    """`base + h W^T`: `[N, output]` and `[N, hidden]` to `[N, output]`."""
    if not _faster(h, weight):
        return torch.addmm(base, h, weight.t())
    product: Tensor = _Product.apply(h, weight, None)  # type: ignore[no-untyped-call]
    return base + product


def _faster(x: Tensor, weight: Tensor) -> bool:
    return (
        _onednn is not None
        and x.numel() * weight.shape[0] >= _SMALLEST
        and x.dim() == 2
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def _multiply(a: Tensor, b: Tensor) -> Tensor:
    """`a b^T`."""
    # Gradients of gradients: the operator has no derivative of its own.
    if torch.is_grad_enabled():
        return a @ b.t()
    product: Tensor = _onednn(a, b, None, "none", [], "")
    return product


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        product: Tensor = _onednn(x, weight, bias, "none", [], "")
        return product

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        of_x = _multiply(gradient, weight.t()) if needs_x else None
        of_weight = None
        if needs_weight and x.shape[1] < gradient.shape[1]:
            # The first factor is copied when it is transposed: take the smaller one.
            of_weight = _multiply(x.t(), gradient.t()).t()
        elif needs_weight:
            of_weight = _multiply(gradient.t(), x.t())
        return of_x, of_weight, gradient.sum(0) if needs_bias else None
