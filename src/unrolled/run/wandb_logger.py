"""Weights & Biases: offline unless the user is logged in, never waiting, never failing a run."""

from __future__ import annotations

import atexit
import csv
import logging
import os
import queue
import re
import threading
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from pydantic import PositiveFloat

from unrolled.run.directory import RunDirectory
from unrolled.run.interruption import EXIT_CODE
from unrolled.run.wandb_files import last_step
from unrolled.run.wandb_run import WandbRun, in_sweep
from unrolled.run.wandb_server import logged_in, reachable

log = logging.getLogger(__name__)

_OLD_NAMES = {"dryrun": "offline", "run": "online"}
"""Values of WANDB_MODE that W&B still takes, and what they are called today."""
SECONDS_TO_START = 10
"""How long a server that answers may take to open the run."""
SECONDS_TO_TAKE = 10.0
"""How long W&B's process may take for the rows before a checkpoint, which it only has to accept."""
SECONDS_BETWEEN_UPLOADS = 5.0
"""Of a sweep's trial, as often as its agent asks whether it is to be stopped; W&B's own is 15."""


class WandbLogger(LightningWandbLogger):
    """Lightning's logger, which goes silent instead of failing or holding up the run.

    W&B is spoken to in a thread of its own: its calls wait for its process for ever where that
    hangs. W&B's own step is the run's: where a run goes on, it drops the rows that it has already.
    One call of W&B makes one row of a step, so the values of a step are collected; they are handed
    over when the next step comes, and before each checkpoint. What comes for a step that has its
    row (the test, after the last checkpoint) is part of the run's summary. W&B's process writes
    rows seconds after it took them and loses them when the run is killed: a run that goes on sends
    those of metrics.csv again which W&B does not have. Those that it has are not sent twice:
    `wandb sync` would give them new steps.

    Args:
        run: W&B's run.
        metrics: The run's metrics.csv.
        last_step: The last step whose row W&B has; -1 for none.
        seconds_to_finish: How long the end of the process may wait for W&B.
    """

    def __init__(self, run: Any, metrics: Path, last_step: int, seconds_to_finish: float) -> None:
        super().__init__(experiment=run)
        self.run = run
        self.metrics = metrics
        self.last_step = last_step
        self.seconds_to_finish = seconds_to_finish
        self.broken = False
        self._breaking = threading.Lock()
        self._row: dict[str, float] = {}
        self._row_step: int | None = None
        self._handed_over = -1
        self._actions: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="W&B", daemon=True).start()
        # Runs before W&B's own, which waits for ever.
        atexit.register(self.end)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kw: Any) -> None:
        """They are W&B's `config` from the start."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Take values of a step; several calls for one step make one row."""
        assert step is not None
        if step <= self._handed_over:
            values = {name: value for name, value in metrics.items() if name != "epoch"}
            self._do(lambda: self.run.summary.update(values))
            return
        if step != self._row_step:
            self._hand_over()
        self._row.update(metrics)
        self._row_step = step

    def forget_after(self, step: int) -> None:
        """The run goes on after `step`; the rows up to it that W&B lacks are sent again."""
        if step > 0 and self.metrics.exists():
            with self.metrics.open(newline="") as file:
                for row in csv.DictReader(file):
                    if int(row["step"]) <= step:
                        values = {k: float(v) for k, v in row.items() if v and k != "step"}
                        self.log_metrics(values, int(row["step"]))
                        self._hand_over()
        self._handed_over = step

    def save(self) -> None:
        """Hand over what there is."""
        self._hand_over()
        if not self.broken and not self._wait(SECONDS_TO_TAKE):
            self._break(f"its process does not answer for {SECONDS_TO_TAKE:g} s")

    def finalize(self, status: str) -> None:
        """Hand over what there is; the test of a run logs after the end of its training."""
        self.save()

    def end(self) -> None:
        """End the W&B run, and with it W&B's process; only so long as may be waited."""
        atexit.unregister(self.end)
        self._hand_over()
        self._do(self._finish)
        # W&B stops waiting for its server after these seconds; it has still to write its file.
        if not self.broken and not self._wait(self.seconds_to_finish + SECONDS_TO_TAKE):
            self._break_unfinished()
        # Where W&B has stopped, its process would be waited for.
        if self.broken:
            _kill_process()
        self._actions.put(_teardown)
        self._wait(SECONDS_TO_TAKE)

    def _hand_over(self) -> None:
        row, step = self._row, self._row_step
        if step is None:
            return
        self._row, self._row_step, self._handed_over = {}, None, step
        if step <= self.last_step:
            return
        row["trainer/global_step"] = step
        self._do(lambda: self.run.log(row, step=step, commit=True))

    def _finish(self) -> None:
        try:
            self.run.finish(exit_code=self._exit_code())
        except TimeoutError:
            self._break_unfinished()
        problem = _unwritten(Path(self.run.dir).parent)
        if problem:
            self._break(f"it could not write its file: {problem}")

    def _exit_code(self) -> int:
        """That of the run, by which W&B tells finished from failed; it sees none by itself."""
        state = RunDirectory(self.metrics.parent).status().get("state")
        # Of several processes it is known only later why they failed.
        return {"running": 1, "failed": 1, "interrupted": EXIT_CODE}.get(str(state), 0)

    def _do(self, action: Callable[[], None]) -> None:
        if not self.broken:
            self._actions.put(action)

    def _work(self) -> None:
        while True:
            action = self._actions.get()
            try:
                action()
            except BaseException as error:
                self._break(str(error).partition("\n")[0] or type(error).__name__)

    def _wait(self, seconds: float) -> bool:
        done = threading.Event()
        self._actions.put(done.set)
        return done.wait(seconds)

    def _break_unfinished(self) -> None:
        self._break(
            f"it did not finish in {self.seconds_to_finish:g} s; `wandb sync "
            f"{Path(self.run.dir).parent}` sends what is missing"
        )

    def _break(self, reason: str) -> None:
        # Both threads may find out at the same time.
        with self._breaking:
            if self.broken:
                return
            self.broken = True
        log.warning("W&B has stopped (%s); the run goes on, its values are in metrics.csv", reason)


