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
    for limit, used in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY:
            limits.append(max(soft - _used(used), 0))
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(file).read_text()))
        except (OSError, ValueError):
            continue  # No such group, or no limit: "max".
    return min(limits)


def default_memory_limit() -> str:
    """A share of the available memory, as DuckDB writes it."""
    return f"{int(available_memory() * _SHARE / 2**20)}MiB"


def _used(name: str) -> int:
    """Bytes that this process has of what a limit of its own counts; 0 where that is not told."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(n.split()[1]) * 1024 for n in lines if n.startswith(f"{name}:")), 0)


def _physical() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
