"""Jobs of a multirun that SLURM stops and starts again; submitit has started them.

SLURM asks a job to stop by SIGTERM when another is to have its place, and by the signal that
submitit has ordered before the job's time is over. A run has saved where it is and left long before
SLURM ends the job, and a job that ends by itself is over: it has to ask for its place in the queue.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

VARIABLE = "SUBMITIT_EXECUTOR"
"""By this environment variable submitit says that it has started a process, and how."""


def was_restarted() -> bool:
    """Whether SLURM has started this job before."""
    return _restarts() > 0


def in_submitit() -> bool:
    """Whether submitit has started this process."""
    return VARIABLE in os.environ


def requeue() -> str:
    """Have this job started again, when its run was interrupted; the process ends then.

    It ends without a result: as long as there is none, submitit waits for the job.

    Returns:
        Why the job is not started again.
    """
    if os.environ[VARIABLE] != "slurm":
        return "it was asked to stop"
    try:
        job = _job()
        if int(job.get("Restarts", 0)) > _restarts():
            # SLURM did it itself, where a preempted job has no time of grace.
            sys.exit(1)
        if (state := job.get("JobState")) != "RUNNING":
            return f"SLURM has ended it ({state})"
        if job.get("PreemptTime", "None") != "None":
            _call("scontrol", "requeue", os.environ["SLURM_JOB_ID"])
            sys.exit(1)
    except (OSError, subprocess.SubprocessError) as error:
        return f"SLURM says: {(getattr(error, 'stderr', None) or str(error)).strip()}"
    try:
        # As when the job's time is over: submitit counts how often that may be, and then requeues.
        signal.raise_signal(
            signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]
        )
    except Exception as error:
        return str(error).strip().removeprefix("Job not requeued because: ")
    return "submitit does not listen"


def _restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _job() -> dict[str, str]:
    """What SLURM knows of this job."""
    told = _call("scontrol", "--oneliner", "show", "job", os.environ["SLURM_JOB_ID"])
    return dict(re.findall(r"(\S+?)=(\S*)", told))


def _call(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
