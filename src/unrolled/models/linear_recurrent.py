"""The linear recurrent unit: a linear memory of complex numbers, computed for all steps at once.

Its state is turned and shrunk by the same factors at every step, whatever the input is, so that
what it holds after many steps is known beforehand: nothing saturates, and gradients neither vanish
nor explode as long as the factors lie next to the unit circle. All that is not linear stands
between the layers.

B batch, T time, H hidden size, N state size.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.models.causal import with_padding, without_padding
from unrolled.models.types import Probability


def _solve(a_N: Tensor, b_BTN: Tensor, reverse: bool = False) -> Tensor:
    """`h_t = a * h_{t-1} + b_t` from zero; in reverse `h_t = a * h_{t+1} + b_t`.

    In blocks of sqrt(time) steps: each step of all blocks at once, then from block to block, and
    what a block is given reaches its steps by the powers of `a`. That is 6 sqrt(time) operations
    on whole tensors. On one core it takes as long as the plain loop, about half as long as the
    halving of `min_gru` and a fifth of a convolution by FFT, which besides spreads one step's
    rounding error, or NaN, over all steps.
    """
    batch, time, size = b_BTN.shape
    steps = math.isqrt(time - 1) + 1
    blocks = -(-time // steps)
    padded = b_BTN.new_zeros(batch, blocks * steps, size)
    # In reverse the zeros come first in time, where they are last to be reached.
    h_BTN = padded[:, -time:] if reverse else padded[:, :time]
    h_BTN.copy_(b_BTN)
    by_step = padded.view(batch, blocks, steps, size).unbind(2)
    if reverse:
        by_step = by_step[::-1]
    for before, here in pairwise(by_step):
        here.add_(a_N * before)
    if blocks == 1:
        return h_BTN
    powers = a_N.expand(steps, size).cumprod(0)
    ends = by_step[-1].unbind(1)
    for before, here in pairwise(ends[::-1] if reverse else ends):
        here.add_(powers[-1] * before)
    given = by_step[-1][:, 1:] if reverse else by_step[-1][:, :-1]
    for here, power in zip(by_step[:-1], powers[:-1], strict=True):
        (here[:, :-1] if reverse else here[:, 1:]).add_(power * given)
    return h_BTN


class _ConstantRecurrence(torch.autograd.Function):
    # The gradient is the same recurrence in the other direction of time; written out, nothing of
    # the forward pass is kept but its result.

    @staticmethod
    def forward(ctx: Any, a_N: Tensor, b_BTN: Tensor, reverse: bool) -> Tensor:
        h_BTN = _solve(a_N, b_BTN, reverse)
        ctx.save_for_backward(a_N, h_BTN)
        ctx.reverse = reverse
        return h_BTN

    @staticmethod
    def backward(ctx: Any, grad_BTN: Tensor) -> tuple[Tensor | None, Tensor, None]:
        # Every operation here has a derivative, so that gradients of gradients are right too.
        a_N, h_BTN = ctx.saved_tensors
        grad_b = _ConstantRecurrence.apply(a_N.conj(), grad_BTN, not ctx.reverse)  # type: ignore[no-untyped-call]
        grad_a = None
        if ctx.needs_input_grad[0]:
            # Each step's gradient meets the state that `a` was multiplied with there.
            here, before = slice(1, None), slice(None, -1)
            if ctx.reverse:
                here, before = before, here
            grad_a = (grad_b[:, here] * h_BTN[:, before].conj()).sum((0, 1))
        return grad_a, grad_b, None


def constant_recurrence(a_N: Tensor, b_BTN: Tensor, h_BN: Tensor | None = None) -> Tensor:
    """`h_t = a * h_{t-1} + b_t` for all steps, with the same factors at each.

    Args:
        a_N: Factors, real or complex, of an absolute value of at most 1.
        b_BTN: Terms, of the same type.
        h_BN: State before the first step; zeros by default.

    Returns:
        All states, `[batch, time, size]`.
    """
    if h_BN is not None:
        first = (b_BTN[:, 0] + a_N * h_BN).unsqueeze(1)
        b_BTN = torch.cat([first, b_BTN[:, 1:]], 1)
    h_BTN: Tensor = _ConstantRecurrence.apply(a_N, b_BTN, False)  # type: ignore[no-untyped-call]
    return h_BTN


class LinearRecurrentLayer(nn.Module):
    """A linear memory between a norm and a gate, with a residual connection around all three.

        u_t = LayerNorm(x_t);  h_t = lambda * h_{t-1} + gamma * B u_t;  y_t = Re(C h_t) + D * u_t
        x_t + GLU(GELU(y_t))

    with `lambda = exp(-exp(nu) + i theta)`.

    Args:
        hidden_size: Channels.
        state_size: Complex numbers of the memory.
        dropout: Share of the gate's inputs and outputs set to zero in training.
        min_radius: Least absolute value of the factors at the start.
        max_radius: Largest.
        max_phase: Largest angle at the start.
        factor_rate: How far the factors move with an update, see `LinearRecurrent`.
    """

    def __init__(
        self,
        hidden_size: int,
        state_size: int,
        dropout: float,
        min_radius: float,
        max_radius: float,
        max_phase: float,
        factor_rate: float,
    ) -> None:
        super().__init__()
        self.factor_rate = factor_rate
        self.norm = nn.LayerNorm(hidden_size)
        # Even over the ring's area (the paper's lemma 3.2). 1 - rand is never 0.
        square = min_radius**2 + (1 - torch.rand(state_size)) * (max_radius**2 - min_radius**2)
        # In three rows: nu, theta and log gamma, as drawn and how far they have moved since.
        # Gamma keeps the memory of white noise as large as the noise.
        self.drawn: Tensor
        self.register_buffer(
            "drawn",
            torch.stack(
                [
                    (-0.5 * square.log()).log(),
                    max_phase * torch.rand(state_size),
                    0.5 * (-square).log1p(),
                ]
            ),
        )
        self.moved = nn.Parameter(torch.zeros(3, state_size))
        # Real and imaginary part of a number lie side by side.
        self.write = nn.Parameter(torch.randn(2 * state_size, hidden_size))
        self.read = nn.Parameter(torch.randn(hidden_size, 2 * state_size))
        with torch.no_grad():
            self.write.mul_((2 * hidden_size) ** -0.5)
            self.read.mul_(state_size**-0.5)
        self.skip = nn.Parameter(torch.randn(hidden_size))
        self.mix = nn.Linear(hidden_size, 2 * hidden_size)
        self.dropout = nn.Dropout(dropout)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Lambda, complex, and gamma, `[state]` each."""
        nu, theta, log_gamma = self.drawn + self.factor_rate * self.moved
        return torch.polar((-nu.exp()).exp(), theta), log_gamma.exp()

    def forward(self, x_BTH: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """All steps.

        Args:
            x_BTH: The steps.
            state: `[batch, state, 2]`, real and imaginary parts; None for zeros.

        Returns:
            The steps and the states after each, `[batch, time, state, 2]`.
        """
        factor_N, gamma_N = self.factors()
        u_BTH = self.norm(x_BTH)
        write = self.write * gamma_N.repeat_interleave(2).unsqueeze(1)
        # Under mixed precision the product may be in 16 bits, which complex numbers lack.
        terms = F.linear(u_BTH, write).to(gamma_N.dtype)
        h_BTN = constant_recurrence(
            factor_N,
            torch.view_as_complex(terms.view(*terms.shape[:2], -1, 2)),
            None if state is None else torch.view_as_complex(state.contiguous()),
        )
        states = torch.view_as_real(h_BTN)
        y_BTH = F.linear(states.flatten(-2), self.read) + self.skip * u_BTH
        mixed = F.glu(self.mix(self.dropout(F.gelu(y_BTH))), -1)
        return x_BTH + self.dropout(mixed), states


class LinearRecurrent(nn.Module):
    """Linear recurrent unit (Orvieto et al. 2023, "Resurrecting recurrent neural networks").

    A linear map from the input to the hidden size and layers of a linear memory and a gate, see
    `LinearRecurrentLayer`. A factor of radius r has a share of 1/e left after some 1 / (1 - r)
    steps; a state that turns by a large angle tells steps apart, one that turns by a small angle
    adds them up.

    The angles are the parameters themselves; the paper learns their logarithms.

    Args:
        input_size: Channels of the input.
        hidden_size: Channels of each layer.
        state_size: Complex numbers of each layer's memory.
        num_layers: Layers on top of each other. What a memory takes in depends on what was read
            before only from the second layer on.
        dropout: Share of the units set to zero in training, before and after each gate.
        min_radius: Least absolute value of the factors at the start.
        max_radius: Largest; the closer to 1, the longer the memory.
        max_phase: Largest angle at the start, in radians. Full circle by default.
        factor_rate: Share of the learning rate with which radii, angles and the inputs' scales
            move: after T steps a change of an angle counts T times. 0 keeps them as drawn.

    Raises:
        ValueError: When `min_radius` is larger than `max_radius`.
    """

    causal = True

    def __init__(
        self,
        input_size: PositiveInt,
        hidden_size: PositiveInt = 64,
        state_size: PositiveInt = 64,
        num_layers: PositiveInt = 2,
        dropout: Probability = 0.0,
        min_radius: Annotated[float, Field(ge=0, lt=1)] = 0.9,
        max_radius: Annotated[float, Field(gt=0, lt=1)] = 0.999,
        max_phase: Annotated[float, Field(ge=0, le=2 * math.pi)] = 2 * math.pi,
        factor_rate: Annotated[float, Field(ge=0, le=1)] = 0.1,
    ) -> None:
        super().__init__()
        if min_radius > max_radius:
            raise ValueError(f"min_radius={min_radius} is larger than max_radius={max_radius}")
        self.output_size = hidden_size
        self.project = nn.Linear(input_size, hidden_size)
        self.layers = nn.ModuleList(
            LinearRecurrentLayer(
                hidden_size, state_size, dropout, min_radius, max_radius, max_phase, factor_rate
            )
            for _ in range(num_layers)
        )

    def forward(
        self, x_BTI: Tensor, lengths: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode whole sequences.

        Args:
            x_BTI: `[batch, time, input]`.
            lengths: `[batch]`, int64, on the CPU, 1 .. time.
            state: `[layers, batch, state, 2]`, real and imaginary parts, where to go on; zeros by
                default.

        Returns:
            `[batch, time, hidden]` and the state after the last real step.
        """
        h_BTH = self.project(without_padding(x_BTI, lengths))
        rows = torch.arange(len(lengths), device=h_BTH.device)
        ends = lengths.to(h_BTH.device, non_blocking=True) - 1
        last = []
        for index, layer in enumerate(self.layers):
            h_BTH, states = layer(h_BTH, None if state is None else state[index])
            last.append(states[rows, ends])
        return with_padding(h_BTH, lengths, x_BTI.shape[1]), torch.stack(last)

    def step(self, x_BI: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One step: `[batch, input]` to `[batch, hidden]` and the new state."""
        ones = torch.ones(len(x_BI), dtype=torch.int64)
        outputs, new = self(x_BI.unsqueeze(1), ones, state)
        return outputs.squeeze(1), new
