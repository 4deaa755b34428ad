"""One call of `train`: a single run, a multirun, or a run that goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from unrolled.errors import UserError
from unrolled.run.allowed import allow, leave_out_working_folder, require_trusted_sources
from unrolled.run.compose import Composed, compose, in_job, run_hydra
from unrolled.run.directory import RunDirectory
from unrolled.run.job_table import Job, JobTable
from unrolled.run.join import join
from unrolled.run.launch import launch, prepare_data
from unrolled.run.machines import this_machine
from unrolled.run.overrides import CommandLine, read_command_line
from unrolled.run.requeue import in_submitit, requeue, was_restarted
from unrolled.run.resume import LIMITS, find, resume
from unrolled.run.show import short, show_result, show_runs
from unrolled.run.typed_paths import user_path
from unrolled.run.wandb_run import in_sweep
from unrolled.run.work import FAILED, FINISHED, INTERRUPTED, USER_ERROR
from unrolled.terminal import say, say_error

AUTO = "auto"
"""The value of `resume` that goes on with the latest run of the same experiment, or starts one."""


def train(arguments: list[str], command: str) -> int:
    """Do what was typed after `train.py`.

    Args:
        arguments: Flags, choices and values.
        command: The whole command, for the run directory.

    Returns:
        The exit code: 0 finished, 1 failed, 2 a mistake of the user, 130 interrupted.

    Raises:
        UserError: For a single run that could not begin.
    """
    line = read_command_line(arguments)
    allow(line.allowed, query=line.allow_query)
    given = line.values.get("resume", "null")
    if given not in ("null", AUTO) and not line.shows:
        if line.multirun:
            raise UserError(
                "resume=RUN_DIR names one run; with -m use resume=auto hydra.sweep.dir=runs/NAME"
            )
        whole = {"task", "experiment"} & set(line.values)
        return _resume(user_path(given), compose(line).config if whole else None, line)
    if line.shows:
        run_hydra(line, lambda cfg: None)
        return FINISHED
    codes: list[int] = []
    errors: list[Exception] = []
    jobs = JobTable()

    def single(cfg: DictConfig) -> None:
        # Hydra would print a line of its own for an error that leaves the job.
        try:
            codes.append(_start(in_job(cfg, line), command, line))
        except Exception as error:
            errors.append(error)

    def one_of_many(cfg: DictConfig) -> None:
        # A job that fails must not end the others: whatever happens is a row of the summary.
        from hydra.core.hydra_config import HydraConfig

        # A launcher may have put the job into another process.
        leave_out_working_folder()
        allow(line.allowed, query=line.allow_query)
        hydra = HydraConfig.get()
        run = RunDirectory(Path(hydra.sweep.dir) / hydra.sweep.subdir)
        typed = [o.removeprefix("++") for o in hydra.overrides.task]
        job = Job(hydra.job.num, typed, str(run.path), None)
        jobs.add(job)
        say(f"\n[{job.number + 1}] {' '.join(typed)}")
        try:
            composed = in_job(cfg, line)
            composed.config["run_dir"] = str(run.path)
            if was_restarted():
                composed.config["resume"] = AUTO
            if this_machine(composed.config["trainer"]).count > 1:
                raise UserError("trainer.num_nodes: a multirun is for one machine")
            code = _start(composed, command, line, keep=True)
        except Exception as error:
            say_error(str(error) or type(error).__name__)
            code = USER_ERROR if isinstance(error, UserError) else FAILED
            if not (run.path / "config.yaml").exists():
                # Never into a run that was there before.
                run.set_status(state="failed", error=str(error))
        jobs.add(replace(job, code=code))
        if code == INTERRUPTED and not in_submitit():
            raise KeyboardInterrupt
        if code == INTERRUPTED:
            say(f"not started again: {requeue()}")

    if not line.multirun:
        run_hydra(line, single)
        if errors:
            raise errors[0]
        return codes[0]
    if given == AUTO and "hydra.sweep.dir" not in line.values:
        raise UserError(
            "-m resume=auto needs a folder to find the runs in again: hydra.sweep.dir=runs/NAME"
        )
    return _summary(line, one_of_many, jobs)


def _summary(line: CommandLine, job: Callable[[DictConfig], None], jobs: JobTable) -> int:
    """Run the jobs of a multirun and show what became of them; the exit code."""
    stopped = FINISHED
    with jobs.open():
        try:
            run_hydra(line, job)
        except KeyboardInterrupt:
            stopped = INTERRUPTED
        except UserError:
            raise
        except Exception as error:
            # A launcher's: its process was killed, its cluster refused the job.
            stopped = FAILED
            say_error(f"the launcher stopped: {str(error).strip() or type(error).__name__}")
        ended = jobs.jobs()
    codes = [job.code for job in ended]
    failed = sum(code != FINISHED for code in codes)
    say(f"\n{len(codes) - failed} of {len(codes)} runs finished")
    show_runs([(job.typed, RunDirectory(Path(job.run))) for job in ended])
    if INTERRUPTED in codes:
        return INTERRUPTED
    return stopped or (FAILED if failed else FINISHED)


def _start(composed: Composed, command: str, line: CommandLine, *, keep: bool = False) -> int:
    config = composed.config
    given = config.get("run_dir")
    machine = this_machine(config["trainer"])
    if machine.count > 1 and not given:
        raise UserError(
            f"run_dir: trainer.num_nodes={machine.count} machines need a folder that all of them "
            "see; name one by run_dir=..."
        )
    if not machine.first:
        return join(config, Path(str(given)), goes_on=config.get("resume") == AUTO)
    if config.get("resume") == AUTO and (found := find(config)) is not None:
        return _resume(found.path, config, line)
    prepare_data(config)
    run = RunDirectory.create(config, Path(given) if given else None, command)
    code = _finish(run, launch(run))
    if code == USER_ERROR and not keep and not run.status().get("first_step"):
        # Nothing was trained: nothing is left behind.
        run.remove()
    return code


def _resume(path: Path, config: dict[str, Any] | None, line: CommandLine) -> int:
    if config is None:
        require_trusted_sources(path, RunDirectory.open(path).config())
    trainer = dict((config or RunDirectory.open(path).config())["trainer"])
    if number := line.values.get("trainer.num_nodes"):
        trainer["num_nodes"] = number
    if not this_machine(trainer).first:
        # The first machine changes the config where that is asked for.
        run = RunDirectory.open(path)
        finished = run.status().get("state") == "finished"
        longer = {f"trainer.{limit}" for limit in LIMITS} & set(line.values)
        return FINISHED if finished and not longer else launch(run)
    run = RunDirectory.open(path)
    if line.values.keys() > {"resume"} or run.status().get("state") != "finished":
        # What is finished can be shown where nothing can be written.
        run = resume(path, config, line)
    if run.status().get("state") == "finished":
        say(f"{short(run)} is finished; its result:")
        show_result(run)
        return FINISHED
    return _finish(run, launch(run))


def _finish(run: RunDirectory, code: int) -> int:
    if code == FINISHED:
        show_result(run)
        return code
    status = run.status()
    if status.get("error"):
        say_error(str(status["error"]))
    if code != USER_ERROR:
        say(
            f"{short(run)}: {status['state']}; see {short(run)}/train.log"
            f" - go on with resume={short(run)}",
            stderr=True,
        )
    if code == INTERRUPTED and in_sweep():
        # To an agent an exit code is a failure, and after a few of them it gives up; it takes a
        # trial that ended by its signal for stopped.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    return code
