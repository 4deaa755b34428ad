"""The LSTM whose gates see the cell: `PeepholeLSTM`.

    i = s(W_i x + U_i h + p_i c + b_i)        g = tanh(W_g x + U_g h + b_g)
    f = s(W_f x + U_f h + p_f c + b_f)        c' = f c + i g
    o = s(W_o x + U_o h + p_o c' + b_o)       h' = o tanh(c')

with the peepholes p vectors (Graves 2013; Element-Research's LSTM) or matrices (seed 1, where each
of the eleven linear maps has a bias).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.models.bidirectional import Merge
from unrolled.models.cells.initial import draw_uniform, zero_state
from unrolled.models.compose import LearnedStart
from unrolled.models.product import add_product, affine
from unrolled.models.state import State
from unrolled.models.types import Probability
from unrolled.models.unroll import Cell, Projected, Unroll, layered


class PeepholeLSTMCell(Cell):
    """One step of the LSTM; the state is h and c, in a training pass with dropout also its mask.

    Args:
        input_size: Channels of the input.
        hidden_size: Units.
        peepholes: `diagonal`, `full` or `none`.
        recurrent_dropout: Of h where it enters the gates, one mask a sequence.
        forget_bias: The forget gates' bias at the start; None keeps the uniform draw.
        init_range: See `draw_uniform`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        peepholes: Literal["diagonal", "full", "none"] = "diagonal",
        recurrent_dropout: float = 0.0,
        forget_bias: float | None = None,
        init_range: float | None = None,
    ) -> None:
        super().__init__(hidden_size)
        size = hidden_size
        self.recurrent_dropout = recurrent_dropout
        self.diagonal, self.full = peepholes == "diagonal", peepholes == "full"
        self.input = nn.Linear(input_size, 4 * size)
        self.hidden = nn.Linear(size, 4 * size, bias=self.full)
        if self.full:
            self.peep_input_forget = nn.Linear(size, 2 * size)
            self.peep_output = nn.Linear(size, size)
        elif self.diagonal:
            self.peephole = nn.Parameter(torch.empty(3, size))
        draw_uniform(self, init_range)
        if forget_bias is not None:
            with torch.no_grad():
                self.input.bias[size : 2 * size] = forget_bias
                if self.full:
                    self.hidden.bias[size : 2 * size] = 0.0
                    self.peep_input_forget.bias[size:] = 0.0

    def start(self, batch_size: int, like: Tensor) -> State:
        """Zeros."""
        return zero_state(batch_size, self.output_size, 2, like)

    def open(self, state: State) -> State:
        """With the mask of the recurrent dropout, in training."""
        if not (self.recurrent_dropout and self.training):
            return state
        h, c = state
        assert isinstance(h, Tensor)
        return h, c, F.dropout(torch.ones_like(h), self.recurrent_dropout)

    def close(self, state: State) -> State:
        """Without the mask."""
        return state[0], state[1]

    def project(self, x: Tensor) -> Projected:
        """`W x` and all biases."""
        bias: Tensor = self.input.bias
        if self.full:
            peeps = self.peep_input_forget.bias, self.peep_output.bias
            # The cell's own input has no peephole.
            bias = bias + self.hidden.bias
            bias = bias + torch.cat([peeps[0], torch.zeros_like(peeps[1]), peeps[1]])
        return affine(x, self.input.weight, bias)

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, State]:
        """One step."""
        h, c, *mask = state
        size = self.output_size
        seen = h * mask[0] if mask else h
        gates = add_product(x, seen, self.hidden.weight)
        input_forget, g, o = gates.split_with_sizes((2 * size, size, size), 1)
        if self.full:
            input_forget = add_product(input_forget, c, self.peep_input_forget.weight)
        elif self.diagonal:
            peep_i, peep_f, peep_o = self.peephole.unbind()
            i, f = input_forget.chunk(2, 1)
            i, f = torch.addcmul(i, peep_i, c), torch.addcmul(f, peep_f, c)
        if self.diagonal:
            i, f = i.sigmoid(), f.sigmoid()
        else:
            i, f = input_forget.sigmoid().chunk(2, 1)
        c = torch.addcmul(f * c, i, g.tanh())
        if self.full:
            o = add_product(o, c, self.peep_output.weight)
        elif self.diagonal:
            o = torch.addcmul(o, peep_o, c)
        h = o.sigmoid() * c.tanh()
        return h, (h, c, *mask)


class PeepholeLSTM(Unroll):
    """LSTM with peepholes, or without, unrolled step by step.

    Args:
        input_size: Channels of the input.
        hidden_size: Units of each layer and direction.
        num_layers: Layers on top of each other.
        bidirectional: Read each sequence in both directions.
        dropout: Between layers, share of the units set to zero in training.
        merge: How the two directions of the last layer are put together.
        peepholes: `diagonal`: a weight for each unit (Graves 2013); `full`: matrices, every linear
            map with its own bias; `none`: what torch's LSTM computes, but slower.
        variational_dropout: Share of the units of each layer's input and of its state, where the
            gates read it, set to zero in training: one mask a sequence, held over its steps, the
            same for all gates (Gal & Ghahramani 2016).
        start: The state before the first step, `zero` or `learned`.
        forget_bias: The forget gates' bias at the start; None keeps the uniform draw.
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
        peepholes: Literal["diagonal", "full", "none"] = "diagonal",
        variational_dropout: Probability = 0.0,
        start: Literal["zero", "learned"] = "zero",
        forget_bias: float | None = None,
        init_range: PositiveFloat | None = None,
        bptt: PositiveInt | None = None,
    ) -> None:
        def make(size: int) -> Cell:
            cell = PeepholeLSTMCell(
                size, hidden_size, peepholes, variational_dropout, forget_bias, init_range
            )
            return LearnedStart(cell) if start == "learned" else cell

        cells = layered(make, input_size, num_layers, bidirectional)
        super().__init__(cells, bidirectional, merge, dropout, variational_dropout, bptt)
