"""Which target belongs to which output.

Targets are one for each sequence, `[batch]`, or one for each step, `[batch, time]`; so are outputs,
`[batch, output]` or `[batch, time, output]`. Where they differ, a sequence's target is asked of
every step (repeated target), and of the targets of the steps only the last is asked.

Of a packed batch, steps are `[N, ...]` instead of `[batch, time, ...]`. `padded` brings them into
that form; `flatten_steps` gives the steps that have a target without padding, whatever the form.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unrolled.data.batch import NO_TARGET, SequenceBatch, has_target


def flatten_steps(outputs: Tensor, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
    """Outputs and targets of all steps that have a target, one after the other.

    Args:
        outputs: Of the steps, `[batch, time, size]`, packed `[N, size]`.
        batch: With a target for each step, of one number or of several.

    Returns:
        `[item, size]`; and `[item]` or `[item, number]`.
    """
    targets = batch.targets
    present = has_target(targets)
    if targets.dim() == outputs.dim():
        present = present.all(-1)
    return flat_steps(outputs, targets, present)


def padded(outputs: Tensor, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
    """Outputs and targets of a batch, those of steps as `[batch, time, ...]`."""
    if not batch.packed:
        return outputs, batch.targets
    none = float("nan") if batch.targets.is_floating_point() else float(NO_TARGET)
    return batch.pad(outputs), batch.pad(batch.targets, none)


def last_targets(targets: Tensor) -> Tensor:
    """The last target that each sequence has, `[batch, time]` to `[batch]`; none where none is."""
    position = torch.arange(targets.shape[1], device=targets.device)
    last = torch.where(has_target(targets), position, 0).amax(1)
    return targets.gather(1, last.unsqueeze(1)).squeeze(1)


def repeated_targets(targets: Tensor, lengths: Tensor, time: int) -> Tensor:
    """A sequence's target at each of its steps, `[batch]` to `[batch, time]`."""
    past = torch.arange(time, device=targets.device) >= lengths.to(targets.device).unsqueeze(1)
    none = float("nan") if targets.is_floating_point() else NO_TARGET
    return targets.unsqueeze(1).expand(-1, time).masked_fill(past, none)


def trained_on(outputs: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
    """The targets in the shape of the outputs, for the loss."""
    if outputs.dim() == 2 and targets.dim() == 2:
        return last_targets(targets)
    if outputs.dim() == 3 and targets.dim() == 1:
        return repeated_targets(targets, lengths, outputs.shape[1])
    return targets


def judged(outputs: Tensor, targets: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs `[item, output]` and targets `[item]`, for the metrics.

    An item is a sequence or a step that has a target. A repeated target is judged at the sequence's
    last step alone.
    """
    if outputs.dim() == 3 and targets.dim() == 1:
        rows = torch.arange(len(outputs), device=outputs.device)
        return outputs[rows, lengths.to(outputs.device) - 1], targets
    if targets.dim() == 1:
        return outputs, targets
    if outputs.dim() == 2:
        targets = last_targets(targets)
    present = has_target(targets)
    return outputs[present], targets[present]


def asked(targets: Tensor, every_step: bool) -> Tensor:
    """The targets that are judged, `[item]`, whatever the model says."""
    if targets.dim() == 1:
        return targets
    chosen = targets if every_step else last_targets(targets)
    return chosen[has_target(chosen)]


def flat_steps(outputs: Tensor, targets: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and targets of the chosen steps, one after the other: `[item, size]`, `[item, ...]`.

    Args:
        outputs: `[batch, time, size]`, or packed `[N, size]`.
        targets: `[batch, time]`, or packed `[N]`; of several numbers with one dimension more.
        chosen: Bool, `[batch, time]` or packed `[N]`.
    """
    places = chosen.flatten().nonzero().squeeze(1)
    flat = outputs.flatten(0, -2)
    # Not a mask, whose gradient is written one row after the other.
    return flat.index_select(0, places), targets.flatten(0, chosen.dim() - 1)[places]
