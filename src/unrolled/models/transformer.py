"""A causal Transformer encoder: each step attends to itself and to the steps before it.

B batch, T time, H hidden size, S columns kept from before.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.models.causal import align, real_columns, with_padding, without_padding
from unrolled.models.types import Probability

State = tuple[Tensor, ...]
"""Keys beside values of each layer, `[1, B, S, 2 H]`, and last which columns are real."""


class TransformerLayer(nn.Module):
    """Self-attention and a feed-forward network, each with a norm and a residual connection.

    Args:
        hidden_size: Channels.
        num_heads: Heads of the attention.
        feedforward_size: Units of the feed-forward network.
        dropout: Share of attention weights, units and outputs set to zero in training.
        norm: Where the norms stand: before each part, or after its residual sum.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        feedforward_size: int,
        dropout: float,
        norm: Literal["pre", "post"],
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = norm
        self.attention_dropout = dropout
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size)
        self.attention_out = nn.Linear(hidden_size, hidden_size)
        self.feedforward_norm = nn.LayerNorm(hidden_size)
        self.feedforward = nn.Sequential(
            nn.Linear(hidden_size, feedforward_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(feedforward_size, hidden_size),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x_BTH: Tensor, earlier: Tensor | None, allowed: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """One layer.

        Args:
            x_BTH: The steps.
            earlier: Keys beside values from before, `[1, batch, column, 2 hidden]`.
            allowed: Which columns a step may attend to, `[batch, 1, time, column + time]`; None
                for itself and those before it.

        Returns:
            The steps, and all keys beside values, those from before first.
        """
        if self.norm == "pre":
            attended, kept = self._attend(self.attention_norm(x_BTH), earlier, allowed)
            x_BTH = x_BTH + self.dropout(attended)
            x_BTH = x_BTH + self.dropout(self.feedforward(self.feedforward_norm(x_BTH)))
        else:
            attended, kept = self._attend(x_BTH, earlier, allowed)
            x_BTH = self.attention_norm(x_BTH + self.dropout(attended))
            x_BTH = self.feedforward_norm(x_BTH + self.dropout(self.feedforward(x_BTH)))
        return x_BTH, kept

    def _attend(
        self, x_BTH: Tensor, earlier: Tensor | None, allowed: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        size = x_BTH.shape[-1]
        query, kept = self.query_key_value(x_BTH).split([size, 2 * size], -1)
        kept = kept.unsqueeze(0)
        if earlier is not None:
            kept = torch.cat([earlier, kept], 2)
        key, value = kept[0].chunk(2, -1)
        attended = F.scaled_dot_product_attention(
            self._heads(query),
            self._heads(key),
            self._heads(value),
            attn_mask=allowed,
            dropout_p=self.attention_dropout if self.training else 0.0,
            is_causal=allowed is None,
        )
        return self.attention_out(attended.transpose(1, 2).flatten(2)), kept

    def _heads(self, x_BTH: Tensor) -> Tensor:
        """`[batch, head, time, size of a head]`."""
        return x_BTH.view(*x_BTH.shape[:2], self.num_heads, -1).transpose(1, 2)


class Transformer(nn.Module):
    """A causal Transformer with learned positions, as SASRec (Kang & McAuley 2018).

    Two layers of one head and a feed-forward network as wide as the rest are SASRec's; a linear
    map from the input to the hidden size stands before them, a norm behind.

    Args:
        input_size: Channels of the input.
        hidden_size: Channels of each layer.
        num_layers: Layers on top of each other.
        num_heads: Heads of the attention; they divide `hidden_size`.
        feedforward_size: Units between the two maps of the feed-forward network; None takes
            `hidden_size`.
        dropout: Share of the inputs, attention weights and outputs of each part set to zero in
            training.
        norm: Layer norms before each part (`pre`, trains without a warm-up of the learning rate)
            or after its residual sum (`post`, Vaswani et al. 2017).
        max_length: Longest sequence. A carried state keeps the newest steps for which there is
            room beside those that come; in a stream the oldest are forgotten.

    Raises:
        ValueError: When `num_heads` does not divide `hidden_size`.
    """

    causal = True

    def __init__(
        self,
        input_size: PositiveInt,
        hidden_size: PositiveInt = 64,
        num_layers: PositiveInt = 2,
        num_heads: PositiveInt = 1,
        feedforward_size: PositiveInt | None = None,
        dropout: Probability = 0.0,
        norm: Literal["pre", "post"] = "pre",
        max_length: PositiveInt = 512,
    ) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide hidden_size={hidden_size}")
        self.output_size = hidden_size
        self.max_length = max_length
        self.project = nn.Linear(input_size, hidden_size)
        self.positions = nn.Parameter(torch.empty(max_length, hidden_size))
        # As small as in GPT-2: the inputs matter more than where they stand at the start.
        nn.init.normal_(self.positions, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            TransformerLayer(hidden_size, num_heads, feedforward_size or hidden_size, dropout, norm)
            for _ in range(num_layers)
        )
        self.final_norm = nn.LayerNorm(hidden_size)

    def forward(
        self, x_BTI: Tensor, lengths: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Encode whole sequences.

        Args:
            x_BTI: `[batch, time, input]`.
            lengths: `[batch]`, int64, on the CPU, 1 .. time.
            state: The steps before these; none by default.

        Returns:
            `[batch, time, hidden]` and the state after the last real step.

        Raises:
            ValueError: When the sequences are longer than `max_length`.
        """
        x = without_padding(x_BTI, lengths)
        time = x.shape[1]
        if state is None:
            kept: tuple[Tensor | None, ...] = (None,) * len(self.layers)
            if time > self.max_length:
                raise ValueError(_too_long(time, self.max_length))
            seen, allowed = None, None
            places = self.positions[:time]
        else:
            *columns, seen = self._room(state, lengths)
            kept = tuple(columns)
            # Padding takes part in nothing; it only needs a place that exists.
            first = seen[0].sum(-1, keepdim=True)
            steps = torch.arange(time, device=x.device)
            places = F.embedding((first + steps).clamp(max=self.max_length - 1), self.positions)
            allowed = _allowed(seen[0], time)
        # Past a sequence's length nothing needs masking: no step attends to later ones.
        h = self.dropout(self.project(x) + places)
        new = []
        for layer, earlier in zip(self.layers, kept, strict=True):
            h, keys_and_values = layer(h, earlier, allowed)
            new.append(keys_and_values)
        outputs = with_padding(self.final_norm(h), lengths, x_BTI.shape[1])
        return outputs, (*new, real_columns(seen, lengths, time, x.device))

    def step(self, x_BI: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One step: `[batch, input]` to `[batch, hidden]` and the new state."""
        ones = torch.ones(len(x_BI), dtype=torch.int64)
        outputs, new = self(x_BI.unsqueeze(1), ones, state)
        return outputs.squeeze(1), new

    def _room(self, state: State, lengths: Tensor) -> State:
        """The state, as far as there is room for it beside the steps that come."""
        *columns, real = state
        longest = int(lengths.max())
        # To count a state's real columns waits for the device; most often their number is enough.
        if real.shape[-1] + longest <= self.max_length:
            return state
        if longest > self.max_length:
            raise ValueError(_too_long(longest, self.max_length))
        room = min(self.max_length - longest, int(real[0].sum(-1).max()))
        # Columns that are not real go first, then the oldest.
        aligned, real = align(tuple(columns), real, room)
        return (*aligned, real)


def _allowed(real: Tensor, time: int) -> Tensor:
    """What the steps may attend to: real earlier columns `[batch, column]`, and no later step."""
    batch, _ = real.shape
    own = torch.ones(time, time, dtype=torch.bool, device=real.device).tril()
    earlier = real.unsqueeze(1).expand(batch, time, -1)
    return torch.cat([earlier, own.expand(batch, time, time)], -1).unsqueeze(1)


def _too_long(length: int, max_length: int) -> str:
    return f"a sequence of {length} steps is longer than max_length={max_length}"
