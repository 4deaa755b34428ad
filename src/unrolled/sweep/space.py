"""A sweep file in W&B's own format, read and checked by itself: the space that is searched."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import unrolled
from unrolled.errors import UserError, did_you_mean
from unrolled.sweep.continuous import LogUniform
from unrolled.sweep.distributions import Constant, Parameter
from unrolled.sweep.read_parameters import explain, read_parameters
from unrolled.sweep.read_yaml import read_yaml
from unrolled.sweep.sections import Metric, SweepFile, known_keys
from unrolled.sweep.sweep_command import PROGRAM, SweepCommand
from unrolled.sweep.typed import as_typed

Values = dict[str, Any]
"""The values of a trial by their dotted keys."""

TUNING = "hpo_val"
"""The prefix of what is measured once, at the end of a run, on `data.hpo_val` of the validation
set."""

NOT_OURS = {
    "metrics": "several metrics are for its custom scheduler; name one by metric",
    "scheduler": "another program draws the trials; write method: grid, random or bayes",
    "job": "a trial here is a run of train.py, not a job of W&B Launch",
    "image_uri": "a trial here is a run of train.py, not an image of W&B Launch",
}
"""The keys of W&B's schema that `unrolled sweep` can't heed, and why."""


class Sweep:
    """A search space, the metric, and how trials are started.

    Args:
        path: The file, for messages.
        content: What it says.

    Raises:
        UserError: With every problem that was found.
    """

    def __init__(self, path: Path, content: Any) -> None:
        self.path = path
        if not isinstance(content, dict):
            raise UserError(f"{path}: not a sweep; it needs method, metric and parameters")
        problems = [
            f"{path}: {key}: W&B's, and not for `unrolled sweep`: {why}"
            for key, why in NOT_OURS.items()
            if key in content
        ]
        if content.get("method") == "custom":
            problems.append(f"{path}: method: custom: W&B's, and not for `unrolled sweep`: "
                            f"{NOT_OURS['scheduler']}")  # fmt: skip
            content = {**content, "method": "random"}
        try:
            file = SweepFile.model_validate({k: v for k, v in content.items() if k not in NOT_OURS})
        except ValidationError as error:
            problems += [f"{path}: {text}" for text in explain(error, known_keys)]
        found, wrong = (
            read_parameters(content["parameters"]) if "parameters" in content else ({}, [])
        )
        self.parameters: dict[str, Parameter] = {}
        for key, parameter in found.items():
            try:
                in_grid = content.get("method") == "grid"
                self.parameters[key] = parameter.in_grid() if in_grid else parameter
            except ValueError as error:
                wrong.append(f"parameters.{key}: {error}")
        problems += [f"{path}: {text}" for text in wrong]
        if problems:
            raise UserError(*problems)
        self.method = file.method
        self._metric = file.metric
        self.early_terminate = file.early_terminate
        self.run_cap = file.run_cap
        self.name = file.name or path.stem
        self._check_program(file.program)
        try:
            self.command = SweepCommand(file.command)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        self.extra: list[str] = []
        self.warnings = [text for k, p in self.parameters.items() for text in _of_exponents(k, p)]
        """What the file may not have meant: told by `check`, and before the first trial."""
        self.notes = [*_nested(content["parameters"]), *self.command.notes, *_imputed(file.metric)]
        if self.early_terminate is not None and self.watched != self.metric.name:
            self.notes.append(
                f"early_terminate: of {self.metric.name} there is one value, at the end of a run: "
                f"W&B stops no trial by it; `unrolled sweep` stops by {self.watched}"
            )

    @property
    def metric(self) -> Metric:
        """The metric that trials are judged by."""
        assert self._metric is not None, "settle_metric comes first"
        return self._metric

    @property
    def names_metric(self) -> bool:
        """Whether the metric is known; else `settle` gives it."""
        return self._metric is not None

    def settle(self, metric: Metric) -> None:
        """Judge trials by the task's own metric, as the file names none."""
        self._metric = metric

    @property
    def searched(self) -> dict[str, Parameter]:
        """The parameters of which there is more than one value."""
        return {k: p for k, p in self.parameters.items() if not isinstance(p, Constant)}

    @property
    def num_points(self) -> float:
        """How many combinations there are; infinite where a parameter is continuous."""
        return math.prod(p.num_values() for p in self.parameters.values())

    @property
    def space(self) -> dict[str, str]:
        """What is searched, how, and by what measure: JSON by its key in the file, no defaults.

        So the order of the keys makes no difference, nor does a key that W&B adds one day.
        """
        rule = self.early_terminate
        said = {
            "method": self.method,
            "metric": self._metric and self._metric.model_dump(exclude_defaults=True),
            "early_terminate": rule and rule.model_dump(exclude_defaults=True),
            "command": self.command.after,
        }
        for key, parameter in self.parameters.items():
            kind = parameter.model_dump()["distribution"]
            fields = parameter.model_dump(exclude_defaults=True, by_alias=True)
            said[f"parameters.{key}"] = {**fields, "distribution": kind}
        return {key: json.dumps(value, sort_keys=True) for key, value in said.items()}

    @property
    def identity(self) -> str:
        """A hash of the space."""
        return hashlib.sha256(json.dumps(self.space, sort_keys=True).encode()).hexdigest()

    def differences(self, other: Sweep) -> list[str]:
        """The keys of the file in which the space is another one."""
        here, there = self.space, other.space
        return [key for key in {**here, **there} if here.get(key) != there.get(key)]

    @property
    def watched(self) -> str:
        """The metric that says before a trial's end how good it is; early termination goes by it.

        That of the sweep, or the same one on the rest of the validation set where that of the
        sweep is only measured at the end.
        """
        split, _, name = self.metric.name.partition("/")
        return f"val/{name}" if split == TUNING else self.metric.name

    def better(self, value: float, than: float) -> bool:
        """Whether one value of the metric is better than another."""
        return value < than if self.metric.goal == "minimize" else value > than

    def best(self, values: list[float]) -> float:
        """The best of some values."""
        return min(values) if self.metric.goal == "minimize" else max(values)

    def arguments(self, values: Values) -> list[str]:
        """What follows `train.py` in the command of a trial.

        Raises:
            UserError: When the file's command names a variable that is not there.
        """
        typed = [f"{key}={as_typed(value)}" for key, value in values.items()]
        return [*self.extra, *self.command.arguments(typed)]

    def _check_program(self, program: str) -> None:
        if Path(program).name != PROGRAM:
            raise UserError(
                f"{self.path}: program: {program}: trials are runs of {PROGRAM}, or of nothing "
                f"that `unrolled` knows; program: {PROGRAM}"
            )


