"""The sections of a sweep file and their types.

The keys are those of the JSON schema of W&B's sweep engine (`sweeps`, `config/schema.json`), where
unknown keys are refused, too.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class _Section(BaseModel):
    """A part of a sweep file: unknown keys, other types and keys without a value are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @field_validator("*", mode="before")
    @classmethod
    def _says_something(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("nothing stands there; give it a value, or leave it out")
        return value


class Metric(_Section):
    """The metric, and whether it is to become small or large."""

    name: str
    goal: Literal["minimize", "maximize"] = "minimize"
    target: float | None = None
    impute: Literal["latest", "best", "worst"] = "worst"
    impute_while_running: Literal["latest", "best", "worst", "false"] = "false"


class Controller(_Section):
    """Who draws the trials of W&B's own sweep; `unrolled sweep` does not look at it."""

    model_config = ConfigDict(extra="allow")

    type: Literal["local", "cloud"]


class EarlyTerminate(_Section):
    """When W&B's hyperband stops a trial; see `hyperband`."""

    type: Literal["hyperband"]
    min_iter: Annotated[int, Field(ge=1)] | None = None
    max_iter: Annotated[int, Field(ge=1)] | None = None
    s: Annotated[int, Field(ge=1)] | None = None
    eta: Annotated[float, Field(gt=1)] = 3.0
    strict: bool = True

    @model_validator(mode="after")
    def _says_when(self) -> EarlyTerminate:
        if self.min_iter is None and (self.max_iter is None or self.s is None):
            raise ValueError("give min_iter, or max_iter and s")
        if self.max_iter is not None and self.max_iter < self.eta:
            raise ValueError("max_iter / eta is below 1: no trial would ever be judged")
        return self


class SweepFile(_Section):
    """The keys of a sweep file; `parameters` is read by `read_parameters`."""

    program: str
    method: Literal["grid", "random", "bayes"]
    parameters: Any
    metric: Metric | None = None
    early_terminate: EarlyTerminate | None = None
    command: list[Any] | None = None
    run_cap: Annotated[int, Field(ge=1)] | None = None
    name: str | None = None
    description: str | None = None
    project: str | None = None
    entity: str | None = None
    apiVersion: str | None = None  # noqa: N815 - W&B's own name.
    kind: Literal["sweep"] | None = None
    controller: Controller | None = None

    @model_validator(mode="after")
    def _has_a_metric_where_trials_are_judged(self) -> SweepFile:
        if self.metric is None and (self.method == "bayes" or self.early_terminate is not None):
            judge = "method: bayes" if self.method == "bayes" else "early_terminate"
            raise ValueError(f"metric: missing; {judge} judges trials by it")
        return self


def known_keys(above: str) -> list[str]:
    """The keys that a section can have; those of the file for any other name."""
    models: dict[str, type[BaseModel]] = {"metric": Metric, "early_terminate": EarlyTerminate}
    return list(models.get(above, SweepFile).model_fields)
