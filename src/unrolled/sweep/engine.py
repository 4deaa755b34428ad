"""The local engine: starts workers for a sweep, shows how far it is, and sums it up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from types import FrameType
from typing import IO

from rich.console import RenderableType
from rich.live import Live

from unrolled.plain_files import to_append
from unrolled.run import interruption
from unrolled.run.parent import for_children
from unrolled.run.work import FAILED, FINISHED, INTERRUPTED, USER_ERROR
from unrolled.sweep import repeats, show, summary
from unrolled.sweep.folder import SweepFolder
from unrolled.sweep.history import Histories
from unrolled.sweep.ledger import Ledger
from unrolled.sweep.record import Trial
from unrolled.sweep.trial import typed_command
from unrolled.terminal import Terminal

LOOK_EVERY = 0.5
"""Seconds between two looks at the ledger."""
MOST_REPLACED = 10
"""Workers that died and are replaced while no trial ended: something is wrong with them all."""


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
        self.histories = Histories(folder.path, folder.sweep.watched)
        self.interrupted = False
        self.problem: str | None = None
        """Why the workers can't work on any trial."""
        self._processes: list[subprocess.Popen[bytes]] = []
        self._last_words: dict[int, IO[bytes]] = {}
        self._told: dict[str, str] = {}

    def run(self) -> int:
        """Until the sweep is over; the exit code.

        Returns:
            0 when there is a result, 1 when no trial finished, 2 when trials can't be worked on
            here, 130 when it was interrupted.
        """
        for note in self.folder.notes:
            self.console.print(note)
        previous = {s: signal.signal(s, self._handle) for s in interruption.taken()}
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
                self._read_last_words(process)
            for number, handler in previous.items():
                signal.signal(number, handler)
        if self.interrupted and not self.ledger.is_over():
            self.console.print(
                f"{show.headline(self.sweep, self.ledger.trials(), self.ledger.wanted)}\n"
                "stopped; the same command goes on"
            )
            return INTERRUPTED
        if self.ledger.is_over():
            return sum_up(self.folder, self.ledger, self.console)
        if self.problem is not None:
            self.console.print(self.problem)
            self.console.print("stopped; when that is mended, the same command goes on")
            _tell_of_retries(self.console, self.ledger.trials())
            return USER_ERROR
        log = f"{show_path(self.folder)}/workers.log"
        self.console.print(f"the workers have died; {log} says why")
        return FAILED

    def retry_failed(self) -> None:
        """Let failed trials run again.

        Raises:
            UserError: When none could run here.
        """
        number = len(self.ledger.retry_failed())
        self.console.print(f"{number} failed trials run again" if number else "no trial has failed")

    def _wait(self, tell: Callable[[list[Trial]], None]) -> None:
        replaced, over = 0, 0
        while self._processes and not self.interrupted and self.problem is None:
            trials = self.ledger.trials()
            tell(trials)
            before, over = over, sum(trial.state != "running" for trial in trials)
            if over != before:
                replaced = 0
            for process in list(self._processes):
                code = process.poll()
                if code is None:
                    continue
                self._processes.remove(process)
                last_words = self._read_last_words(process)
                if code == USER_ERROR:
                    # The others have the same arguments and the same machine.
                    self.problem = last_words or "a worker could not work on any trial"
                elif code != FINISHED and replaced < MOST_REPLACED:
                    replaced += 1
                    self._processes.append(self._start())
            time.sleep(LOOK_EVERY)
        tell(self.ledger.trials())

    def _start(self) -> subprocess.Popen[bytes]:
        # A file, not a pipe, whose end would wait for whatever a worker has started.
        words = tempfile.TemporaryFile()  # noqa: SIM115 - read when the worker has ended.
        with to_append(self.folder.path / "workers.log").open("ab") as log:
            process = subprocess.Popen(
                self._worker(), env={**os.environ, **for_children()},
                stdin=subprocess.DEVNULL, stdout=words, stderr=log,
            )  # fmt: skip
        self._last_words[process.pid] = words
        return process

    def _read_last_words(self, process: subprocess.Popen[bytes]) -> str:
        with self._last_words.pop(process.pid) as words:
            words.seek(0)
            return words.read().decode().strip()

    def _worker(self) -> list[str]:
        """The command of a worker."""
        # Not the plan's own arguments, which may be of another machine by then.
        extra = self.folder.sweep.extra
        return [sys.executable, "-P", "-m", "unrolled.sweep.worker", str(self.folder.path), *extra]

    def _live(self, trials: list[Trial]) -> RenderableType:
        return show.live(self.sweep, trials, self.ledger.wanted, self.histories)

    def _tell(self, trials: list[Trial]) -> None:
        """A line for each trial that has changed its state since the last time."""
        for trial in trials:
            if self._told.get(trial.id) == trial.state:
                continue
            self._told[trial.id] = trial.state
            over = sum(t.state != "running" for t in trials)
            self.console.print(f"[{over}/{self.ledger.wanted}] {show.line(self.sweep, trial)}")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # A closed terminal sends its signal several times.
        if self.interrupted and number == signal.SIGINT:
            for process in self._processes:
                process.kill()
        self.interrupted = True


