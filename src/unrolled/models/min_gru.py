"""The minimal gated recurrent unit, trained by a parallel scan.

Its gate and candidate depend on the input alone, so that all steps are one matrix product and the
recurrence left over is linear: `h_t = a_t * h_{t-1} + b_t`. That one needs 2 log2(time) operations
on whole tensors instead of `time` operations on single steps.

B batch, T time, H hidden size.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from unrolled.models.causal import with_padding, without_padding
from unrolled.models.types import Probability


def _scan(a_BTH: Tensor, b_BTH: Tensor) -> Tensor:
    """`h_t = a_t * h_{t-1} + b_t` from zero, by recursive halving (Blelloch 1990).

    Two steps in a row are one step with factor `a_{t+1} a_t`: solve the recurrence of the pairs,
    half as long, then fill in the steps between. All products are of factors as they come, with no
    quotient and no logarithm: factors of 0 and 1 are exact.
    """
    time = a_BTH.shape[1]
    if time == 1:
        return b_BTH
    paired = time - time % 2
    a_first, a_second = a_BTH[:, 0:paired:2], a_BTH[:, 1::2]
    b_first, b_second = b_BTH[:, 0:paired:2], b_BTH[:, 1::2]
    h_BTH = torch.empty_like(b_BTH)
    h_BTH[:, 1::2] = _scan(a_first * a_second, torch.addcmul(b_second, a_second, b_first))
    h_BTH[:, 0] = b_BTH[:, 0]
    if time > 2:
        odd = h_BTH[:, 1 : time - 1 : 2]
        torch.addcmul(b_BTH[:, 2::2], a_BTH[:, 2::2], odd, out=h_BTH[:, 2::2])
    return h_BTH


class _LinearRecurrence(torch.autograd.Function):
    # The gradient is a linear recurrence too, backwards in time. Written out it keeps two tensors
    # for the backward pass where autograd would keep those of each halving.

    @staticmethod
    def forward(ctx: Any, a_BTH: Tensor, b_BTH: Tensor) -> Tensor:
        h_BTH = _scan(a_BTH, b_BTH)
        ctx.save_for_backward(a_BTH, h_BTH)
        return h_BTH

    @staticmethod
    def backward(ctx: Any, grad_BTH: Tensor) -> tuple[Tensor, Tensor]:
        # Every operation here has a derivative, so that gradients of gradients are right too.
        a_BTH, h_BTH = ctx.saved_tensors
        # grad_b_t = grad_t + a_{t+1} * grad_b_{t+1}: the same scan in reversed time, where the
        # first factor is never used.
        factors = torch.roll(a_BTH, -1, 1).flip(1)
        grad_b = linear_recurrence(factors, grad_BTH.flip(1)).flip(1)
        grad_a = torch.zeros_like(a_BTH)
        grad_a[:, 1:].addcmul_(grad_b[:, 1:], h_BTH[:, :-1])
        return grad_a, grad_b


def linear_recurrence(a_BTH: Tensor, b_BTH: Tensor, h_BH: Tensor | None = None) -> Tensor:
    """`h_t = a_t * h_{t-1} + b_t` for all steps, by a parallel scan.

    Args:
        a_BTH: Factors; those of this file lie in 0 .. 1.
        b_BTH: Terms.
        h_BH: State before the first step; zeros by default.

    Returns:
        All states, `[batch, time, size]`.
    """
    if h_BH is not None:
        first = torch.addcmul(b_BTH[:, 0], a_BTH[:, 0], h_BH).unsqueeze(1)
        b_BTH = torch.cat([first, b_BTH[:, 1:]], 1)
    h_BTH: Tensor = _LinearRecurrence.apply(a_BTH, b_BTH)  # type: ignore[no-untyped-call]
    return h_BTH


class MinGRU(nn.Module):
    """Minimal gated recurrent unit (Feng et al. 2024, "Were RNNs all we needed?").

        z_t = sigmoid(Linear(x_t));  c_t = g(Linear(x_t));  h_t = (1 - z_t) h_{t-1} + z_t c_t

    Plain layers on top of each other, without the convolutions, norms and residual connections
    that some of the paper's experiments put around them.

    Args:
        input_size: Channels of the input.
        hidden_size: Units of each layer.
        num_layers: Layers on top of each other. One layer alone can't let what it reads depend
            on what it has read before; two or more can.
        dropout: Between layers, share of the units set to zero in training.
        candidate: g: `positive` is the paper's, `x + 0.5` above zero and `sigmoid(x)` below, which
            keeps the state above zero; `linear` is the paper's first form, without a g.
        gate_bias: Start value of the gates' biases; None keeps torch's uniform draw around zero,
            which forgets half with each step. At -4 the state lasts for some 50 steps.
    """

    causal = True

    def __init__(
        self,
        input_size: PositiveInt,
        hidden_size: PositiveInt = 64,
        num_layers: PositiveInt = 1,
        dropout: Probability = 0.0,
        candidate: Literal["positive", "linear"] = "positive",
        gate_bias: float | None = None,
    ) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.candidate = candidate
        # Gate and candidate of a layer in one product.
        self.layers = nn.ModuleList(
            nn.Linear(hidden_size if index else input_size, 2 * hidden_size)
            for index in range(num_layers)
        )
        self.dropout = nn.Dropout(dropout)
        if gate_bias is not None:
            for layer in self.layers:
                assert isinstance(layer, nn.Linear)
                nn.init.constant_(layer.bias[:hidden_size], gate_bias)

    def forward(
        self, x_BTI: Tensor, lengths: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode whole sequences.

        Args:
            x_BTI: `[batch, time, input]`.
            lengths: `[batch]`, int64, on the CPU, 1 .. time.
            state: `[layers, batch, hidden]`, where to go on; zeros by default.

        Returns:
            `[batch, time, hidden]` and the state after the last real step.
        """
        h_BTH = without_padding(x_BTI, lengths)
        equal = int(lengths.min()) == h_BTH.shape[1]
        rows = torch.arange(len(lengths), device=h_BTH.device)
        ends = lengths.to(h_BTH.device, non_blocking=True) - 1
        last = []
        for index, layer in enumerate(self.layers):
            keep_BTH, term_BTH = self._gates(layer, self.dropout(h_BTH) if index else h_BTH)
            h_BTH = linear_recurrence(keep_BTH, term_BTH, None if state is None else state[index])
            last.append(h_BTH[:, -1] if equal else h_BTH[rows, ends])
        return with_padding(h_BTH, lengths, x_BTI.shape[1]), torch.stack(last)

    def step(self, x_BI: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One step: `[batch, input]` to `[batch, hidden]` and the new state."""
        h_BH, last = x_BI, []
        for index, layer in enumerate(self.layers):
            keep_BH, term_BH = self._gates(layer, self.dropout(h_BH) if index else h_BH)
            h_BH = term_BH if state is None else torch.addcmul(term_BH, keep_BH, state[index])
            last.append(h_BH)
        return h_BH, torch.stack(last)

    def _gates(self, layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """The factor 1 - z and the term z * candidate."""
        gate, candidate = layer(x).chunk(2, -1)
        if self.candidate == "positive":
            # The same in two parts, each the constant of the other's half: torch.where takes longer
            # than the whole scan.
            candidate = candidate.relu() + candidate.sigmoid().clamp(max=0.5)
        # Not 1 - sigmoid, which has no digits left where the gate is almost open.
        return (-gate).sigmoid(), gate.sigmoid() * candidate
