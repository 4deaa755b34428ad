"""Recurrent encoders over torch's own fast layers: `LSTM`, `GRU`, `RNN`.

One signature for all encoders: `encoder(x, lengths, state=None) -> (outputs, state)`.

B batch, T time, I input size, H hidden size, L layers times directions, D directions.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from unrolled.models.types import Probability

State: TypeAlias = Tensor | tuple[Tensor, Tensor]
"""`[L, B, H]`: the hidden state, for the LSTM a pair of hidden state and cell."""


class RecurrentEncoder(nn.Module):
    """What the three encoders share: packing, carried state, single steps.

    Positions past a sequence's length are zero in the output and change nothing elsewhere; the
    state is that after each sequence's last real step.

    Args:
        layer: torch's layer, `batch_first`.
    """

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer
        self.output_size = layer.hidden_size * (2 if layer.bidirectional else 1)

    def forward(
        self, x_BTI: Tensor, lengths: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Encode whole sequences.

        Args:
            x_BTI: `[batch, time, input]`.
            lengths: `[batch]`, int64, on the CPU, 1 .. time.
            state: Where to go on; zeros by default.

        Returns:
            `[batch, time, output_size]` and the state after the last real step.
        """
        time = x_BTI.shape[1]
        # Packing costs a sort and two copies; sequences of one length do without.
        if int(lengths.min()) == time:
            outputs, state = self.layer(x_BTI, state)
            return outputs, state
        packed = pack_padded_sequence(x_BTI, lengths, batch_first=True, enforce_sorted=False)
        packed, state = self.layer(packed, state)
        outputs, _ = pad_packed_sequence(packed, batch_first=True, total_length=time)
        return outputs, state

    def step(self, x_BI: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One step: `[batch, input]` to `[batch, output_size]` and the new state.

        Raises:
            ValueError: For a bidirectional encoder, which needs the future.
        """
        if self.layer.bidirectional:
            raise ValueError("a bidirectional encoder can't go step by step: it reads the future")
        outputs, state = self.layer(x_BI.unsqueeze(1), state)
        return outputs.squeeze(1), state


class LSTM(RecurrentEncoder):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate of Gers et al. 2000).

    Args:
        input_size: Channels of the input.
        hidden_size: Units of each layer and direction.
        num_layers: Layers on top of each other.
        bidirectional: Read each sequence in both directions; the outputs stand side by side.
        dropout: Between layers, share of the units set to zero in training.
        forget_bias: The forget gates' bias at the start; None keeps torch's uniform draw. 1 lets
            the cell keep what it has from the first update on (Jozefowicz et al. 2015).
        init: Start of the weights: torch's uniform draw, or `glorot` (TensorFlow's default, with
            zero biases).
    """

    def __init__(
        self,
        input_size: PositiveInt,
        hidden_size: PositiveInt = 64,
        num_layers: PositiveInt = 1,
        bidirectional: bool = False,
        dropout: Probability = 0.0,
        forget_bias: float | None = 1.0,
        init: Literal["torch", "glorot"] = "torch",
    ) -> None:
        super().__init__(
            nn.LSTM(
                input_size,
                hidden_size,
                num_layers,
                batch_first=True,
                bidirectional=bidirectional,
                dropout=dropout,
            )
        )
        _initialise(self.layer, init)
        if forget_bias is not None:
            # torch orders the gates input, forget, cell, output and has two biases for each.
            with torch.no_grad():
                for name, bias in self.layer.named_parameters():
                    if "bias" in name:
                        value = forget_bias if "bias_ih" in name else 0.0
                        bias[hidden_size : 2 * hidden_size] = value


class GRU(RecurrentEncoder):
    """Gated recurrent unit (Cho et al. 2014), reset gate after the product as in cuDNN.

    Args:
        input_size: Channels of the input.
        hidden_size: Units of each layer and direction.
        num_layers: Layers on top of each other.
        bidirectional: Read each sequence in both directions; the outputs stand side by side.
        dropout: Between layers, share of the units set to zero in training.
        init: Start of the weights: torch's uniform draw, or `glorot` with zero biases.
    """

    def __init__(
        self,
        input_size: PositiveInt,
        hidden_size: PositiveInt = 64,
        num_layers: PositiveInt = 1,
        bidirectional: bool = False,
        dropout: Probability = 0.0,
        init: Literal["torch", "glorot"] = "torch",
    ) -> None:
        super().__init__(
            nn.GRU(
                input_size,
                hidden_size,
                num_layers,
                batch_first=True,
                bidirectional=bidirectional,
                dropout=dropout,
            )
        )
        _initialise(self.layer, init)


class RNN(RecurrentEncoder):
    """The simple recurrent network (Elman 1990).

    Args:
        input_size: Channels of the input.
        hidden_size: Units of each layer and direction.
        num_layers: Layers on top of each other.
        bidirectional: Read each sequence in both directions; the outputs stand side by side.
        dropout: Between layers, share of the units set to zero in training.
        nonlinearity: Of the hidden units.
        init: Start of the weights: torch's uniform draw, or `glorot` with zero biases.
    """

    def __init__(
        self,
        input_size: PositiveInt,
        hidden_size: PositiveInt = 64,
        num_layers: PositiveInt = 1,
        bidirectional: bool = False,
        dropout: Probability = 0.0,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        init: Literal["torch", "glorot"] = "torch",
    ) -> None:
        super().__init__(
            nn.RNN(
                input_size,
                hidden_size,
                num_layers,
                nonlinearity=nonlinearity,
                batch_first=True,
                bidirectional=bidirectional,
                dropout=dropout,
            )
        )
        _initialise(self.layer, init)


def _initialise(layer: nn.RNNBase, init: str) -> None:
    if init == "torch":
        return
    for name, parameter in layer.named_parameters():
        if "bias" in name:
            nn.init.zeros_(parameter)
    for index in range(layer.num_layers):
        for direction in ("", "_reverse") if layer.bidirectional else ("",):
            # TensorFlow keeps input and recurrent weights in one matrix: one fan for both.
            w_ih = getattr(layer, f"weight_ih_l{index}{direction}")
            w_hh = getattr(layer, f"weight_hh_l{index}{direction}")
            fan_out, fan_in = w_ih.shape[0], w_ih.shape[1] + w_hh.shape[1]
            bound = (6.0 / (fan_in + fan_out)) ** 0.5
            nn.init.uniform_(w_ih, -bound, bound)
            nn.init.uniform_(w_hh, -bound, bound)
