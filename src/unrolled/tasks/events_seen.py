"""Of each sequence its first events alone: what is known while it is still going on."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from unrolled.data.batch import SequenceBatch


def first_events(batch: SequenceBatch, count: int) -> SequenceBatch:
    """The batch with each sequence cut to its first `count` events; shorter ones stay whole.

    Args:
        batch: With one target a sequence.
        count: At least 1.
    """
    if batch.targets.dim() != 1:
        raise ValueError("sequences with a target for each step can't be cut without them")
    lengths = batch.lengths.clamp(max=count)
    if batch.packed:
        # Step 0 of all sequences stands first, then step 1: the early ones are the first rows.
        rows = int(lengths.sum())
        early = {name: values[:rows] for name, values in batch.features.items()}
        return replace(batch, features=early, lengths=lengths)
    longest = int(lengths.max())
    # What lies past the new lengths is not past the old ones: it is padding now, and that is zero.
    past = torch.arange(longest) >= lengths.unsqueeze(1)
    features = {}
    for name, values in batch.features.items():
        cut = values[:, :longest]
        mask = past.to(values.device).view(*past.shape, *[1] * (values.dim() - 2))
        features[name] = cut.masked_fill(mask, 0)
    return replace(batch, features=features, lengths=lengths)


def outputs_after(outputs: Tensor, lengths: Tensor, count: int) -> Tensor:
    """The outputs after `count` events, or after the last one of a sequence that has fewer.

    Args:
        outputs: `[batch, time, output]`.
        lengths: `[batch]`.
        count: At least 1.

    Returns:
        `[batch, output]`.
    """
    rows = torch.arange(len(outputs), device=outputs.device)
    return outputs[rows, lengths.clamp(max=count).to(outputs.device) - 1]
