"""Both directions: how their outputs are put together, and the language model's shift."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from unrolled.models.packing import Packing
from unrolled.models.state import State

Merge: TypeAlias = Literal["concat", "sum", "mean"]
"""Outputs of the two directions side by side, added, or averaged."""

NO_STEP = "a bidirectional encoder can't go step by step: it reads the future"


def merged_size(size: int, bidirectional: bool, merge: str) -> int:
    """Channels of the outputs when each direction has `size`."""
    return 2 * size if bidirectional and merge == "concat" else size


def merge_directions(forward: Tensor, backward: Tensor, merge: str) -> Tensor:
    """Put the outputs of both directions together, `[..., size]` each."""
    if merge == "concat":
        return torch.cat([forward, backward], -1)
    added = forward + backward
    return added if merge == "sum" else added / 2


class LanguageModelShift(nn.Module):
    """A forward and a backward encoder, of which no output sees the step that it stands at.

    Output t puts together the forward encoder's output after steps 1 .. t-1 and the backward
    encoder's after steps N .. t+1, zeros where there is no such step: what a bidirectional language
    model may know when it predicts step t (Element-Research's BiSequencerLM). The encoders share
    nothing, with several layers too: were the directions joined between the layers, the second
    layer would read what it has to predict.

    Args:
        input_size: Channels of the input.
        encoder: Makes each encoder when called with `input_size=`; one that reads forward only. In
            a config file a node with `_partial_: true`.
        merge: How the two directions are put together.
        hidden_size: Passed on to the encoders; None leaves it to them.
    """

    causal = False

    def __init__(
        self,
        input_size: PositiveInt,
        encoder: Callable[..., nn.Module],
        merge: Merge = "concat",
        hidden_size: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        sizes = {} if hidden_size is None else {"hidden_size": hidden_size}
        self.forwards = encoder(input_size=input_size, **sizes)
        self.backwards = encoder(input_size=input_size, **sizes)
        if not self.forwards.causal:
            raise ValueError("the shift needs an encoder that reads forward only")
        self.merge = merge
        size = self.forwards.output_size
        assert isinstance(size, int)
        self.output_size = merged_size(size, True, merge)

    def forward(
        self, x_BTI: Tensor, lengths: Tensor, state: tuple[State, State] | None = None
    ) -> tuple[Tensor, tuple[State, State]]:
        """Encode whole sequences.

        Args:
            x_BTI: `[batch, time, input]`.
            lengths: `[batch]`, int64, on the CPU, 1 .. time.
            state: Where each encoder starts; a carried state is no step, so the first output of the
                forward encoder stays zero.

        Returns:
            `[batch, time, output_size]` and the states of both encoders.
        """
        packing = Packing(lengths, x_BTI.shape[0], x_BTI.shape[1], x_BTI.device)
        reversed_x = packing.unpack(packing.reverse(packing.pack(x_BTI)))
        past, state_forward = self.forwards(x_BTI, lengths, state and state[0])
        mirrored, state_backward = self.backwards(reversed_x, lengths, state and state[1])
        future = packing.unpack(packing.reverse(packing.pack(mirrored)))
        # Shifted by one step; past the length the encoders give zeros, which move in at the end.
        zeros = torch.zeros_like(past[:, :1])
        before = torch.cat([zeros, past[:, :-1]], 1)
        after = torch.cat([future[:, 1:], zeros], 1)
        # The last real output of the forward encoder has moved into the padding.
        steps = torch.arange(x_BTI.shape[1], device=x_BTI.device)
        padding = steps >= lengths.to(x_BTI.device, non_blocking=True).unsqueeze(1)
        before = before.masked_fill(padding.unsqueeze(-1), 0.0)
        return merge_directions(before, after, self.merge), (state_forward, state_backward)

    def step(self, x_BI: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Refused: the outputs need the future."""
        raise ValueError(NO_STEP)
