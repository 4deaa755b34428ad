"""Which GPU a trial has: one trial a device, by lease.

A lease is a file lock in a place that all sweeps of this user on this machine share, so that two
sweeps do not meet on one device; the kernel takes it back when its holder dies. A trial whose
worker was killed is on its device until it has saved where it is: beside the lock stands which run
the device was leased for, and as long as a process owns that run, nobody else gets the device.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock

from unrolled.errors import UserError
from unrolled.run.directory import RunDirectory

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
        names: As CUDA_VISIBLE_DEVICES takes them, one for each device.
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
        gpus = _gpus()
        given = os.environ.get(VISIBLE)
        names = list(gpus) if given is None else [name.strip() for name in given.split(",")]
        # By its UUID: SLURM counts the devices of each of its jobs from 0.
        return cls([gpus.get(name, name) for name in names if name not in ("", "-1")], folder)

    def lease(self, number: int | None, run: RunDirectory) -> Lease | None:
        """So many devices; None where fewer are free now.

        Args:
            number: Of devices; None for all.
            run: What they are for.

        Raises:
            UserError: When this machine never has so many, though it has some.
        """
        wanted = len(self.names) if number is None else number
        lease = Lease()
        if wanted == 0 or not self.names:
            return lease
        if wanted > len(self.names):
            raise UserError(
                f"trainer.devices={wanted}: this process may use {len(self.names)} GPUs "
                f"({', '.join(self.names)}); ask for fewer, or let it see more: {VISIBLE}"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        for user in self.folder.glob("*.run"):
            # Where the run was before it was interrupted.
            with suppress(FileNotFoundError):
                if user.read_text() == str(run.path):
                    user.unlink()
        for name in self.names:
            file = self.folder / name.replace("/", "_")
            lock = filelock.FileLock(file.with_suffix(".lock"))
            user = file.with_suffix(".run")
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                continue
            if user.exists() and RunDirectory(Path(user.read_text())).is_in_use():
                lock.release()
                continue
            lease.devices.append(name)
            lease.locks.append(lock)
            user.write_text(str(run.path))
            if len(lease.devices) == wanted:
                return lease
        lease.release()
        return None


def devices_wanted(trainer: dict[str, Any]) -> int | None:
    """How many devices the trainer of a trial uses; None for all there are.

    Raises:
        UserError: When it names them, which is the lease's to do.
    """
    if trainer.get("accelerator", "auto") not in ("auto", "gpu", "cuda"):
        return 0
    devices = trainer.get("devices", 1)
    if isinstance(devices, list):
        raise UserError(
            f"trainer.devices={devices}: which devices a trial has is the sweep's to say; "
            f"trainer.devices={len(devices)}"
        )
    if devices in ("auto", -1, "-1"):
        # Which without `gpu` is one process; see `launch.num_processes`.
        return None if trainer.get("accelerator") in ("gpu", "cuda") else 1
    return int(devices)


def _gpus() -> dict[str, str]:
    """The UUIDs of the GPUs by their numbers."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {}
    rows = [line.split(",") for line in done.stdout.splitlines()]
    return {number.strip(): uuid.strip() for number, uuid in rows}
