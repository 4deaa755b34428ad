"""Penalties on an encoder's outputs, to be added to the loss."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from unrolled.models.readout import padding_mask


class NormStabilizer(nn.Module):
    """Keep the norm of the hidden state the same over time (Krueger & Memisevic 2016).

        beta / T * sum over t = 2 .. T of (|h_t| - |h_{t-1}|)^2,  mean over the batch

    T is the sequence's own length; padding has no part in it, nor has the state before the first
    step. Where a state is zero its norm has no gradient, and none is given.

    Element-Research's module of this name differs in three ways. The loss it reports adds the two
    norms where it should subtract them; its gradient is that of the sum over time, without the
    division by T; and it divides by the norm unguarded, so that a state of zeros gives NaN.
    `over_time="sum"` has its gradient.

    Unlike the original, which is silent in evaluation, this gives the penalty in every mode.

    Args:
        beta: Weight of the penalty; 1 as Element-Research's.
        over_time: `mean` divides a sequence's sum by its length, `sum` does not.
    """

    def __init__(
        self, beta: NonNegativeFloat = 1.0, over_time: Literal["mean", "sum"] = "mean"
    ) -> None:
        super().__init__()
        self.beta = beta
        self.over_time = over_time

    def forward(self, outputs_BTH: Tensor, lengths: Tensor) -> Tensor:
        """The penalty, a scalar.

        Args:
            outputs_BTH: An encoder's outputs, `[batch, time, size]`.
            lengths: `[batch]`, 1 .. time.
        """
        past = padding_mask(lengths, outputs_BTH.shape[1], outputs_BTH.device)
        # torch's norm of zeros has the gradient zero.
        norms = torch.linalg.vector_norm(outputs_BTH.masked_fill(past.unsqueeze(-1), 0.0), dim=-1)
        changes = norms.diff(dim=1).masked_fill(past[:, 1:], 0.0).square().sum(1)
        if self.over_time == "mean":
            changes = changes / lengths.to(changes.device, non_blocking=True)
        penalty: Tensor = self.beta * changes.mean()
        return penalty
