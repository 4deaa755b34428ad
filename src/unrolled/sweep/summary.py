"""What a sweep has found: its table, what mattered, and pictures of it."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState, create_trial

from unrolled.sweep.distributions import Categorical, Continuous
from unrolled.sweep.ledger import Trial
from unrolled.sweep.repeats import is_repeat
from unrolled.sweep.space import Sweep

FOLDER = "summary"
LEAST_TRIALS = 4
"""Finished trials from which importances are worth anything."""


def importances(sweep: Sweep, trials: list[Trial]) -> dict[str, float]:
    """How much of the difference among trials each parameter makes, the largest first.

    By PED-ANOVA (Watanabe et al., https://arxiv.org/abs/2304.10255): which parameters tell the best
    tenth of the trials from all. Shares of one; empty where there are too few trials.
    """
    study = study_of_values(sweep, trials)
    if len(study.trials) < LEAST_TRIALS or not study.trials[0].params:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return {key: share for key, share in found.items() if not is_repeat(key)}


def study_of_values(sweep: Sweep, trials: list[Trial]) -> optuna.Study:
    """The finished trials as a study of the values themselves, in memory."""
    finished = [t for t in trials if t.state == "finished" and t.value is not None]
    distributions = {}
    for key in sweep.searched:
        distribution = _distribution(sweep, key, [trial.values[key] for trial in finished])
        if distribution is not None:
            distributions[key] = distribution
    study = optuna.create_study(direction=sweep.metric.goal)
    for trial in finished:
        params = {key: _as_param(sweep, key, trial.values[key]) for key in distributions}
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                params=params,
                distributions=distributions,
                value=trial.value,
            )
        )
    return study


def write_table(sweep: Sweep, trials: list[Trial], path: Path) -> None:
    """All trials as CSV."""
    keys = list(sweep.parameters)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", sweep.metric.name, "seconds", "error", *keys])
        for t in trials:
            values = [t.values.get(key) for key in keys]
            writer.writerow([t.id, t.state, t.value, round(t.seconds, 1), t.error, *values])


def write_plots(sweep: Sweep, trials: list[Trial], folder: Path) -> list[Path]:
    """Parallel coordinates and slices, as PNG and as HTML.

    Returns:
        The files; none where fewer than two trials are finished.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from optuna import visualization as html
    from optuna.visualization import matplotlib as png

    study = study_of_values(sweep, trials)
    if len(study.trials) < 2 or not study.trials[0].params:
        return []
    name = sweep.metric.name
    files = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for what, draw, page in (
            ("parallel_coordinates", png.plot_parallel_coordinate, html.plot_parallel_coordinate),
            ("slices", png.plot_slice, html.plot_slice),
        ):
            axes = draw(study, target_name=name)
            figure = _figure(axes)
            if what == "slices":
                figure.set_size_inches(max(6, 3.2 * len(study.trials[0].params)), 4)
            figure.savefig(folder / f"{what}.png", dpi=120, bbox_inches="tight")
            plt.close(figure)
            # One plotly.min.js beside the pages, which need no network then.
            page(study, target_name=name).write_html(
                folder / f"{what}.html", include_plotlyjs="directory"
            )
            files += [folder / f"{what}.png", folder / f"{what}.html"]
    return files


def _figure(axes: Any) -> Any:
    try:
        return axes.flat[0].figure
    except AttributeError:
        return axes.figure


def _distribution(sweep: Sweep, key: str, seen: list[Any]) -> BaseDistribution | None:
    """A range around the values that were seen; None where they are all the same."""
    parameter = sweep.parameters[key]
    if isinstance(parameter, Categorical):
        return parameter.distribution_of_raw()
    if not seen or min(seen) == max(seen):
        return None
    if all(isinstance(value, int) for value in seen):
        return IntDistribution(min(seen), max(seen))
    log_scale = isinstance(parameter, Continuous) and parameter.is_log and min(seen) > 0
    return FloatDistribution(float(min(seen)), float(max(seen)), log=log_scale)


def _as_param(sweep: Sweep, key: str, value: Any) -> Any:
    parameter = sweep.parameters[key]
    return parameter.raw_of(value) if isinstance(parameter, Categorical) else value
