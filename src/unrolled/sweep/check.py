"""Composing the corners of a space before the first trial, so that trial 40 can't die of a typo."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from unrolled.errors import UserError
from unrolled.run.allowed import allow
from unrolled.run.compose import Composed, compose
from unrolled.run.conf import groups, search_path
from unrolled.run.drift import identity
from unrolled.run.overrides import read_command_line
from unrolled.sweep.distributions import Categorical
from unrolled.sweep.metric_names import own_metric, require_goal, require_logged
from unrolled.sweep.space import TUNING, Sweep, Values

MOST_CORNERS = 200
"""Compositions of a check, at some 50 ms each."""

_TYPED = "command line: "


@dataclass(frozen=True)
class Checked:
    """What a check has seen.

    Args:
        corners: How many were composed.
        all_of_them: Whether the space has no further ones.
    """

    corners: int
    all_of_them: bool


def check_sweep(sweep: Sweep, most: int = MOST_CORNERS) -> Checked:
    """Compose the corners of a space and look for its metric among those that the tasks log.

    Raises:
        UserError: With every problem that was found, each once, with the file, the key and the
            nearest valid name.
    """
    if f"data.{TUNING}" in sweep.searched:
        raise UserError(
            f"{sweep.path}: parameters.data.{TUNING}: trials that are judged by different "
            "sequences can't be compared; give it one value"
        )
    settle_metric(sweep)
    found: dict[str, list[Values]] = {}
    corners = list(corners_of(sweep, most))
    metric_of: set[str] = set()
    ids: list[tuple[Values, str]] = []
    for values in corners:
        try:
            config = compose_trial(sweep, values).config
            ids.append((values, trial_id(config)))
            task = config["task"]
            key = repr((sorted(task.items(), key=str), config["data"].get(TUNING)))
            if key not in metric_of and sweep.names_metric:
                metric_of.add(key)
                require_logged(sweep.metric.name, config, "metric")
                require_goal(sweep.metric, task)
        except UserError as error:
            for problem in error.problems:
                found.setdefault(problem.removeprefix(_TYPED), []).append(values)
    if found:
        raise UserError(*(
            f"{sweep.path}: {problem}{_where(sweep, corners, failed)}"
            for problem, failed in found.items()
        ))  # fmt: skip
    if idle := [key for key in sweep.searched if _changes_nothing(key, ids)]:
        raise UserError(*(
            f"{sweep.path}: parameters.{key}: changes nothing of what a trial computes: "
            "trials that differ in it alone are one, and run once; give it one value"
            for key in idle
        ))  # fmt: skip
    return Checked(len(corners), len(corners) == num_corners(sweep))


def settle_metric(sweep: Sweep) -> None:
    """Judge the trials of a sweep that names no metric by the one its task is judged by.

    Nothing happens where the first corner can't be composed: `check_sweep` tells why.

    Raises:
        UserError: If the task does not say it.
    """
    if sweep.names_metric:
        return
    try:
        config = compose_trial(sweep, next(corners_of(sweep, 1))).config
    except UserError:
        return
    sweep.settle(own_metric(config["task"]))


def compose_trial(sweep: Sweep, values: Values) -> Composed:
    """The complete, checked config of a trial.

    Raises:
        UserError: With every problem that was found.
    """
    line = read_command_line(sweep.arguments(values))
    allow(line.allowed)
    return compose(line)


def trial_id(config: dict[str, Any]) -> str:
    """Of what a run computes and how far it goes."""
    trainer = config["trainer"]
    limits = [trainer.get(key) for key in ("max_steps", "max_epochs", "max_time")]
    text = json.dumps([identity(config), limits])
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def num_corners(sweep: Sweep) -> int:
    """How many corners a space has, with the values within that its file lists."""
    parameters = sweep.parameters.values()
    between = sum(len(p.listed()) - len(p.ends()) for p in parameters)
    return math.prod(len(p.ends()) for p in parameters) + between


def corners_of(sweep: Sweep, most: int) -> Iterator[Values]:
    """All corners and each value that is listed, or as many of them, each once.

    Where there are more: every value and every end of every parameter, then every pair of two
    choices of parts, then corners at random.
    """
    ends = {key: parameter.ends() for key, parameter in sweep.parameters.items()}
    listed = {key: parameter.listed() for key, parameter in sweep.parameters.items()}
    if num_corners(sweep) <= most:
        found = itertools.chain(_all(ends), _single(ends, listed))
    else:
        found = itertools.chain(_single(ends, listed), _pairs(ends, _groups(sweep)), _random(ends))
    seen: set[str] = set()
    for values in found:
        if len(seen) >= most:
            return
        if repr(values) not in seen:
            seen.add(repr(values))
            yield values


def _groups(sweep: Sweep) -> list[str]:
    line = read_command_line(sweep.arguments({}), needs_task=False)
    known = groups(search_path(line.config_dir))
    chosen = [k for k, p in sweep.parameters.items() if isinstance(p, Categorical)]
    return [key for key in chosen if key in known]


def _all(ends: dict[str, list[Any]]) -> Iterator[Values]:
    for chosen in itertools.product(*ends.values()):
        yield dict(zip(ends, chosen, strict=True))


def _single(ends: dict[str, list[Any]], listed: dict[str, list[Any]]) -> Iterator[Values]:
    for which in (0, -1):
        yield {key: values[which] for key, values in ends.items()}
    first = {key: values[0] for key, values in ends.items()}
    for key, values in listed.items():
        for value in values:
            yield {**first, key: value}


def _pairs(ends: dict[str, list[Any]], chosen: list[str]) -> Iterator[Values]:
    first = {key: values[0] for key, values in ends.items()}
    for one, other in itertools.combinations(chosen, 2):
        for a, b in itertools.product(ends[one], ends[other]):
            yield {**first, one: a, other: b}


def _random(ends: dict[str, list[Any]]) -> Iterator[Values]:
    rng = random.Random(0)
    while True:
        yield {key: rng.choice(values) for key, values in ends.items()}


def _changes_nothing(key: str, ids: list[tuple[Values, str]]) -> bool:
    """Whether corners that differ in this parameter alone are the same trial, wherever it is so."""
    by_others: dict[str, list[str]] = {}
    for values, found in ids:
        others = repr({k: v for k, v in values.items() if k != key})
        by_others.setdefault(others, []).append(found)
    compared = [found for found in by_others.values() if len(found) > 1]
    return bool(compared) and all(len(set(found)) == 1 for found in compared)


def _where(sweep: Sweep, corners: list[Values], failed: list[Values]) -> str:
    """The values with which a problem comes, where it is not always there."""
    if len(failed) == len(corners):
        return ""
    same = [
        key
        for key in sweep.searched
        if len({repr(values[key]) for values in failed}) == 1
        and len({repr(values[key]) for values in corners}) > 1
    ]
    return f" (with {', '.join(f'{key}={failed[0][key]}' for key in same)})" if same else (
        f" (as with {', '.join(f'{key}={failed[0][key]}' for key in sweep.searched)})"
    )  # fmt: skip
