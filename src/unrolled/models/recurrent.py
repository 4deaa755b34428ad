"""Recurrent encoders over torch's own fast layers: `LSTM`, `GRU`, `RNN`.

One signature for all encoders: `encoder(x, lengths, state=None) -> (outputs, state)`.

B batch, T time, I input size, H hidden size, L layers times directions, D directions.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any, Literal, TypeAlias

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from unrolled.data.batch import batch_sizes
from unrolled.models.bidirectional import NO_STEP, Merge, merge_directions, merged_size
from unrolled.models.lengths import check_lengths, check_packed_lengths
from unrolled.models.types import Probability

State: TypeAlias = Tensor | tuple[Tensor, Tensor]
"""`[L, B, H]`: the hidden state, for the LSTM a pair of hidden state and cell.

With a projection the hidden state has its size, the cell still the hidden size.
"""


WINDOW = 1024
"""Steps of packed sequences that run at once on the CPU."""


def _rows(state: State, rows: Tensor | slice | None) -> State:
    """Some rows of a state, `[layer, batch, size]`; None takes all."""
    if rows is None:
        return state
    if isinstance(state, tuple):
        return state[0][:, rows], state[1][:, rows]
    return state[:, rows]


def _join_rows(states: list[Any]) -> Any:
    """States of some rows each, one after the other."""
    if isinstance(states[0], tuple):
        return tuple(torch.cat(parts, 1) for parts in zip(*states, strict=True))
    return torch.cat(states, 1)


class RecurrentEncoder(nn.Module):
    """What the three encoders share: packing, carried state, single steps.

    Positions past a sequence's length are zero in the output and change nothing elsewhere; the
    state is that after each sequence's last real step.

    Args:
        layer: torch's layer, `batch_first`.
        merge: How the two directions of the last layer are put together; between layers they
            stand side by side.
    """

    def __init__(self, layer: nn.RNNBase, merge: str = "concat") -> None:
        super().__init__()
        self.layer = layer
        self.merge = merge
        self.causal = not layer.bidirectional
        size = layer.proj_size or layer.hidden_size
        self.output_size = merged_size(size, layer.bidirectional, merge)

    def start(self, batch_size: int, like: Tensor) -> State:
        """The state before the first step, zeros with the dtype and device of `like`."""
        layer = self.layer
        layers = layer.num_layers * (2 if layer.bidirectional else 1)
        hidden = like.new_zeros(layers, batch_size, layer.proj_size or layer.hidden_size)
        if not isinstance(layer, nn.LSTM):
            return hidden
        return hidden, like.new_zeros(layers, batch_size, layer.hidden_size)

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
        batch, time, _ = x_BTI.shape
        shortest, _ = check_lengths(lengths, batch, time)
        # Packing costs a sort and two copies; sequences of one length do without.
        if shortest == time:
            outputs, state = self._run(x_BTI, state)
            return self._merge(outputs), state
        packed = pack_padded_sequence(x_BTI, lengths, batch_first=True, enforce_sorted=False)
        packed, state = self._run_packed(packed, state)
        outputs, _ = pad_packed_sequence(packed, batch_first=True, total_length=time)
        return self._merge(outputs), state

    def packed(
        self, x_NI: Tensor, lengths: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Encode packed sequences: `[N, input]` to `[N, output_size]` and the state.

        Args:
            x_NI: In the order of torch's `PackedSequence`.
            lengths: `[batch]`, int64, on the CPU, longest first.
            state: Where to go on; zeros by default.
        """
        check_packed_lengths(lengths, len(x_NI))
        outputs, state = self._run_packed(PackedSequence(x_NI, batch_sizes(lengths)), state)
        return self._merge(outputs.data), state

    def _run_packed(self, packed: PackedSequence, state: State | None) -> tuple[Any, State]:
        """Run long packed sequences a window of steps at a time, with the state carried along.

        torch's backward pass on the CPU writes zeros as large as the whole input for every step of
        packed sequences: 12 s for 4,000 steps of 13 rows, and quadratic in the steps.
        """
        sizes = packed.batch_sizes
        if len(sizes) <= WINDOW or not self.causal or packed.data.device.type != "cpu":
            return self._run(packed, state)
        state = self.start(int(sizes[0]), packed.data) if state is None else state
        state = _rows(state, packed.sorted_indices)
        windows = torch.split(sizes, WINDOW)
        outputs, ended = [], []
        parts = torch.split(packed.data, [int(own.sum()) for own in windows])
        for k, data in enumerate(parts):
            alive = int(windows[k][0])
            state = _rows(state, slice(alive))
            run, state = self._run(PackedSequence(data, windows[k]), state)
            outputs.append(run.data)
            go_on = int(windows[k + 1][0]) if k + 1 < len(windows) else 0
            ended.append(_rows(state, slice(go_on, None)))
        # The longest stand first, and end last.
        last = _join_rows(ended[::-1])
        data = torch.cat(outputs)
        whole = PackedSequence(data, sizes, packed.sorted_indices, packed.unsorted_indices)
        return whole, _rows(last, packed.unsorted_indices)

    def _run(self, x: Any, state: State | None) -> tuple[Any, Any]:
        if (
            torch.is_autocast_enabled("cpu")
            and isinstance(self.layer, nn.LSTM)
            and self.layer.weight_ih_l0.device.type == "cpu"
            and not _lstm_takes_bfloat16()
        ):
            with torch.autocast("cpu", enabled=False):
                whole = state and (state[0].float(), state[1].float())
                return self.layer(x.float(), whole)  # type: ignore[no-any-return]
        return self.layer(x, state)  # type: ignore[no-any-return]

    def _merge(self, outputs: Tensor) -> Tensor:
        if self.causal or self.merge == "concat":
            return outputs
        forward, backward = outputs.chunk(2, -1)
        return merge_directions(forward, backward, self.merge)

    def step(self, x_BI: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One step: `[batch, input]` to `[batch, output_size]` and the new state.

        Raises:
            ValueError: For a bidirectional encoder, which needs the future.
        """
        if self.layer.bidirectional:
            raise ValueError(NO_STEP)
        outputs, state = self._run(x_BI.unsqueeze(1), state)
        return outputs.squeeze(1), state


class LSTM(RecurrentEncoder):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate of Gers et al. 2000).

    Args:
        input_size: Channels of the input.
        hidden_size: Units of each layer and direction.
        num_layers: Layers on top of each other.
        bidirectional: Read each sequence in both directions.
        dropout: Between layers, share of the units set to zero in training.
        forget_bias: The forget gates' bias at the start; None keeps torch's uniform draw. 1 lets
            the cell keep what it has from the first update on (Jozefowicz et al. 2015). `chrono`
            spreads the units' memory over 1 .. max_time steps: log of U(1, max_time - 1), and the
            input gates' bias its negative (Tallec & Ollivier 2018).
        init: Start of the weights: torch's uniform draw, or `glorot` (TensorFlow's default, with
            zero biases).
        merge: How the two directions of the last layer are put together.
        projection_size: A linear map of the hidden state to so many channels, which are the output
            and are fed back (Sak et al. 2014); None goes without.
        max_time: Of `chrono`: steps of the longest dependency, at least 3.
    """

    def __init__(
        self,
        input_size: PositiveInt,
        hidden_size: PositiveInt = 64,
        num_layers: PositiveInt = 1,
        bidirectional: bool = False,
        dropout: Probability = 0.0,
        forget_bias: float | Literal["chrono"] | None = 1.0,
        init: Literal["torch", "glorot"] = "torch",
        merge: Merge = "concat",
        projection_size: PositiveInt | None = None,
        max_time: PositiveInt | None = None,
    ) -> None:
        if (forget_bias == "chrono") != (max_time is not None):
            raise ValueError("forget_bias='chrono' and max_time need each other")
        if max_time is not None and max_time < 3:
            raise ValueError(f"max_time is {max_time}; chrono needs at least 3 steps")
        if projection_size is not None and projection_size >= hidden_size:
            raise ValueError(
                f"projection_size {projection_size} has to be below hidden_size {hidden_size}"
            )
        if projection_size is not None:
            # It says so at every first call (ATen/native/RNN.cpp); there is nothing to be done.
            warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
        super().__init__(
            nn.LSTM(
                input_size,
                hidden_size,
                num_layers,
                batch_first=True,
                bidirectional=bidirectional,
                dropout=dropout,
                proj_size=projection_size or 0,
            ),
            merge,
        )
        _initialise(self.layer, init)
        if forget_bias is None:
            return
        # torch orders the gates input, forget, cell, output and has two biases for each.
        input_gates, forget_gates = slice(hidden_size), slice(hidden_size, 2 * hidden_size)
        with torch.no_grad():
            for name, bias in self.layer.named_parameters():
                if "bias_hh" in name:
                    bias[forget_gates] = 0.0
                    if max_time is not None:
                        bias[input_gates] = 0.0
                elif "bias_ih" in name:
                    if isinstance(forget_bias, str):
                        assert max_time is not None
                        steps = torch.empty(hidden_size).uniform_(1.0, max_time - 1.0)
                        bias[forget_gates] = steps.log()
                        bias[input_gates] = -bias[forget_gates]
                    else:
                        bias[forget_gates] = forget_bias


class GRU(RecurrentEncoder):
    """Gated recurrent unit (Cho et al. 2014), reset gate after the product as in cuDNN.

    Args:
        input_size: Channels of the input.
        hidden_size: Units of each layer and direction.
        num_layers: Layers on top of each other.
        bidirectional: Read each sequence in both directions.
        dropout: Between layers, share of the units set to zero in training.
        init: Start of the weights: torch's uniform draw, or `glorot` with zero biases.
        merge: How the two directions of the last layer are put together.
    """

    def __init__(
        self,
        input_size: PositiveInt,
        hidden_size: PositiveInt = 64,
        num_layers: PositiveInt = 1,
        bidirectional: bool = False,
        dropout: Probability = 0.0,
        init: Literal["torch", "glorot"] = "torch",
        merge: Merge = "concat",
    ) -> None:
        super().__init__(
            nn.GRU(
                input_size,
                hidden_size,
                num_layers,
                batch_first=True,
                bidirectional=bidirectional,
                dropout=dropout,
            ),
            merge,
        )
        _initialise(self.layer, init)


class RNN(RecurrentEncoder):
    """The simple recurrent network (Elman 1990).

    Args:
        input_size: Channels of the input.
        hidden_size: Units of each layer and direction.
        num_layers: Layers on top of each other.
        bidirectional: Read each sequence in both directions.
        dropout: Between layers, share of the units set to zero in training.
        nonlinearity: Of the hidden units.
        init: Start of the weights: torch's uniform draw, or `glorot` with zero biases.
        merge: How the two directions of the last layer are put together.
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
        merge: Merge = "concat",
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
            ),
            merge,
        )
        _initialise(self.layer, init)


@functools.cache
def _lstm_takes_bfloat16() -> bool:
    """Whether oneDNN computes an LSTM in bfloat16 on this CPU.

    On CPUs without the instructions torch hands the layer to oneDNN all the same, which then "could
    not create a primitive descriptor".
    """
    # The weights are drawn, and a run that was stopped looks once more than one that was not.
    try:
        with (
            torch.random.fork_rng(devices=[]),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast("cpu", torch.bfloat16),
        ):
            nn.LSTM(8, 8, batch_first=True)(torch.zeros(2, 3, 8))[0].sum().backward()
    except RuntimeError:
        return False
    return True


def _initialise(layer: nn.RNNBase, init: str) -> None:
    if init == "torch":
        return
    for name, parameter in layer.named_parameters():
        if "bias" in name:
            nn.init.zeros_(parameter)
        if "bias_hh" in name:
            # TensorFlow has one bias for each gate, torch two.
            parameter.requires_grad_(False)
    for index in range(layer.num_layers):
        for direction in ("", "_reverse") if layer.bidirectional else ("",):
            # TensorFlow keeps input and recurrent weights in one matrix: one fan for both.
            w_ih = getattr(layer, f"weight_ih_l{index}{direction}")
            w_hh = getattr(layer, f"weight_hh_l{index}{direction}")
            fan_out, fan_in = w_ih.shape[0], w_ih.shape[1] + w_hh.shape[1]
            bound = (6.0 / (fan_in + fan_out)) ** 0.5
            nn.init.uniform_(w_ih, -bound, bound)
            nn.init.uniform_(w_hh, -bound, bound)
            if layer.proj_size:
                nn.init.xavier_uniform_(getattr(layer, f"weight_hr_l{index}{direction}"))
