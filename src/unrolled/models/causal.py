"""What encoders that look back on all earlier steps share: padding, and the steps they keep.

Such an encoder's state holds the earlier steps as columns, `[layers, batch, column, size]`, and
says which columns of which sequence are real, `[1, batch, column]`: sequences of a batch differ in
length. A sequence is forgotten by setting its part of the state to zero.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.models.lengths import check_lengths
from unrolled.models.readout import padding_mask


def without_padding(x_BTI: Tensor, lengths: Tensor) -> Tensor:
    """The batch cut to its longest sequence, with zeros past each sequence's length.

    Zeros written over the padding, not multiplied into it, keep NaN out of outputs and gradients.

    Raises:
        ValueError: When the lengths break their contract, see `check_lengths`.
    """
    shortest, longest = check_lengths(lengths, *x_BTI.shape[:2])
    x_BTI = x_BTI[:, :longest]
    if shortest == longest:
        return x_BTI
    return x_BTI.masked_fill(padding_mask(lengths, longest, x_BTI.device).unsqueeze(-1), 0.0)


def with_padding(outputs_BTH: Tensor, lengths: Tensor, time: int) -> Tensor:
    """Outputs of `without_padding`, zero past each sequence's length, `time` steps long again."""
    longest = outputs_BTH.shape[1]
    if int(lengths.min()) < longest:
        past = padding_mask(lengths, longest, outputs_BTH.device)
        outputs_BTH = outputs_BTH.masked_fill(past.unsqueeze(-1), 0.0)
    return F.pad(outputs_BTH, (0, 0, 0, time - longest)) if longest < time else outputs_BTH


def real_columns(
    earlier: Tensor | None, lengths: Tensor, time: int, device: torch.device
) -> Tensor:
    """Which columns are real once `time` steps follow on the earlier ones.

    Args:
        earlier: `[1, batch, column]` bool, or None at the start.
        lengths: `[batch]`, how many of the steps are real.
        time: Number of the steps.
        device: Where the columns are.

    Returns:
        `[1, batch, column + time]` bool.
    """
    real = ~padding_mask(lengths, time, device).unsqueeze(0)
    return real if earlier is None else torch.cat([earlier, real], -1)


def align(
    columns: tuple[Tensor, ...], real: Tensor, size: int
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Move the real columns of each sequence to the end, in their order, and keep the last `size`.

    Args:
        columns: Each `[layers, batch, column, size]`.
        real: `[1, batch, column]` bool.
        size: How many columns to keep.

    Returns:
        The columns and which of them are real.
    """
    # A stable sort of booleans: first what is not real, then what is, each in its order.
    order = real[0].long().argsort(stable=True, dim=-1)
    order = order[:, order.shape[1] - size :]
    rows = torch.arange(len(order), device=order.device).unsqueeze(1)
    return tuple(c[:, rows, order] for c in columns), real[:, rows, order]
