"""What of the machine a preparation may use."""

from __future__ import annotations

import os
import resource
from pathlib import Path

_SHARE = 0.5
"""Of the memory that is there, for DuckDB; the rest is for the passes in numpy and for others."""


def available_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Bytes that this process may use: of the machine, its control group and its own limits."""
    limits = [_physical()]
    for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY:
            limits.append(soft)
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(file).read_text()))
        except (OSError, ValueError):
            continue  # No such group, or no limit: "max".
    return min(limits)


def default_memory_limit() -> str:
    """A share of the available memory, as DuckDB writes it."""
    return f"{int(available_memory() * _SHARE / 2**20)}MiB"


def _physical() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
