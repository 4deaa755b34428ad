"""The local engine: starts workers for a sweep, shows how far it is, and sums it up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import FrameType

from rich.console import Console, RenderableType
from rich.live import Live

from unrolled.run import interruption
from unrolled.run.work import FAILED, FINISHED, INTERRUPTED
from unrolled.sweep import repeats, show, summary
from unrolled.sweep.folder import SweepFolder
from unrolled.sweep.history import Histories
from unrolled.sweep.ledger import Ledger
from unrolled.sweep.record import Trial
from unrolled.sweep.trial import command

LOOK_EVERY = 0.5
"""Seconds between two looks at the ledger."""
MOST_REPLACED = 10
"""Workers that died and are replaced, before something must be wrong with them all."""


class Engine:
    """Works on a sweep by several processes; others may do so, too, at the same time.

    Args:
        folder: The sweep.
        workers: How many processes.
    """

    def __init__(self, folder: SweepFolder, workers: int) -> None:
        self.folder = folder
        self.sweep = folder.sweep
        self.ledger: Ledger = folder.ledger()
        self.workers = workers
        self.console = make_console()
        self.histories = Histories(folder.path, folder.sweep.metric.name)
        self.interrupted = False
        self._processes: list[subprocess.Popen[bytes]] = []
        self._told: dict[str, str] = {}

    def run(self) -> int:
        """Until the sweep is over; the exit code.

        Returns:
            0 when there is a result, 1 when no trial finished, 130 when it was interrupted.
        """
        previous = {s: signal.signal(s, self._handle) for s in interruption.SIGNALS}
        try:
            self._processes = [self._start() for _ in range(self.workers)]
            if self.console.is_terminal:
                with Live(console=self.console, refresh_per_second=4, transient=True) as live:
                    self._wait(lambda trials: live.update(self._live(trials)))
            else:
                self._wait(self._tell)
        finally:
            for process in self._processes:
                process.terminate()
            for process in self._processes:
                process.wait()
            for number, handler in previous.items():
                signal.signal(number, handler)
        if self.interrupted:
            self.console.print(
                f"{show.headline(self.sweep, self.ledger.trials(), self.ledger.wanted)}\n"
                "stopped; the same command goes on"
            )
            return INTERRUPTED
        if not self.ledger.is_over():
            shown = show_path(self.folder)
            self.console.print(f"the workers have died; {shown}/workers.log says why")
            return FAILED
        return sum_up(self.folder, self.ledger, self.console)

    def _wait(self, tell: Callable[[list[Trial]], None]) -> None:
        replaced = 0
        while self._processes and not self.interrupted:
            tell(self.ledger.trials())
            for process in list(self._processes):
                code = process.poll()
                if code is None:
                    continue
                self._processes.remove(process)
                if code not in (FINISHED, INTERRUPTED) and replaced < MOST_REPLACED:
                    replaced += 1
                    self._processes.append(self._start())
            time.sleep(LOOK_EVERY)
        tell(self.ledger.trials())

    def _start(self) -> subprocess.Popen[bytes]:
        variables = dict(os.environ)
        if self.workers > 1:
            # Threads of several processes on the same cores slow each other down.
            threads = max(1, (os.cpu_count() or 1) // self.workers)
            variables.setdefault("OMP_NUM_THREADS", str(threads))
        with (self.folder.path / "workers.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "unrolled.sweep.worker", str(self.folder.path)],
                env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def _live(self, trials: list[Trial]) -> RenderableType:
        return show.live(self.sweep, trials, self.ledger.wanted, self.histories)

    def _tell(self, trials: list[Trial]) -> None:
        """A line for each trial that has changed its state since the last time."""
        for trial in trials:
            if self._told.get(trial.id) == trial.state:
                continue
            self._told[trial.id] = trial.state
            over = sum(t.state != "running" for t in trials)
            self.console.print(f"[{over}/{self.ledger.wanted}] {show.line(self.sweep, trial)}",
                               markup=False)  # fmt: skip

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            for process in self._processes:
                process.kill()
        self.interrupted = True


def show_status(folder: SweepFolder) -> None:
    """How far a sweep is."""
    trials = folder.ledger().trials()
    console = make_console()
    console.print(show.headline(folder.sweep, trials, folder.plan.trials))
    histories = Histories(folder.path, folder.sweep.metric.name)
    rows = show.ordered(folder.sweep, trials)[: show.MOST_ROWS]
    console.print(show.trials_table(folder.sweep, rows, histories))
    _print_errors(console, trials)


def make_console() -> Console:
    """The terminal, or wide lines for a file."""
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=160)


def sum_up(folder: SweepFolder, ledger: Ledger, console: Console) -> int:
    """Show what was found, and write it into the sweep's folder; the exit code."""
    sweep, trials = folder.sweep, ledger.trials()
    best_first = show.ordered(sweep, trials)
    console.print(show.headline(sweep, trials, ledger.wanted))
    console.print(show.trials_table(sweep, best_first[: show.MOST_ROWS]))
    _print_errors(console, trials)
    place = folder.path / summary.FOLDER
    place.mkdir(exist_ok=True)
    summary.write_table(sweep, best_first, place / "trials.csv")
    if not best_first or best_first[0].state != "finished":
        console.print("no trial has finished")
        return FAILED
    best = best_first[0]
    if repeats.has_repeats(sweep):
        found = repeats.groups(sweep, trials)
        console.print(show.groups_table(sweep, found))
        best = found[0].trials[0]
    shares = summary.importances(sweep, trials)
    if shares:
        told = ", ".join(f"{key} {share:.2f}" for key, share in shares.items())
        console.print(f"what made the difference: {told}")
    files = summary.write_plots(sweep, trials, place)
    console.print(f"best: {command(folder, best)}", markup=False)
    shown = show_path(folder)
    console.print(f"{shown}/{best.id}, tables{' and plots' if files else ''} in {shown}/summary")
    return FINISHED


def _print_errors(console: Console, trials: list[Trial]) -> None:
    for told in show.errors(trials):
        console.print(told, markup=False)


def show_path(folder: SweepFolder) -> str:
    """The sweep's folder as the user would type it."""
    return os.path.relpath(folder.path)
