"""What a trial is judged by when its run is finished."""

from __future__ import annotations

import math

from unrolled.errors import UserError
from unrolled.run.directory import RunDirectory
from unrolled.sweep.space import Sweep


def value_of(sweep: Sweep, run: RunDirectory, history: list[float]) -> float:
    """The value of a trial.

    Of a validation metric the best one, which is that of the checkpoint that was kept. Of a metric
    on `data.hpo_val` the only one there is.

    Args:
        sweep: The sweep.
        run: Of the trial, finished.
        history: What the run has logged of `sweep.watched`.

    Raises:
        UserError: When there is no value, or none that is finite.
    """
    name = sweep.metric.name
    if sweep.watched != name:
        scores = run.read_json("metrics.json").get("metrics", {})
        if name not in scores:
            raise UserError(f"the run's metrics.json has no {name}: was data.hpo_val judged?")
        value = scores[name]["value"]
        if value is None:
            raise UserError(_undefined(name, scores[name].get("undefined")))
        return float(value)
    if not history:
        reason = run.read_json("metrics.json").get("undefined", {}).get(name)
        if reason is not None:
            raise UserError(_undefined(name, reason))
        raise UserError(f"the run never logged {name}: has it a validation set?")
    finite = [value for value in history if math.isfinite(value)]
    if not finite:
        raise UserError(f"{name} is not finite: {history[-1]}")
    return sweep.best(finite)


def _undefined(name: str, reason: str | None) -> str:
    return f"{name} is not finite" if reason is None else f"{name} is undefined: {reason}"
