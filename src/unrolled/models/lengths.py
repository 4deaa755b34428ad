"""The lengths of a batch's sequences: the one contract that every encoder checks."""

from __future__ import annotations

import torch
from torch import Tensor


def check_lengths(lengths: Tensor, batch: int, time: int) -> tuple[int, int]:
    """The shortest and the longest of a batch's lengths.

    Lengths lie on the CPU, so that looking at them never waits for a device.

    Args:
        lengths: `[batch]`, int64, on the CPU, 1 .. time.
        batch: Sequences of the batch.
        time: Steps of the padded batch.

    Raises:
        ValueError: When the lengths do not have that shape, type, place or range.
    """
    if (
        lengths.shape != (batch,)
        or lengths.dtype != torch.int64
        or lengths.device.type != "cpu"
        or not batch
    ):
        raise ValueError(
            f"lengths must be int64 on the CPU, one for each of the {batch} sequences (at least "
            f"one); these are {list(lengths.shape)} {str(lengths.dtype).removeprefix('torch.')} on "
            f"{lengths.device.type}"
        )
    shortest, longest = (int(bound) for bound in lengths.aminmax())
    if shortest < 1 or longest > time:
        wrong = ((lengths < 1) | (lengths > time)).nonzero().squeeze(1)
        raise ValueError(
            f"lengths must lie in 1 .. {time}, the steps of the batch; {len(wrong)} of {batch} do "
            f"not, first {int(lengths[wrong[0]])} in row {int(wrong[0])}"
        )
    return shortest, longest


def check_packed_lengths(lengths: Tensor, steps: int) -> int:
    """The longest of the lengths of packed sequences.

    Args:
        lengths: `[batch]`, int64, on the CPU, positive, longest first.
        steps: Real steps of the batch.

    Raises:
        ValueError: When the lengths are others, or do not add up to the steps.
    """
    _, longest = check_lengths(lengths, len(lengths), steps)
    total = int(lengths.sum())
    if total != steps or bool((lengths.diff() > 0).any()):
        raise ValueError(
            f"lengths of packed sequences must fall and add up to their {steps} steps; these add "
            f"up to {total}"
        )
    return longest
