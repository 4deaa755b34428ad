"""Cross-entropy of a linear layer without its logits: their gradients are written out.

N events, K sampled items, V items, H channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.models.product import affine
from unrolled.models.second_derivatives import gradients_by_autograd

CHUNK_BYTES = 2**24
"""Memory for the logits that exist at a time."""


def chunked_cross_entropy(
    x_NH: Tensor, weight_VH: Tensor, bias_V: Tensor, targets_N: Tensor
) -> Tensor:
    """`cross_entropy(x W^T + b, targets)` in nats, `[N]`, of any number of events and items.

    The logits of a few events exist at a time; the backward pass computes them again, which makes
    four products of three. Where a graph of the gradient is asked for, all logits are kept.
    """
    # torch has no types for `Function.apply`.
    return _Chunked.apply(x_NH, weight_VH, bias_V, targets_N)  # type: ignore[no-any-return, no-untyped-call]


def sampled_cross_entropy(
    x_NH: Tensor, own_N: Tensor, weight_KH: Tensor, bias_K: Tensor, left_out: tuple[Tensor, Tensor]
) -> Tensor:
    """`log(exp(own) + sum_k exp(x w_k + b_k)) - own` in nats, `[N]`.

    The exponentials are the only array of `[N, K]` that is made; gradients are products with it.
    Where a graph of the gradient is asked for, autograd makes it from the plain formula.

    Args:
        x_NH: The vectors.
        own_N: The score of each event's target.
        weight_KH: The sampled items.
        bias_K: Added to their scores.
        left_out: Rows and columns of scores that don't count, each `[pair]` int64.
    """
    # As above.
    return _Sampled.apply(x_NH, own_N, weight_KH, bias_K, *left_out)  # type: ignore[no-any-return, no-untyped-call]


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        size = _rows(x, len(weight))
        normalizer, own = torch.empty_like(x[:, 0]), torch.empty_like(x[:, 0])
        for start in range(0, len(x), size):
            part = slice(start, start + size)
            logits = affine(x[part], weight, bias)
            own[part] = logits.gather(1, targets[part].unsqueeze(1)).squeeze(1)
            top = logits.amax(1, keepdim=True)
            normalizer[part] = logits.sub_(top).exp_().sum(1).log_() + top.squeeze(1)
        ctx.save_for_backward(x, weight, bias, targets, normalizer)
        return normalizer - own

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, targets, normalizer = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *gradients_by_autograd(
                lambda x, weight, bias: F.cross_entropy(
                    F.linear(x, weight, bias), targets, reduction="none"
                ),
                (x, weight, bias),
                gradients,
            ), None  # fmt: skip
        (gradient,) = gradients
        of_x = torch.empty_like(x)
        of_weight, of_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        size = _rows(x, len(weight))
        for start in range(0, len(x), size):
            part = slice(start, start + size)
            probability = affine(x[part], weight, bias)
            probability.sub_(normalizer[part].unsqueeze(1)).exp_()
            factor = gradient[part].unsqueeze(1)
            of_logits = probability.mul_(factor)
            of_logits.scatter_add_(1, targets[part].unsqueeze(1), -factor)
            of_x[part] = affine(of_logits, weight.t())
            # The first factor is copied when it is transposed: take the smaller one.
            of_weight += affine(x[part].t(), of_logits.t()).t()
            of_bias += of_logits.sum(0)
        return of_x, of_weight, of_bias, None


class _Sampled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        own: Tensor,
        weight: Tensor,
        bias: Tensor,
        rows: Tensor,
        columns: Tensor,
    ) -> Tensor:
        scores = affine(x, weight, bias)
        scores[rows, columns] = -torch.inf
        top = torch.maximum(scores.amax(1), own)
        exponentials = scores.sub_(top.unsqueeze(1)).exp_()
        total = exponentials.sum(1) + (own - top).exp()
        loss = total.log() + top - own
        ctx.save_for_backward(x, own, weight, bias, rows, columns, exponentials, total, loss)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, own, weight, bias, rows, columns, exponentials, total, loss = ctx.saved_tensors
        if torch.is_grad_enabled():

            def plain(x: Tensor, own: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
                scores = F.linear(x, weight, bias).index_put(
                    (rows, columns), x.new_tensor(-torch.inf)
                )
                return torch.logaddexp(scores.logsumexp(1), own) - own

            return *gradients_by_autograd(plain, (x, own, weight, bias), gradients), None, None
        (gradient,) = gradients
        # Rows are scaled before or after the products, so that the large array stays as it is.
        factor = gradient / total
        of_x = affine(exponentials, weight.t()) * factor.unsqueeze(1)
        of_own = gradient * torch.expm1(-loss)
        scaled = x * factor.unsqueeze(1)
        of_weight = affine(scaled.t(), exponentials.t()).t()
        of_bias = factor @ exponentials if ctx.needs_input_grad[3] else None
        return of_x, of_own, of_weight, of_bias, None, None


def _rows(x: Tensor, items: int) -> int:
    return max(1, CHUNK_BYTES // (x.element_size() * items))
