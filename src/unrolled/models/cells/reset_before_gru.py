"""The GRU as published, reset before the product: `ResetBeforeGRU`.

    z = s(W_z x + U_z h + b_z)        v = tanh(W_v x + U_v (r h) + b_v)
    r = s(W_r x + U_r h + b_r)        h' = (1 - z) v + z h

torch's GRU, the encoder `GRU`, resets after the product: `v = tanh(W_v x + r (U_v h + c))`.
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


class ResetBeforeGRUCell(Cell):
    """One step of the GRU; the state is h, in a training pass with dropout also its mask.

    Args:
        input_size: Channels of the input.
        hidden_size: Units.
        recurrent_dropout: Of h where it enters the gates and the new value, one mask a sequence.
        init_range: See `draw_uniform`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        recurrent_dropout: float = 0.0,
        init_range: float | None = None,
    ) -> None:
        super().__init__(hidden_size)
        self.recurrent_dropout = recurrent_dropout
        # Update gate, reset gate, new value.
        self.input = nn.Linear(input_size, 3 * hidden_size)
        self.gates = nn.Linear(hidden_size, 2 * hidden_size, bias=False)
        self.value = nn.Linear(hidden_size, hidden_size, bias=False)
        draw_uniform(self, init_range)

    def start(self, batch_size: int, like: Tensor) -> State:
        """Zeros."""
        return zero_state(batch_size, self.output_size, 1, like)

    def open(self, state: State) -> State:
        """With the mask of the recurrent dropout, in training."""
        if not (self.recurrent_dropout and self.training):
            return state
        assert isinstance(state, Tensor)
        return state, F.dropout(torch.ones_like(state), self.recurrent_dropout)

    def close(self, state: State) -> State:
        """Without the mask."""
        return state if isinstance(state, Tensor) else state[0]

    def project(self, x: Tensor) -> Projected:
        """`W x + b`."""
        return affine(x, self.input.weight, self.input.bias)

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, State]:
        """One step."""
        h, mask = (state, None) if isinstance(state, Tensor) else state
        size = self.output_size
        seen = h if mask is None else h * mask
        x_gates, x_value = x.split_with_sizes((2 * size, size), 1)
        gates = add_product(x_gates, seen, self.gates.weight).sigmoid()
        update, reset = gates.chunk(2, 1)
        value = add_product(x_value, reset * seen, self.value.weight).tanh()
        # Under mixed precision the products are in 16 bits, the state is not.
        h = torch.lerp(value.to(h.dtype), h, update.to(h.dtype))
        return h, (h if mask is None else (h, mask))


class ResetBeforeGRU(Unroll):
    """Gated recurrent unit, reset gate before the product (Cho et al. 2014; Element-Research).

    Args:
        input_size: Channels of the input.
        hidden_size: Units of each layer and direction.
        num_layers: Layers on top of each other.
        bidirectional: Read each sequence in both directions.
        dropout: Between layers, share of the units set to zero in training.
        merge: How the two directions of the last layer are put together.
        variational_dropout: Share of the units of each layer's input and of its state, where the
            gates and the new value read it, set to zero in training: one mask a sequence, held over
            its steps (Gal & Ghahramani 2016; Element-Research's BGRU).
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
        variational_dropout: Probability = 0.0,
        start: Literal["zero", "learned"] = "zero",
        init_range: PositiveFloat | None = None,
        bptt: PositiveInt | None = None,
    ) -> None:
        def make(size: int) -> Cell:
            cell = ResetBeforeGRUCell(size, hidden_size, variational_dropout, init_range)
            return LearnedStart(cell) if start == "learned" else cell

        cells = layered(make, input_size, num_layers, bidirectional)
        super().__init__(cells, bidirectional, merge, dropout, variational_dropout, bptt)
