"""LSTM with normalised sums: `NormLSTM`.

    i, f, g, o = N(W x) + N(U h) + b;    c' = s(f) c + s(i) tanh(g);    h' = s(o) tanh(N(c'))

N is layer normalisation (Ba et al. 2016), over all four gates of a step together, or recurrent
batch normalisation (Cooijmans et al. 2017), over the sequences that have this step. Each N has its
own gain, that of the cell a shift too; the other shifts are in b.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.models.bidirectional import Merge
from unrolled.models.cells.initial import draw_uniform, zero_state
from unrolled.models.product import affine
from unrolled.models.state import State
from unrolled.models.types import Probability
from unrolled.models.unroll import Cell, Projected, Unroll, layered

EPSILON = 1e-5
MOMENTUM = 0.1


class NormLSTMCell(Cell):
    """What both normalisations share: the weights.

    Args:
        input_size: Channels of the input.
        hidden_size: Units.
        gain: Of the normalised values at the start.
        forget_bias: The forget gates' bias at the start.
        init_range: See `draw_uniform`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        gain: float,
        forget_bias: float,
        init_range: float | None = None,
    ) -> None:
        super().__init__(hidden_size)
        self.input = nn.Linear(input_size, 4 * hidden_size, bias=False)
        self.hidden = nn.Linear(hidden_size, 4 * hidden_size, bias=False)
        draw_uniform(self, init_range)
        self.bias = nn.Parameter(torch.zeros(4 * hidden_size))
        with torch.no_grad():
            self.bias[hidden_size : 2 * hidden_size] = forget_bias
        self.gain_input = nn.Parameter(torch.full((4 * hidden_size,), gain))
        self.gain_hidden = nn.Parameter(torch.full((4 * hidden_size,), gain))
        self.gain_cell = nn.Parameter(torch.full((hidden_size,), gain))
        self.shift_cell = nn.Parameter(torch.zeros(hidden_size))


def _new_cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    size = c.shape[1]
    input_forget, g, o = gates.split_with_sizes((2 * size, size, size), 1)
    i, f = input_forget.sigmoid().chunk(2, 1)
    return torch.addcmul(f * c, i, g.tanh()), o


class LayerNormLSTMCell(NormLSTMCell):
    """One step with layer normalisation; the state is h and c."""

    def start(self, batch_size: int, like: Tensor) -> State:
        """Zeros."""
        return zero_state(batch_size, self.output_size, 2, like)

    def project(self, x: Tensor) -> Projected:
        """`N(W x) + b`."""
        wide = (4 * self.output_size,)
        return F.layer_norm(affine(x, self.input.weight), wide, self.gain_input, self.bias, EPSILON)

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, State]:
        """One step."""
        h, c = state
        size = self.output_size
        from_hidden = affine(h, self.hidden.weight)
        gates = x + F.layer_norm(from_hidden, (4 * size,), self.gain_hidden, eps=EPSILON)
        c, o = _new_cell(gates, c)
        normal = F.layer_norm(c, (size,), self.gain_cell, self.shift_cell, EPSILON)
        h = o.sigmoid() * normal.tanh()
        return h, (h, c)


