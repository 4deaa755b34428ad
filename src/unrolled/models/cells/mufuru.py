"""The multi-function recurrent unit: `MuFuRu`.

    r = s(W_r x + U_r h + b_r)        p_k = softmax over k of (W_k x + U_k h + b_k), for each unit
    v = tanh(W_v x + U_v (r h) + b_v) h' = sum over k of p_k op_k(h, v)

tanh as in the paper and Element-Research's README; its code used the sigmoid for v.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from unrolled.models.bidirectional import Merge
from unrolled.models.cells.initial import draw_uniform, zero_state
from unrolled.models.compose import LearnedStart
from unrolled.models.product import add_product, affine
from unrolled.models.second_derivatives import gradients_by_autograd
from unrolled.models.state import State
from unrolled.models.types import Probability
from unrolled.models.unroll import Cell, Projected, Unroll, layered

Operation: TypeAlias = Literal[
    "keep", "replace", "mul", "diff", "forget", "sqrt_diff", "max", "min"
]
"""Of the state h and the new value v: h, v, h v, h - v, 0, sqrt|h - v| / 4, max, min."""


_TINY = 1e-24
"""Far below any rounding; keeps the slope of the square root finite where h = v."""


def _results(h: Tensor, v: Tensor, operations: tuple[Operation, ...]) -> Tensor:
    """What each operation gives, `[batch, operation, hidden]`."""
    results = {
        "keep": lambda: h,
        "replace": lambda: v,
        "mul": lambda: h * v,
        "diff": lambda: h - v,
        "forget": lambda: torch.zeros_like(h),
        "sqrt_diff": lambda: 0.25 * ((h - v).abs() + _TINY).sqrt(),
        "max": lambda: torch.maximum(h, v),
        "min": lambda: torch.minimum(h, v),
    }
    return torch.stack([results[name]() for name in operations], 1)


class _Mix(torch.autograd.Function):
    """The state from the choices' sums: written out because the gradient step by step costs twice.

    With `w_k = p_k dh'`, the gradient of the sums is `w_k (op_k - h')`, those of h and v are the
    sums over k of w_k and the slope of op_k.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, h: Tensor, v: Tensor, operations: tuple[Operation, ...]
    ) -> Tensor:
        shares = logits.view(len(h), -1, h.shape[1]).softmax(1)
        results = _results(h, v, operations)
        new = (shares * results).sum(1)
        ctx.save_for_backward(logits, h, v, shares, results, new)
        ctx.operations = operations
        return new

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        logits, h, v, shares, results, new = ctx.saved_tensors
        if torch.is_grad_enabled():

            def plain(logits: Tensor, h: Tensor, v: Tensor) -> Tensor:
                again = logits.view(len(h), -1, h.shape[1]).softmax(1)
                return (again * _results(h, v, ctx.operations)).sum(1)

            return *gradients_by_autograd(plain, (logits, h, v), gradients), None
        weighted = shares * gradients[0].unsqueeze(1)
        of_logits = (results - new.unsqueeze(1)).mul_(weighted).flatten(1)
        of_h, of_v = torch.zeros_like(h), torch.zeros_like(v)
        sign = torch.sign(h - v)
        for w, result, name in zip(
            weighted.unbind(1), results.unbind(1), ctx.operations, strict=True
        ):
            if name == "keep":
                of_h += w
            elif name == "replace":
                of_v += w
            elif name == "mul":
                of_h.addcmul_(w, v)
                of_v.addcmul_(w, h)
            elif name == "diff":
                of_h += w
                of_v -= w
            elif name == "sqrt_diff":
                slope = (w * sign).div_(result).mul_(1 / 32)
                of_h += slope
                of_v -= slope
            elif name != "forget":
                # The larger or the smaller of the two takes it; equal ones take half each.
                larger, smaller = (of_h, of_v) if name == "max" else (of_v, of_h)
                part = torch.addcmul(w, w, sign).mul_(0.5)
                larger += part
                smaller += w - part
        return of_logits, of_h, of_v, None


class MuFuRuCell(Cell):
    """One step of the multi-function recurrent unit; the state is h.

    Args:
        input_size: Channels of the input.
        hidden_size: Units.
        operations: What each unit chooses from.
        init_range: See `draw_uniform`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        operations: tuple[Operation, ...],
        init_range: float | None = None,
    ) -> None:
        super().__init__(hidden_size)
        if not operations or len(set(operations)) < len(operations):
            raise ValueError("operations: name at least one, and none twice")
        self.operations = tuple(operations)
        # The choice of each operation in turn, reset gate, new value.
        self.choices = len(operations) * hidden_size
        self.input = nn.Linear(input_size, self.choices + 2 * hidden_size)
        self.gates = nn.Linear(hidden_size, self.choices + hidden_size, bias=False)
        self.value = nn.Linear(hidden_size, hidden_size, bias=False)
        draw_uniform(self, init_range)

    def start(self, batch_size: int, like: Tensor) -> State:
        """Zeros."""
        return zero_state(batch_size, self.output_size, 1, like)

    def project(self, x: Tensor) -> Projected:
        """`W x + b`."""
        return affine(x, self.input.weight, self.input.bias)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, State]:
        """One step."""
        size, h = self.output_size, state
        x_gates, x_value = x.split_with_sizes((self.choices + size, size), 1)
        gates = add_product(x_gates, h, self.gates.weight)
        logits, reset = gates.split_with_sizes((self.choices, size), 1)
        value = add_product(x_value, reset.sigmoid() * h, self.value.weight).tanh()
        h = _Mix.apply(logits, h, value, self.operations)  # type: ignore[no-untyped-call]
        return h, h


class MuFuRu(Unroll):
    """Multi-function recurrent unit (Weissenborn & Rocktaeschel 2016).

    Args:
        input_size: Channels of the input.
        hidden_size: Units of each layer and direction.
        num_layers: Layers on top of each other.
        bidirectional: Read each sequence in both directions.
        dropout: Between layers, share of the units set to zero in training.
        merge: How the two directions of the last layer are put together.
        operations: What each unit chooses from at each step; keep and replace alone make it much
            like a GRU.
        start: The state before the first step, `zero` or `learned`.
        init_range: Draw all weights from U(-init_range, init_range); None takes 1 / sqrt(fan_in).
        bptt: Gradients flow back over at most so many steps; None over all.
    """

    def __init__(
        self,
        input_size: PositiveInt,
        hidden_size: PositiveInt = 64,
        num_layers: PositiveInt = 1,
        bidirectional: bool = False,
        dropout: Probability = 0.0,
        merge: Merge = "concat",
        operations: tuple[Operation, ...] = (
            "keep",
            "replace",
            "mul",
            "diff",
            "forget",
            "sqrt_diff",
            "max",
            "min",
        ),
        start: Literal["zero", "learned"] = "zero",
        init_range: PositiveFloat | None = None,
        bptt: PositiveInt | None = None,
    ) -> None:
        def make(size: int) -> Cell:
            cell = MuFuRuCell(size, hidden_size, operations, init_range)
            return LearnedStart(cell) if start == "learned" else cell

        cells = layered(make, input_size, num_layers, bidirectional)
        super().__init__(cells, bidirectional, merge, dropout, bptt=bptt)
