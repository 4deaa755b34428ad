"""The processes that train together."""

from __future__ import annotations

from typing import TypeVar

import torch

T = TypeVar("T")


def num_processes() -> int:
    """How many there are; 1 where nothing is distributed."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if distributed else 1


def rank() -> int:
    """The number of this one."""
    return torch.distributed.get_rank() if num_processes() > 1 else 0


def gather(mine: T) -> list[T]:
    """What each process has, in the order of their ranks; all of them must call it."""
    everybody = [mine] * num_processes()
    if len(everybody) > 1:
        torch.distributed.all_gather_object(everybody, mine)
    return everybody
