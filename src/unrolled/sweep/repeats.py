"""Seeds and folds: trials that differ in nothing else are repeats of one configuration."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from unrolled.sweep.points import text_of
from unrolled.sweep.record import Trial
from unrolled.sweep.space import Sweep, Values

REPEATS = ("seed", "fold")
"""A parameter whose name ends so says which repeat a trial is, not what it is."""

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
    """

    values: Values
    trials: list[Trial]

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


def is_repeat(key: str) -> bool:
    """Whether a parameter only says which repeat it is."""
    return key.rpartition(".")[2] in REPEATS


def has_repeats(sweep: Sweep) -> bool:
    """Whether seeds or folds are searched."""
    return any(is_repeat(key) for key in sweep.searched)


def groups(sweep: Sweep, trials: list[Trial]) -> list[Group]:
    """The configurations with a finished trial, the best mean first."""
    found: dict[str, Group] = {}
    for trial in trials:
        if trial.state != "finished" or trial.value is None:
            continue
        values = {key: v for key, v in trial.values.items() if not is_repeat(key)}
        found.setdefault(text_of(values), Group(values, [])).trials.append(trial)
    least = sweep.metric.goal == "minimize"
    return sorted(found.values(), key=lambda group: group.mean if least else -group.mean)
