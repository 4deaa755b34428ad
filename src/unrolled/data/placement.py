"""Where an event store's columns lie while batches are gathered from them."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch

from unrolled.data.store import JaggedSequences
from unrolled.errors import UserError

Placement: TypeAlias = Literal["auto", "disk", "memory", "device"]

DEVICE_SHARE = 0.5
"""Of a GPU's free memory `auto` takes at most this share; the rest is the model's."""
SMALL_BYTES = 2**28
"""What `auto` copies into memory; larger columns stay on the disk, where processes share them."""


def place(source: JaggedSequences, placement: Placement, device: torch.device) -> JaggedSequences:
    """The sequences with their columns where they are wanted.

    Args:
        source: Memory-mapped, or in memory already.
        placement: See `EventData`.
        device: That which trains.

    Raises:
        UserError: When they are to go to a device that has no room for them.
    """
    if placement == "auto":
        placement = choose(source.num_bytes, device)
    if placement == "disk":
        return source
    try:
        return source.copy_to(device if placement == "device" else torch.device("cpu"))
    except (torch.OutOfMemoryError, RuntimeError) as error:
        raise UserError(
            f"data.placement={placement}: no room for the {source.num_bytes / 2**20:,.0f} MiB of "
            "the events; use data.placement=disk"
        ) from error


def choose(num_bytes: int, device: torch.device) -> Placement:
    """Where `auto` puts columns of so many bytes."""
    if device.type == "cuda" and num_bytes <= DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
        return "device"
    return "memory" if num_bytes <= SMALL_BYTES else "disk"
