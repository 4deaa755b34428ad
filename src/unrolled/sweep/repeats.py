"""Seeds and folds: trials that differ in nothing else are repeats of one configuration."""

from __future__ import annotations

import csv
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from unrolled.plain_files import written_beside
from unrolled.sweep.points import is_repeat, text_of
from unrolled.sweep.record import Trial
from unrolled.sweep.space import Sweep, Values

# The 97.5 % quantile of Student's t for 1 to 30 degrees of freedom; any table of it.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Group:
    """The finished repeats of one configuration.

    Args:
        values: Without seeds and folds.
        trials: Finished ones.
        wanted: How many there should be.
    """

    values: Values
    trials: list[Trial]
    wanted: int

    @property
    def is_complete(self) -> bool:
        """Whether no repeat failed, was stopped, or is to come."""
        return len(self.trials) >= self.wanted

    @property
    def scores(self) -> list[float]:
        """The metric of each."""
        return [trial.value for trial in self.trials if trial.value is not None]

    @property
    def mean(self) -> float:
        """Of the metric."""
        return statistics.fmean(self.scores)

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the repeats; None of a single one."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    @property
    def interval(self) -> float | None:
        """Half the width of the 95 % confidence interval of the mean, by Student's t."""
        if self.deviation is None:
            return None
        n = len(self.scores)
        return t_quantile(n - 1) * self.deviation / math.sqrt(n)


def t_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t, to three digits."""
    if degrees <= len(_T):
        return _T[degrees - 1]
    # The first terms of its expansion about the normal quantile (Abramowitz and Stegun, 26.7.5).
    z, n = statistics.NormalDist().inv_cdf(0.975), degrees
    return z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)


def has_repeats(sweep: Sweep) -> bool:
    """Whether seeds or folds are searched."""
    return any(is_repeat(key) for key in sweep.searched)


def groups(sweep: Sweep, trials: list[Trial]) -> list[Group]:
    """The configurations with a finished trial: the complete ones first, of these the best mean.

    One lucky seed is no better configuration: what failed or was stopped with others comes after.
    """
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        found.setdefault(text_of(_configuration(trial)), []).append(trial)
    of_grid = math.prod(p.num_values() for k, p in sweep.searched.items() if is_repeat(k))
    made = []
    for repeats in found.values():
        finished = [t for t in repeats if t.state == "finished" and t.value is not None]
        # Elsewhere it is chance how many repeats a configuration gets.
        wanted = int(of_grid) if sweep.method == "grid" else len(repeats)
        if finished:
            made.append(Group(_configuration(finished[0]), finished, wanted))
    least = sweep.metric.goal == "minimize"
    return sorted(made, key=lambda g: (not g.is_complete, g.mean if least else -g.mean))


def advice(sweep: Sweep) -> list[str]:
    """What to know of seeds and folds before the first trial."""
    if sweep.method == "grid":
        return []
    return [
        f"parameters.{key}: method: {sweep.method} draws one for each trial, so that hardly any "
        "configuration has a second repeat; for means over all of them take method: grid"
        for key in sweep.searched
        if is_repeat(key)
    ]


def write_configurations(sweep: Sweep, found: list[Group], path: Path) -> None:
    """All configurations as CSV, in their order."""
    keys = [key for key in sweep.parameters if not is_repeat(key)]
    with written_beside(path) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["mean", "deviation", "half_interval", "repeats", "wanted", "trials", *keys]
        )
        for group in found:
            ids = " ".join(trial.id for trial in group.trials)
            values = [group.values.get(key) for key in keys]
            writer.writerow([group.mean, group.deviation, group.interval, len(group.trials),
                             group.wanted, ids, *values])  # fmt: skip


def _configuration(trial: Trial) -> Values:
    return {key: value for key, value in trial.values.items() if not is_repeat(key)}