def find_sweep_file(path: Path) -> Path:
    """The file, or the one of this name that comes with the package.

    Raises:
        UserError: When there is none.
    """
    if path.is_file():
        return path
    package = Path(unrolled.__file__).parent
    own = package / "sweeps" if (package / "sweeps").is_dir() else package.parents[1] / "sweeps"
    if (own / path.name).is_file() and path.parent in (Path("sweeps"), Path()):
        return own / path.name
    names = [str(Path("sweeps") / file.name) for file in own.glob("*.yaml")]
    raise UserError(f"{path}: no such sweep file; {did_you_mean(str(path), names)}")


def read_sweep(path: Path) -> Sweep:
    """Read a sweep file.

    Raises:
        UserError: With every problem that was found.
    """
    return Sweep(path, read_yaml(path))


def _nested(parameters: dict[str, Any]) -> list[str]:
    return [
        f"parameters.{key}: W&B's agent hands nested parameters on as one argument; for "
        f"`wandb agent` write dotted keys, {key}.{next(iter(fields['parameters']))}"
        for key, fields in parameters.items()
        if "parameters" in fields
    ]


def _of_exponents(key: str, parameter: Parameter) -> list[str]:
    """A warning, as W&B gives one, that `min` and `max` are no limits."""
    if not isinstance(parameter, LogUniform):
        return []
    name = parameter.distribution
    low, high = (f"{end:.4g}" for end in parameter.bounds())
    return [
        f"parameters.{key}: {name}: min and max are exponents of e, so that values lie between "
        f"{low} and {high}; for limits write {name}_values"
    ]


def _imputed(metric: Metric | None) -> list[str]:
    return (
        []
        if metric is None
        else [
            f"metric.{key}: W&B's alone; in `unrolled sweep` a trial without a result has no value"
            for key in ("impute", "impute_while_running")
            if key in metric.model_fields_set
        ]
    )
