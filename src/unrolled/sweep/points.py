"""Which point of the space is next, by the sweep's method."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial

from unrolled.errors import UserError, did_you_mean
from unrolled.sweep.distributions import Parameter
from unrolled.sweep.space import Sweep, Values

BayesSampler = Literal["tpe", "gp"]
REPEATS = ("seed", "fold")
"""A parameter whose name ends so says which repeat a trial is, not what it is."""
STARTUP = 10
"""Points that are drawn at random before a sampler learns from them."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Given(BaseSampler):
    """Hands out one point that was chosen elsewhere.

    Args:
        raw: The raw values, by the parameters' keys.
    """

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Nothing is chosen together."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing is chosen together."""
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The given value."""
        return self.raw[param_name]


def ask(
    sweep: Sweep,
    study: Study,
    tried: Sequence[Values],
    *,
    seed: int,
    sampler: BayesSampler,
    untried: bool = False,
) -> tuple[Trial, Values] | None:
    """A new trial of the study and its values; None where the grid is at its end.

    A function of what was tried, the seed and, for `bayes`, the results: which process asks makes
    no difference.

    Args:
        sweep: The space and the method.
        study: Where the trial is noted.
        tried: The values of all trials so far.
        seed: Of the sweep.
        sampler: Of `bayes`.
        untried: Whether to take the first point that was not tried, whatever the method.
    """
    distributions = distributions_of(sweep)
    # Not the number of the study's trials, some of which a killed process left half made.
    number = len(tried)
    if sweep.method == "grid" or untried:
        values = next_of_grid(sweep, tried)
        if values is None:
            return None
        raw = {key: sweep.parameters[key].raw_of(values[key]) for key in distributions}
        study.sampler = Given(raw)
        return study.ask(distributions), values
    drawn = random_raw(sweep, seed, number)
    if sweep.method == "random" or number < STARTUP or not distributions:
        study.sampler = Given(drawn)
    else:
        study.sampler = _learning(sampler, int(_rng(seed, number).integers(2**31)))
    with warnings.catch_warnings():
        # TPE over all parameters together is "experimental".
        warnings.simplefilter("ignore")
        trial = study.ask(distributions)
    return trial, values_of(sweep, {**drawn, **trial.params})


def require_sampler(name: str) -> None:
    """Refuse a sampler of `bayes` that there is not, or not here.

    Raises:
        UserError: With the nearest name, or with what to install.
    """
    known = get_args(BayesSampler)
    if name not in known:
        raise UserError(f"--sampler {name}: {did_you_mean(name, known)}")
    # Optuna asks for it at the first trial that is not drawn at random.
    if name == "gp" and importlib.util.find_spec("scipy") is None:
        raise UserError("--sampler gp: needs scipy, which is not installed: pip install scipy")


def distributions_of(sweep: Sweep) -> dict[str, BaseDistribution]:
    """What Optuna is told of the space: only of what can be chosen.

    Not of seeds and folds: a sampler would learn which of them is lucky.
    """
    known = {key: p.distribution_of_raw() for key, p in sorted(sweep.searched.items())}
    return {
        key: distribution
        for key, distribution in known.items()
        if distribution is not None and not is_repeat(key)
    }


def is_repeat(key: str) -> bool:
    """Whether a parameter only says which repeat it is."""
    return key.rpartition(".")[2] in REPEATS


def values_of(sweep: Sweep, raw: dict[str, Any]) -> Values:
    """The values of all parameters from the raw ones of those that can be chosen."""
    values = {}
    for key, parameter in sweep.parameters.items():
        chosen = parameter.distribution_of_raw() is not None
        values[key] = parameter.value(raw[key]) if chosen else parameter.ends()[0]
    return values


def random_raw(sweep: Sweep, seed: int, number: int) -> dict[str, Any]:
    """The raw values of the random point of a number."""
    rng = _rng(seed, number)
    # Not in the order of the file, in which the space does not differ.
    return {key: parameter.draw(rng) for key, parameter in sorted(sweep.parameters.items())}


def grid(sweep: Sweep) -> Iterator[Values]:
    """All combinations, each once, the last parameter of the file changing first."""
    for chosen in _combinations(list(sweep.parameters.values())):
        yield dict(zip(sweep.parameters, chosen, strict=True))


def _combinations(parameters: list[Parameter]) -> Iterator[tuple[Any, ...]]:
    """As itertools.product, which would hold all values of a range of millions."""
    if not parameters:
        yield ()
        return
    for value in parameters[0].grid():
        for others in _combinations(parameters[1:]):
            yield (value, *others)


def next_of_grid(sweep: Sweep, tried: Sequence[Values]) -> Values | None:
    """The first combination that was not tried."""
    known = {text_of(values) for values in tried}
    return next((values for values in grid(sweep) if text_of(values) not in known), None)


def text_of(values: Values) -> str:
    """A point as a text; 1 and 1.0 are two."""
    return json.dumps(values, sort_keys=True, default=str)


def _rng(seed: int, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, number])


def _learning(sampler: BayesSampler, seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if sampler == "gp":
            return GPSampler(seed=seed, n_startup_trials=0)
        # Trials that others are working on count as bad ones, so that no two go the same way.
        return TPESampler(seed=seed, n_startup_trials=0, multivariate=True, constant_liar=True)
