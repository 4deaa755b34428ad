"""Read-outs: from an encoder's outputs to what the head sees.

Each is `readout(outputs, lengths) -> [batch, output_size]`, one vector a sequence; only `EveryStep`
gives one a step. Positions past the length, where every encoder gives zeros, have no part in it.

How it meets the targets: one target a sequence with `every_step` is asked of every step (the
tutorials' repeated target); a target for each step with any other read-out is that of the last step
that has one.
"""

from __future__ import annotations

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from unrolled.data.batch import batch_sizes


def padding_mask(lengths: Tensor, time: int, device: torch.device) -> Tensor:
    """True where a position lies past its sequence's length; `[batch, time]`."""
    return torch.arange(time, device=device) >= lengths.to(device, non_blocking=True).unsqueeze(1)


class Last(nn.Module):
    """The output at each sequence's last step.

    Of a bidirectional encoder's output this is the forward direction after all steps beside the
    backward direction after one.
    """

    def __init__(self, input_size: PositiveInt) -> None:
        super().__init__()
        self.output_size = input_size

    def forward(self, outputs: Tensor, lengths: Tensor) -> Tensor:
        """`[batch, time, size]` to `[batch, size]`."""
        rows = torch.arange(len(outputs), device=outputs.device)
        return outputs[rows, lengths.to(outputs.device, non_blocking=True) - 1]

    def packed(self, outputs: Tensor, lengths: Tensor) -> Tensor:
        """`[N, size]` to `[batch, size]`."""
        sizes = batch_sizes(lengths)
        before = sizes.cumsum(0) - sizes
        rows = before[lengths - 1] + torch.arange(len(lengths))
        return outputs.index_select(0, rows.to(outputs.device, non_blocking=True))


class EveryStep(nn.Module):
    """Every step's output, as it is: a prediction for each step."""

    def __init__(self, input_size: PositiveInt) -> None:
        super().__init__()
        self.output_size = input_size

    def forward(self, outputs: Tensor, lengths: Tensor) -> Tensor:
        """`[batch, time, size]`, unchanged."""
        return outputs

    def packed(self, outputs: Tensor, lengths: Tensor) -> Tensor:
        """`[N, size]`, unchanged."""
        return outputs


class Mean(nn.Module):
    """The mean over each sequence's steps."""

    def __init__(self, input_size: PositiveInt) -> None:
        super().__init__()
        self.output_size = input_size

    def forward(self, outputs: Tensor, lengths: Tensor) -> Tensor:
        """`[batch, time, size]` to `[batch, size]`."""
        # Encoders give zeros past the length, so the sum needs no mask.
        return outputs.sum(1) / lengths.to(outputs.device, non_blocking=True).unsqueeze(1)


class Sum(nn.Module):
    """The sum over each sequence's steps: what is counted grows with the length."""

    def __init__(self, input_size: PositiveInt) -> None:
        super().__init__()
        self.output_size = input_size

    def forward(self, outputs: Tensor, lengths: Tensor) -> Tensor:
        """`[batch, time, size]` to `[batch, size]`."""
        return outputs.sum(1)


class Max(nn.Module):
    """The largest value of each channel over a sequence's steps."""

    def __init__(self, input_size: PositiveInt) -> None:
        super().__init__()
        self.output_size = input_size

    def forward(self, outputs: Tensor, lengths: Tensor) -> Tensor:
        """`[batch, time, size]` to `[batch, size]`."""
        past = padding_mask(lengths, outputs.shape[1], outputs.device).unsqueeze(-1)
        return outputs.masked_fill(past, -torch.inf).amax(1)


class Attention(nn.Module):
    """A weighted mean over the steps, the weights from a small network of each step's output.

    `softmax_t(v . tanh(W h_t))`, the additive attention of Bahdanau et al. (2015) with a learned
    query, as in Yang et al. (2016), eq. 5 to 7.

    Args:
        input_size: Channels of the encoder's output.
        attention_size: Units of the small network.
    """

    def __init__(self, input_size: PositiveInt, attention_size: PositiveInt = 32) -> None:
        super().__init__()
        self.output_size = input_size
        self.score = nn.Sequential(
            nn.Linear(input_size, attention_size),
            nn.Tanh(),
            nn.Linear(attention_size, 1, bias=False),
        )

    def forward(self, outputs: Tensor, lengths: Tensor) -> Tensor:
        """`[batch, time, size]` to `[batch, size]`."""
        past = padding_mask(lengths, outputs.shape[1], outputs.device)
        weights = self.score(outputs).squeeze(-1).masked_fill(past, -torch.inf).softmax(1)
        return torch.einsum("bt,bts->bs", weights, outputs)
