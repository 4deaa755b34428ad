"""Which of a run's machines this is, and where they meet."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unrolled.errors import UserError

SECONDS_TO_MEET = 1800
"""So long the first machine waits for the others, which may be busy with another job."""


@dataclass(frozen=True)
class Machine:
    """One of the machines of a run.

    Args:
        number: From 0 on; the first composes, makes the run directory and tells the result.
        count: Of all.
        endpoint: `host:port` where they meet; port 0 takes a free one.
        meeting: What all of them call it.
        address: Under which the others find this one; None for the host's full name.
    """

    number: int
    count: int
    endpoint: str
    meeting: str
    address: str | None = None

    @property
    def first(self) -> bool:
        """Whether the run directory is this machine's to make and to settle."""
        return self.number == 0


def this_machine(trainer: Mapping[str, Any], variables: Mapping[str, str] | None = None) -> Machine:
    """Where this process is among the machines that `trainer.num_nodes` asks for.

    Args:
        trainer: The config's node.
        variables: The environment: MASTER_ADDR, MASTER_PORT and NODE_RANK, or what SLURM's `srun`
            sets. The former go first.

    Raises:
        UserError: When the environment does not say, or says another number of machines, or when
            srun has started the whole run several times.
    """
    env = os.environ if variables is None else variables
    count = int(trainer.get("num_nodes") or 1)
    if count == 1:
        _require_one_task(trainer.get("devices", 1), env)
        return Machine(0, 1, "localhost:0", uuid.uuid4().hex, "localhost")
    slurm = _of_slurm(count, env) if "SLURM_JOB_ID" in env else {}
    given = {name: env.get(name, slurm.get(name)) for name in _BY_HAND}
    missing = [name for name, value in given.items() if not value]
    if missing:
        raise UserError(
            f"trainer.num_nodes={count}: the environment does not say where the machines meet; "
            f"set {' and '.join(missing)} on each of them ("
            + "; ".join(f"{name}: {_BY_HAND[name]}" for name in missing)
            + "), or start the run by srun --ntasks-per-node=1"
        )
    numbers = {}
    for name in ("MASTER_PORT", "NODE_RANK"):
        try:
            numbers[name] = int(str(given[name]))
        except ValueError:
            raise UserError(f"{name}={given[name]}: not a whole number") from None
    number = numbers["NODE_RANK"]
    if not 0 <= number < count:
        raise UserError(
            f"NODE_RANK={number}: trainer.num_nodes={count} machines have the numbers 0 to "
            f"{count - 1}"
        )
    host = str(given["MASTER_ADDR"])
    endpoint = f"{host}:{numbers['MASTER_PORT']}"
    # The full name of a host can't be found from everywhere; SLURM's name can.
    address = host if _is_loopback(host) else env.get("SLURMD_NODENAME")
    return Machine(number, count, endpoint, slurm.get("meeting", endpoint), address)


def _require_one_task(devices: Any, env: Mapping[str, str]) -> None:
    """Refuse what is right where Lightning is to find its processes: a task for each device.

    Several tasks of one process each may well be runs of their own, by SLURM_PROCID.

    Raises:
        UserError: When each of several tasks would start several processes.
    """
    tasks = int(env.get("SLURM_STEP_NUM_TASKS", "1"))
    processes = len(devices) if isinstance(devices, list) else devices
    if tasks > 1 and str(processes).isdecimal() and int(processes) > 1:
        raise UserError(
            f"trainer.devices={devices}: srun started {tasks} tasks; --ntasks=1 is right: the run "
            "starts a process for each device itself"
        )


_BY_HAND = {
    "MASTER_ADDR": "the first machine's name",
    "MASTER_PORT": "a free port of it",
    "NODE_RANK": "0 on the first machine, 1 on the second and so on",
}


def _of_slurm(count: int, env: Mapping[str, str]) -> dict[str, str]:
    """The same from the variables that `srun` sets.

    Raises:
        UserError: When the job has another number of machines, or several tasks on one.
    """
    nodes = env.get("SLURM_STEP_NUM_NODES") or env.get("SLURM_NNODES")
    if nodes and int(nodes) != count:
        raise UserError(f"trainer.num_nodes={count}: srun started this on {nodes} machines")
    if env.get("SLURM_LOCALID", "0") != "0":
        raise UserError(
            "srun started several tasks on this machine; --ntasks-per-node=1 is right: the run "
            "starts a process for each device itself"
        )
    hosts = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST", "")
    job, step = env["SLURM_JOB_ID"], env.get("SLURM_STEP_ID", "0")
    # Below the ports that the kernel hands out; other jobs of a machine get other ones.
    port = 10000 + (31 * int(job) + int(step)) % 20000
    found = {"MASTER_ADDR": first_host(hosts), "MASTER_PORT": str(port)}
    if "SLURM_NODEID" in env:
        found["NODE_RANK"] = env["SLURM_NODEID"]
    return {**found, "meeting": f"slurm-{job}-{step}"}


def first_host(hosts: str) -> str:
    """The first name of SLURM's short form of several: `node[003-005,9],x1` is `node003`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", hosts)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first.group() if first else "")


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
