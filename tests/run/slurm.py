"""A SLURM of one node on the loopback address, with its own keys, ports and folders."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")

CONFIG = """
ClusterName=unrolled
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
# A job that was put back into the queue waits so long.
AuthInfo=socket={folder}/munge.socket,cred_expire={seconds_in_queue}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=bf_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait={seconds_to_end}
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2
SlurmdParameters=config_overrides
PartitionName=patient Nodes=localhost Default=YES PriorityTier=1 GraceTime={seconds_to_end}
PartitionName=urgent Nodes=localhost PriorityTier=10 PreemptMode=OFF
"""


class Slurm:
    """The daemons, within a `with`.

    A job of the partition `urgent` takes the place of one of `patient`, which is told by SIGTERM
    and put back into the queue.

    Args:
        folder: For all files; its path is not to be long, it takes a socket.
    """

    seconds_to_end = 20
    # SLURM takes no less than 5 for a wish; it is also how long a job may take to begin.
    seconds_in_queue = 10

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Slurm:
        config = self.folder / "slurm.conf"
        config.write_text(
            CONFIG.format(
                host=socket.gethostname().partition(".")[0],
                folder=self.folder,
                controller_port=_free_port(),
                node_port=_free_port(),
                seconds_in_queue=self.seconds_in_queue,
                seconds_to_end=self.seconds_to_end,
            )
        )
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        with self._stack as stack:
            self._start(
                "munged", "--foreground", "--force", "--num-threads=1",
                *(f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "log", "pid")),
                f"--seed-file={self.folder}/munge.seed", f"--socket={self.folder}/munge.socket",
            )  # fmt: skip
            self._until(lambda: (self.folder / "munge.socket").exists(), "munged")
            self._start("slurmctld", "-D", "-i", "-f", str(config))
            self._start("slurmd", "-D", "-N", "localhost", "-f", str(config))
            self._until(lambda: "idle" in self.command("sinfo", "-h", "-o", "%T"), "slurm")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        with suppress(subprocess.SubprocessError):
            self.command("scancel", "--user=root")
            self.command("scancel", "--signal=KILL", "--full", "--user=root")
        self._stack.close()
        # What a job has started outlives the daemons.
        own = f"SLURM_CONF={self.environment['SLURM_CONF']}\0".encode()
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if own in environ.read_bytes():
                    os.kill(int(environ.parent.name), signal.SIGKILL)

    @property
    def environment(self) -> dict[str, str]:
        """Variables of those who talk to it."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def command(self, *arguments: str) -> str:
        """What a command of SLURM's prints."""
        done = subprocess.run(
            arguments, env=self.environment, cwd=self.folder, capture_output=True, text=True,
            timeout=60,
        )  # fmt: skip
        return done.stdout

    def jobs(self) -> list[dict[str, str]]:
        """What is known of each job, also of one that has ended."""
        lines = self.command("scontrol", "--oneliner", "show", "jobs").splitlines()
        return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines]

    def _start(self, *command: str) -> None:
        """Start a daemon that ends, with all it has started, when the `with` ends."""
        name = command[0]
        with (self.folder / f"{name}.out").open("wb") as out:
            process = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip
        self._stack.callback(_end, process)

    def _until(self, ready: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 30
        while not ready():
            if time.monotonic() > deadline:
                told = [f"{p.name}: {p.read_text()}" for p in sorted(self.folder.glob("*.out"))]
                raise RuntimeError(f"{what} does not start: {told}")
            time.sleep(0.2)


def missing() -> str | None:
    """Why there can be no SLURM here; None where there can."""
    lacks = [name for name in PROGRAMS if shutil.which(name) is None]
    if lacks:
        return f"{', '.join(lacks)} not installed: apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "SLURM's daemons are started as root"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