def show_status(folder: SweepFolder) -> None:
    """How far a sweep is."""
    ledger = folder.ledger()
    trials = ledger.looked_at()
    console = make_console()
    is_over = ledger.is_over()
    console.print(show.headline(folder.sweep, trials, folder.plan.trials, is_over=is_over))
    histories = Histories(folder.path, folder.sweep.watched)
    at_work = sorted(show.ordered(folder.sweep, trials), key=lambda t: t.state not in show.OPEN)
    _print_trials(console, folder, at_work, histories)
    if repeats.has_repeats(folder.sweep):
        console.print(show.groups_table(folder.sweep, repeats.groups(folder.sweep, trials)))
    _print_errors(console, trials)


def make_console() -> Terminal:
    """The terminal, or wide lines for a file."""
    console = Terminal(soft_wrap=True)
    return console if console.is_terminal else Terminal(soft_wrap=True, width=160)


def sum_up(folder: SweepFolder, ledger: Ledger, console: Terminal) -> int:
    """Show what was found, and write it into the sweep's folder; the exit code."""
    sweep, trials = folder.sweep, ledger.trials()
    best_first = show.ordered(sweep, trials)
    console.print(show.headline(sweep, trials, ledger.wanted, is_over=True))
    if same := ledger.num_duplicates():
        console.print(f"{same} further points were a trial that was there already")
    _print_trials(console, folder, best_first)
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
        repeats.write_configurations(sweep, found, place / "configurations.csv")
        best = found[0].trials[0]
    # What is wanted most, before what may fail.
    console.print(f"best: {typed_command(folder, best)}")
    shown = show_path(folder)
    console.print(f"{shown}/{best.id}, tables in {shown}/{summary.FOLDER}")
    try:
        shares = summary.importances(sweep, trials)
        if shares:
            told = ", ".join(f"{key} {share:.2f}" for key, share in shares.items())
            console.print(f"what made the difference: {told}")
        if summary.write_plots(sweep, trials, place):
            console.print(f"plots in {shown}/{summary.FOLDER}")
    except Exception as error:
        # The result is there; a plotting library that can't draw it takes nothing from it.
        console.print(f"no plots: {type(error).__name__}: {error}")
    return FINISHED


def _print_trials(
    console: Terminal, folder: SweepFolder, trials: list[Trial], histories: Histories | None = None
) -> None:
    console.print(show.trials_table(folder.sweep, trials[: show.MOST_ROWS], histories))
    if (more := len(trials) - show.MOST_ROWS) > 0:
        console.print(f"... and {more} more")


def _print_errors(console: Terminal, trials: list[Trial]) -> None:
    for told in show.errors(trials):
        console.print(told)
    _tell_of_retries(console, trials)


def _tell_of_retries(console: Terminal, trials: list[Trial]) -> None:
    failed = sum(trial.state == "failed" for trial in trials)
    if failed:
        console.print(f"--retry-failed runs {_count(failed)} again")


def _count(failed: int) -> str:
    return "the failed trial" if failed == 1 else f"the {failed} failed trials"


def show_path(folder: SweepFolder) -> str:
    """The sweep's folder as the user would type it."""
    return os.path.relpath(folder.path)
