"""What a sweep has found: its table, what mattered, and pictures of it."""

from __future__ import annotations

import csv
import html
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState, create_trial

from unrolled.plain_files import written_beside
from unrolled.report.sweep_plots import Column, plot_parallel, plot_slices
from unrolled.sweep.continuous import Continuous
from unrolled.sweep.distributions import Categorical
from unrolled.sweep.points import is_repeat
from unrolled.sweep.record import Trial
from unrolled.sweep.space import Sweep

FOLDER = "summary"
LEAST_TRIALS = 10
"""Finished and pruned trials from which importances are worth anything."""


def importances(sweep: Sweep, trials: list[Trial]) -> dict[str, float]:
    """How much of the difference among trials each parameter makes, the largest first.

    By PED-ANOVA (Watanabe et al., https://arxiv.org/abs/2304.10255): which parameters tell the best
    tenth of the trials from all. Shares of one; empty where there are too few trials, or too few
    parameters that differ.
    """
    scores = {trial.number: trial.value for trial in _finished(trials) if trial.value is not None}
    if not scores:
        return {}
    # What was stopped is not among the best; how good it would have become nobody knows.
    worse = max if sweep.metric.goal == "minimize" else min
    worst = worse(scores.values())
    scores |= {
        trial.number: worst if trial.value is None else worse(worst, trial.value)
        for trial in trials
        if trial.state == "pruned"
    }
    study = study_of_values(sweep, trials, scores)
    if len(study.trials) < LEAST_TRIALS or len(study.trials[0].params) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return {key: share for key, share in found.items() if not is_repeat(key)}


def study_of_values(
    sweep: Sweep,
    trials: list[Trial],
    scores: Mapping[int, float],
    shown: Callable[[str], str] = str,
) -> optuna.Study:
    """Trials as a study of the values themselves, in memory.

    Args:
        sweep: The space.
        trials: Those that are there.
        scores: By the numbers of those that are wanted.
        shown: Makes of a key, or of a text among the values, what the study has.
    """
    wanted = [trial for trial in trials if trial.number in scores]
    distributions = {}
    for key in sweep.searched:
        distribution = _distribution(sweep, key, [trial.values[key] for trial in wanted])
        if distribution is not None:
            distributions[key] = distribution
    study = optuna.create_study(direction=sweep.metric.goal)
    for trial in wanted:
        params = {key: _as_param(sweep, key, trial.values[key]) for key in distributions}
        params = {shown(k): shown(v) if isinstance(v, str) else v for k, v in params.items()}
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                params=params,
                distributions={
                    shown(key): CategoricalDistribution([shown(str(c)) for c in of.choices])
                    if isinstance(of, CategoricalDistribution)
                    else of
                    for key, of in distributions.items()
                },
                value=scores[trial.number],
            )
        )
    return study


def write_table(sweep: Sweep, trials: list[Trial], path: Path) -> None:
    """All trials as CSV."""
    keys = list(sweep.parameters)
    # What early termination went by, where that is another metric.
    watched = [sweep.watched] if sweep.watched != sweep.metric.name else []
    with written_beside(path) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", sweep.metric.name, *watched, "seconds", "error", *keys])
        for t in trials:
            values = [t.values.get(key) for key in keys]
            told = [t.value, t.watched][: 1 + len(watched)]
            writer.writerow([t.id, t.state, *told, round(t.seconds, 1), t.error, *values])


def write_plots(sweep: Sweep, trials: list[Trial], folder: Path) -> list[Path]:
    """Parallel coordinates and slices, as PNG and as HTML.

    Returns:
        The files; none where fewer than two trials are finished.
    """
    # plotly takes half a second to import, and most commands draw nothing.
    from optuna.visualization import plot_parallel_coordinate, plot_slice

    finished = sorted(_finished(trials), key=lambda trial: trial.number)
    by_number = {trial.number: trial.value for trial in finished if trial.value is not None}
    study = study_of_values(sweep, finished, by_number)
    if len(finished) < 2 or not study.trials[0].params:
        return []
    # Plotly reads tags in whatever it shows.
    for_pages = study_of_values(sweep, finished, by_number, html.escape)
    name = sweep.metric.name
    maximize = sweep.metric.goal == "maximize"
    scores = list(by_number.values())
    columns = [
        Column(key, [trial.values[key] for trial in finished], _is_log(sweep, key))
        for key in study.trials[0].params
    ]
    plot_parallel(folder / "parallel_coordinates.png", columns, scores, name, maximize=maximize)
    plot_slices(folder / "slices.png", columns, scores, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for what, draw in (("parallel_coordinates", plot_parallel_coordinate),
                           ("slices", plot_slice)):  # fmt: skip
            # One plotly.min.js beside the pages, which need no network then.
            draw(for_pages, target_name=html.escape(name)).write_html(
                folder / f"{what}.html", include_plotlyjs="directory"
            )
    return sorted(folder.glob("*.png")) + sorted(folder.glob("*.html"))


def _finished(trials: list[Trial]) -> list[Trial]:
    return [t for t in trials if t.state == "finished" and t.value is not None]


def _distribution(sweep: Sweep, key: str, seen: list[Any]) -> BaseDistribution | None:
    """A range around the values that were seen; None where they are all the same."""
    parameter = sweep.parameters[key]
    if isinstance(parameter, Categorical):
        different = len({parameter.raw_of(value) for value in seen}) > 1
        return parameter.distribution_of_raw() if different else None
    if not seen or min(seen) == max(seen):
        return None
    if all(isinstance(value, int) for value in seen):
        return IntDistribution(min(seen), max(seen))
    log_scale = _is_log(sweep, key) and min(seen) > 0
    return FloatDistribution(float(min(seen)), float(max(seen)), log=log_scale)


def _is_log(sweep: Sweep, key: str) -> bool:
    parameter = sweep.parameters[key]
    return isinstance(parameter, Continuous) and parameter.is_log


def _as_param(sweep: Sweep, key: str, value: Any) -> Any:
    parameter = sweep.parameters[key]
    return parameter.raw_of(value) if isinstance(parameter, Categorical) else value
