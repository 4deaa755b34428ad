"""Which GPU a trial has: one trial a device, by lease.

A lease is a file lock in a place that all sweeps of this user on this machine share, so that two
sweeps do not meet on one device; the kernel takes it back when its holder dies.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass
class Lease:
    """Devices that this process may use.

    Args:
        devices: As CUDA_VISIBLE_DEVICES names them; empty where the trial uses none.
        locks: Held until `release`.
    """

    devices: list[str] = field(default_factory=list)
    locks: list[filelock.BaseFileLock] = field(default_factory=list, repr=False)

    def environment(self) -> dict[str, str]:
        """What the trial's processes are told."""
        return {VISIBLE: ",".join(self.devices)} if self.devices else {}

    def release(self) -> None:
        """Let others have them."""
        for lock in self.locks:
            lock.release()
        self.locks = []


class Devices:
    """The devices of this machine.

    Args:
        names: As CUDA_VISIBLE_DEVICES names them.
        folder: Where the locks are.
    """

    def __init__(self, names: list[str], folder: Path) -> None:
        self.names = names
        self.folder = folder

    @classmethod
    def of_this_machine(cls) -> Devices:
        """Those that CUDA_VISIBLE_DEVICES names, or all; none without a GPU."""
        user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
        folder = Path(tempfile.gettempdir()) / f"unrolled-devices-{user}"
        given = os.environ.get(VISIBLE)
        names = given.split(",") if given is not None else _all_gpus()
        return cls([name.strip() for name in names if name.strip() not in ("", "-1")], folder)

    def lease(self, number: int | None) -> Lease | None:
        """So many devices; None where fewer are free now.

        Args:
            number: Of devices; None for all.
        """
        wanted = len(self.names) if number is None else min(number, len(self.names))
        lease = Lease()
        if wanted == 0:
            return lease
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in self.names:
            lock = filelock.FileLock(self.folder / f"{name.replace('/', '_')}.lock")
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                continue
            lease.devices.append(name)
            lease.locks.append(lock)
            if len(lease.devices) == wanted:
                return lease
        lease.release()
        return None


def devices_wanted(trainer: dict[str, Any]) -> int | None:
    """How many devices the trainer of a trial uses; None for all there are."""
    if trainer.get("accelerator", "auto") not in ("auto", "gpu", "cuda"):
        return 0
    devices = trainer.get("devices", 1)
    if isinstance(devices, list):
        return len(devices)
    if devices in ("auto", -1, "-1"):
        # Which without `gpu` is one process; see `launch.num_processes`.
        return None if trainer.get("accelerator") in ("gpu", "cuda") else 1
    return int(devices)


def _all_gpus() -> list[str]:
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.split()