def wandb_logger(
    run_dir: Path,
    config: dict[str, Any],
    project: str = "unrolled",
    mode: Literal["auto", "online", "offline"] = "auto",
    entity: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    seconds_to_finish: PositiveFloat = 30.0,
) -> Logger | None:
    """A logger to W&B, or None where W&B does not start, or is turned off by WANDB_MODE=disabled.

    Args:
        run_dir: The run directory; its `wandb/` takes the files.
        config: The run's config, as W&B shows it.
        project: Where the run appears; a sweep's trial is in the sweep's.
        mode: `auto` is online for those who are logged in, else offline.
        entity: User or team; None takes your own.
        group: Runs with the same group are shown together.
        tags: Shown beside the run.
        seconds_to_finish: How long the end of the run may wait for uploads.
    """
    if os.environ.get("RANK", "0") != "0":
        return None
    wanted: str = mode
    if mode == "auto":
        wanted = os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")
    wanted = _OLD_NAMES.get(wanted, wanted)
    if wanted == "disabled":
        # W&B would stand for it by a run in a project "dummy", of which nothing is to be kept.
        return None
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    if wanted == "online" and not logged_in():
        log.warning("W&B: not logged in (`wandb login`): the run is logged offline")
        wanted = "offline"
    elif wanted == "online" and not reachable():
        log.warning("W&B's server does not answer: the run is logged offline; see `wandb sync`")
        wanted = "offline"
    for attempt in dict.fromkeys([wanted, "offline"]):
        try:
            own = WandbRun.of(run_dir)
            _tell_of_another_place(own, project, entity)
            before = last_step(run_dir)
            run = _start(
                attempt,
                seconds_to_finish,
                dir=str(run_dir),
                project=own.project or project,
                entity=own.entity or entity,
                group=group,
                tags=list(tags),
                # The same run goes on after a resume; a moved directory keeps its identity.
                id=own.id,
                name=run_dir.name,
                resume="allow",
                config=own.config(config),
            )
            own.project, own.entity = run.project or None, run.entity or None
            own.write(run_dir)
        except Exception as error:
            reason = str(error).partition("\n")[0]
            _stop()
            if attempt != "offline":
                log.warning(
                    "W&B did not start %s (%s): the run is logged offline; see `wandb sync`",
                    attempt,
                    reason,
                )
            continue
        if not Path(run.dir).is_relative_to(run_dir):
            log.warning("W&B can't write to %s/wandb; its files are in %s", run_dir, run.dir)
        # Online the server knows; what stands in files may not have got there.
        known = run.starting_step - 1 if attempt == "online" else before
        return WandbLogger(run, run_dir / "metrics.csv", known, seconds_to_finish)
    log.warning(
        "W&B did not start (%s): the run goes on without it, its values are in metrics.csv", reason
    )
    return None


def _tell_of_another_place(run: WandbRun, project: str, entity: str | None) -> None:
    """Say that a run that has begun does not move to what the config names now."""
    for what, began, named in (
        ("project", run.project, project), ("entity", run.entity, entity),
    ):  # fmt: skip
        if began and named and began != named:
            log.warning(
                "W&B: the run goes on in the %s %s, where it began, not in %s", what, began, named
            )


def _start(mode: str, seconds_to_finish: float, **settings: Any) -> Any:
    import wandb

    wanted = {"finish_timeout": seconds_to_finish, "finish_timeout_raises": True}
    if in_sweep() and "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL" not in os.environ:
        wanted["x_file_stream_transmit_interval"] = SECONDS_BETWEEN_UPLOADS
    # Older versions have no such settings, and refuse what they do not know.
    known: Any = {k: v for k, v in wanted.items() if k in wandb.Settings.model_fields}
    return wandb.init(
        mode=mode,  # type: ignore[arg-type]  # WANDB_MODE holds whatever the user wrote.
        **settings,
        settings=wandb.Settings(silent=True, console="off", init_timeout=SECONDS_TO_START, **known),
    )


def _unwritten(folder: Path) -> str | None:
    """Why W&B's process could not write a row, which it tells only to its own log."""
    try:
        text = (folder / "logs" / "debug-internal.log").read_text(errors="replace")
    except OSError:
        return None
    found = re.search(r'failed to save record: ([^"\n]+)', text)
    return found[1].rpartition(": ")[2] if found else None


def _kill_process() -> None:
    """Kill W&B's process; it gives no public name to it."""
    from wandb.sdk import wandb_setup

    connection = getattr(wandb_setup.singleton(), "_connection", None)
    process = getattr(getattr(connection, "_proc", None), "_process", None)
    if process is not None:
        process.kill()
        process.wait()


def _teardown() -> None:
    import wandb

    wandb.teardown()


def _stop() -> None:
    """Forget a run that did not start: W&B's process would keep its id, and be waited for."""
    with suppress(Exception):
        _kill_process()
        _teardown()
