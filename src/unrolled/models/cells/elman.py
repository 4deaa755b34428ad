"""The simple recurrent network with a learned start: `Elman`.

After the first step, `h_t = f(W x_t + b + U h_{t-1} + d)`; at the first step the learned bias s
stands for the whole feedback term, `h_1 = f(W x_1 + b + s)`, as in Element-Research's
`nn.Recurrent`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from unrolled.models.bidirectional import Merge
from unrolled.models.cells.initial import draw_uniform, zero_state
from unrolled.models.product import add_product, affine
from unrolled.models.state import State
from unrolled.models.types import Probability
from unrolled.models.unroll import Cell, Projected, Unroll, layered

TRANSFERS = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}


class ElmanCell(Cell):
    """One step of the simple recurrent network.

    The state is h and, with a learned start, a column that is one before the first step and zero
    from then on.

    Args:
        input_size: Channels of the input.
        hidden_size: Units.
        transfer: The nonlinearity f.
        start: `learned`, or `zero`: h starts at zero and there is one bias, b.
        init_range: See `draw_uniform`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        transfer: Literal["sigmoid", "tanh", "relu"] = "sigmoid",
        start: Literal["learned", "zero"] = "learned",
        init_range: float | None = None,
    ) -> None:
        super().__init__(hidden_size)
        self.transfer = TRANSFERS[transfer]
        self.input = nn.Linear(input_size, hidden_size)
        self.feedback = nn.Linear(hidden_size, hidden_size, bias=start == "learned")
        self.start_bias = nn.Parameter(torch.empty(hidden_size)) if start == "learned" else None
        draw_uniform(self, init_range)

    def start(self, batch_size: int, like: Tensor) -> State:
        """Zeros, and that there has been no step."""
        h = zero_state(batch_size, self.output_size, 1, like)
        return h if self.start_bias is None else (h, like.new_ones(batch_size, 1))

    def project(self, x: Tensor) -> Projected:
        """`W x + b + d`."""
        if self.feedback.bias is None:
            return affine(x, self.input.weight, self.input.bias)
        return affine(x, self.input.weight, self.input.bias + self.feedback.bias)

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, State]:
        """One step."""
        feedback = self.feedback.weight
        if self.start_bias is None:
            h = self.transfer(add_product(x, state, feedback))
            return h, h
        h, first = state
        # `project` has added d, for which s stands at the first step.
        x = torch.addcmul(x, first, self.start_bias - self.feedback.bias)
        h = self.transfer(add_product(x, h, feedback))
        return h, (h, torch.zeros_like(first))


class Elman(Unroll):
    """The simple recurrent network (Elman 1990) with a learned start, Element-Research's Recurrent.

    Args:
        input_size: Channels of the input.
        hidden_size: Units of each layer and direction.
        num_layers: Layers on top of each other.
        bidirectional: Read each sequence in both directions.
        dropout: Between layers, share of the units set to zero in training.
        merge: How the two directions of the last layer are put together.
        transfer: Nonlinearity of the hidden units.
        start: `learned`: a bias stands for the feedback at the first step; `zero`: the state starts
            at zero, and input and feedback share one bias.
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
        transfer: Literal["sigmoid", "tanh", "relu"] = "sigmoid",
        start: Literal["learned", "zero"] = "learned",
        init_range: PositiveFloat | None = None,
        bptt: PositiveInt | None = None,
    ) -> None:
        def make(size: int) -> Cell:
            return ElmanCell(size, hidden_size, transfer, start, init_range)

        cells = layered(make, input_size, num_layers, bidirectional)
        super().__init__(cells, bidirectional, merge, dropout, bptt=bptt)