class BatchNormLSTMCell(NormLSTMCell):
    """One step with recurrent batch normalisation; the state is h, c and the number of the step.

    In training the statistics are those of the sequences that have the step; in evaluation the
    running ones of the step, from `max_steps` on those of the last. A single sequence has no
    statistics: it takes the running ones in training too, and leaves them as they are.

    Args:
        input_size: Channels of the input.
        hidden_size: Units.
        gain: Of the normalised values at the start.
        forget_bias: The forget gates' bias at the start.
        init_range: See `draw_uniform`.
        max_steps: Steps with statistics of their own.
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        gain: float,
        forget_bias: float,
        init_range: float | None = None,
        max_steps: int = 100,
    ) -> None:
        super().__init__(input_size, hidden_size, gain, forget_bias, init_range)
        # Of W x, U h and c, side by side.
        self.widths = (4 * hidden_size, 4 * hidden_size, hidden_size)
        self.register_buffer("running_mean", torch.zeros(max_steps, sum(self.widths)))
        self.register_buffer("running_variance", torch.ones(max_steps, sum(self.widths)))

    def start(self, batch_size: int, like: Tensor) -> State:
        """Zeros."""
        zeros = like.new_zeros(batch_size, self.output_size)
        return zeros, zeros, like.new_zeros(batch_size, 1, dtype=torch.int64)

    def project(self, x: Tensor) -> Projected:
        """`W x`; its statistics belong to the steps."""
        return affine(x, self.input.weight)

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, State]:
        """One step."""
        h, c, step = state
        slots = step.squeeze(1).clamp(max=len(self.running_mean) - 1)
        from_hidden = affine(h, self.hidden.weight)
        if self.training and len(x) > 1:
            x, *of_input = _normalise(x, self.gain_input, self.bias)
            hidden, *of_hidden = _normalise(from_hidden, self.gain_hidden, None)
            c, o = _new_cell(x + hidden, c)
            normal, *of_cell = _normalise(c, self.gain_cell, self.shift_cell)
            statistics = zip(of_input, of_hidden, of_cell, strict=True)
            mean, scale = (torch.cat(parts) for parts in statistics)
            self._update(slots, mean, scale, len(x))
        else:
            means = self.running_mean[slots].split_with_sizes(self.widths, 1)
            scales = (
                (self.running_variance[slots] + EPSILON).rsqrt().split_with_sizes(self.widths, 1)
            )
            x = torch.addcmul(self.bias, (x - means[0]) * scales[0], self.gain_input)
            gates = torch.addcmul(x, (from_hidden - means[1]) * scales[1], self.gain_hidden)
            c, o = _new_cell(gates, c)
            normal = torch.addcmul(self.shift_cell, (c - means[2]) * scales[2], self.gain_cell)
        h = o.sigmoid() * normal.tanh()
        return h, (h, c, step + 1)

    @torch.no_grad()
    def _update(self, slots: Tensor, mean: Tensor, scale: Tensor, rows: int) -> None:
        # The unbiased variance, as in torch's BatchNorm. Sequences may be at different steps.
        variance = (scale.pow(-2) - EPSILON) * (rows / (rows - 1))
        slots = torch.unique(slots)
        self.running_mean[slots] = self.running_mean[slots].lerp(mean, MOMENTUM)
        self.running_variance[slots] = self.running_variance[slots].lerp(variance, MOMENTUM)


def _normalise(x: Tensor, gain: Tensor, shift: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The normalised rows, and what they were normalised by: mean and 1 / deviation."""
    normal, mean, scale = torch.native_batch_norm(x, gain, shift, None, None, True, 0.0, EPSILON)
    return normal, mean, scale


class NormLSTM(Unroll):
    """LSTM with layer normalisation or recurrent batch normalisation.

    Args:
        input_size: Channels of the input.
        hidden_size: Units of each layer and direction.
        num_layers: Layers on top of each other.
        bidirectional: Read each sequence in both directions.
        dropout: Between layers, share of the units set to zero in training.
        merge: How the two directions of the last layer are put together.
        norm: `layer` (Ba et al. 2016) or `batch` (Cooijmans et al. 2017).
        gain: Of the normalised values at the start; None takes 1 for `layer` and 0.1 for `batch`,
            where larger gains let the gradients vanish in tanh.
        max_steps: Of `batch`: steps with running statistics of their own; later ones share the
            last.
        forget_bias: The forget gates' bias at the start; the other biases start at zero.
        init_range: Draw the matrices from U(-init_range, init_range); None takes 1 / sqrt(fan_in).
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
        norm: Literal["layer", "batch"] = "layer",
        gain: PositiveFloat | None = None,
        max_steps: PositiveInt = 100,
        forget_bias: float = 1.0,
        init_range: PositiveFloat | None = None,
        bptt: PositiveInt | None = None,
    ) -> None:
        first_gain = {"layer": 1.0, "batch": 0.1}[norm] if gain is None else gain

        def make(size: int) -> Cell:
            shared = (size, hidden_size, first_gain, forget_bias, init_range)
            return (
                LayerNormLSTMCell(*shared)
                if norm == "layer"
                else BatchNormLSTMCell(*shared, max_steps)
            )

        cells = layered(make, input_size, num_layers, bidirectional)
        super().__init__(cells, bidirectional, merge, dropout, bptt=bptt)
