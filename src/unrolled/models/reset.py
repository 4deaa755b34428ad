"""Reset: an all-zero step separates independent sequences that stand in one row.

Element-Research's MaskZero. Its output is zero, and what comes after it starts afresh. A sequence
whose last steps are all zero has the output zero at its last step, so the read-out `last` gives
zero: pad on the left, or give the lengths without the padding (which is what `hold` is).

It is the encoder's input that has to be zero, so the embedding must map these steps to zero: one
that takes numbers as they are does, a learned vector or a linear map with a bias does not.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from unrolled.models.lengths import check_lengths
from unrolled.models.state import State, map_state


class Reset(nn.Module):
    """Any encoder, started afresh after every all-zero step.

    Each row is cut into the pieces between its zero steps, and the encoder reads the pieces as one
    batch: torch's fast layers stay fast, and a bidirectional encoder does not look across a zero
    step either.

    Args:
        input_size: Channels of the input.
        encoder: Makes the encoder when called with `input_size=`; in a config file a node with
            `_partial_: true`. It has `start(batch_size, like)`, the state before the first step.
        hidden_size: Passed on to the encoder; None leaves it to the encoder.
    """

    def __init__(
        self,
        input_size: PositiveInt,
        encoder: Callable[..., nn.Module],
        hidden_size: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        sizes = {} if hidden_size is None else {"hidden_size": hidden_size}
        self.encoder = encoder(input_size=input_size, **sizes)
        self.output_size: int = self.encoder.output_size  # type: ignore[assignment]
        self.causal: bool = self.encoder.causal  # type: ignore[assignment]

    def start(self, batch_size: int, like: Tensor) -> State:
        """The encoder's state before the first step."""
        state: State = self.encoder.start(batch_size, like)  # type: ignore[operator]
        return state

    def forward(
        self, x_BTI: Tensor, lengths: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Encode whole sequences.

        Args:
            x_BTI: `[batch, time, input]`.
            lengths: `[batch]`, int64, on the CPU, 1 .. time.
            state: Where each row goes on, unless its first step is zero.

        Returns:
            `[batch, time, output_size]`, zero at zero steps and past the lengths, and the state
            after each row's last step: that before any step where the last step is zero.
        """
        batch, time, _ = x_BTI.shape
        check_lengths(lengths, batch, time)
        device = x_BTI.device
        inside = torch.arange(time) < lengths.unsqueeze(1)
        # Where the pieces lie decides the shapes of all that follows, so the host has to know.
        real = (x_BTI != 0).any(-1).cpu() & inside
        outputs = x_BTI.new_zeros(batch, time, self.output_size)
        fresh = self.start(batch, x_BTI)
        if not bool(real.any()):
            return outputs, fresh
        before = torch.cat([torch.zeros(batch, 1, dtype=torch.bool), real[:, :-1]], 1)
        piece_row, piece_start = (real & ~before).nonzero(as_tuple=True)
        row, step = real.nonzero(as_tuple=True)
        piece = (real & ~before).flatten().cumsum(0)[row * time + step] - 1
        piece_lengths = piece.bincount(minlength=len(piece_row))
        place = step - piece_start[piece]
        source, piece_at, place_at = ((i.to(device)) for i in (row * time + step, piece, place))

        pieces = x_BTI.new_zeros(len(piece_row), int(piece_lengths.max()), x_BTI.shape[-1])
        pieces = pieces.index_put((piece_at, place_at), x_BTI.flatten(0, 1)[source])
        starts: State | None = None
        if state is not None:
            first = (piece_start == 0).nonzero().squeeze(1)
            starts = _put_rows(
                self.start(len(piece_row), x_BTI), first, state, piece_row[first], device
            )
        encoded, ends = self.encoder(pieces, piece_lengths, starts)
        outputs = outputs.flatten(0, 1).index_copy(0, source, encoded[piece_at, place_at])
        last = (piece_start + piece_lengths == lengths[piece_row]).nonzero().squeeze(1)
        final = _put_rows(fresh, piece_row[last], ends, last, device)
        return outputs.view(batch, time, -1), final

    def step(self, x_BI: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One step: `[batch, input]` to `[batch, output_size]` and the new state.

        Raises:
            ValueError: For a bidirectional encoder, which needs the future.
        """
        output, after = self.encoder.step(x_BI, state)  # type: ignore[operator]
        zero = (x_BI == 0).all(-1)

        def choose(new: Tensor, start: Tensor) -> Tensor:
            return torch.where(zero.view(1, -1, *[1] * (new.dim() - 2)), start, new)

        state = map_state(choose, after, self.start(len(x_BI), x_BI))
        return output.masked_fill(zero.unsqueeze(-1), 0.0), state


def _put_rows(
    into: State, rows: Tensor, source: State, source_rows: Tensor, device: torch.device
) -> State:
    rows, source_rows = rows.to(device), source_rows.to(device)
    return map_state(
        lambda a, b: a.index_copy(1, rows, b.index_select(1, source_rows)), into, source
    )
