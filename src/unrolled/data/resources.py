"""What of the machine a preparation may use."""

from __future__ import annotations

import os
import resource
from pathlib import Path

_SHARE = 0.5
"""Of the memory that is there, for DuckDB; the rest is for the passes in numpy and for others."""

_SHARE_OF_LIMIT = 0.2
"""Of what the process may allocate: DuckDB gives its memory back, but keeps the addresses."""


def available_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_memory_limit() -> str:
    """What DuckDB may use of the machine, the control group and the process's own limits.

    Returns:
        As DuckDB writes it.
    """
    limits = [_SHARE * machine_memory()]
    for limit, used in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY:
            limits.append(_SHARE_OF_LIMIT * max(soft - _used(used), 0))
    return f"{int(min(limits) / 2**20)}MiB"


def machine_memory() -> int:
    """Bytes of memory of the machine, or of the control group where it has less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(file).read_text()))
        except (OSError, ValueError):
            continue  # No such group, or no limit: "max".
    return min(limits)


def _used(name: str) -> int:
    """Bytes that this process has of what a limit of its own counts; 0 where that is not told."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(n.split()[1]) * 1024 for n in lines if n.startswith(f"{name}:")), 0)
