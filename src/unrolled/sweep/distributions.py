"""The distributions that a parameter of a sweep may have: W&B's own, with W&B's meaning.

Names, fields and defaults are those of the JSON schema of W&B's sweep engine (`sweeps`, the file
`config/schema.json`); what they mean is in https://docs.wandb.ai/models/sweeps/sweep-config-keys.

A parameter has a *raw* number, which the sampler chooses, and the value that is made of it: by
rounding to multiples of `q`, by looking it up in a list of values.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import BaseModel, ConfigDict, Field, model_validator

SIGMAS = 6.0
"""Normal distributions end here: they go beyond once in 500 million draws, and a sampler that
learns needs a range."""

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
PositiveNumber = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NonNegativeNumber = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Integer = Annotated[int, Field(strict=True)]


class Parameter(BaseModel, ABC):
    """What all distributions have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Any:
        """A raw value, drawn at random."""

    @abstractmethod
    def value(self, raw: Any) -> Any:
        """The value that belongs to a raw one."""

    @abstractmethod
    def ends(self) -> list[Any]:
        """The values between which, or among which, all others lie."""

    @abstractmethod
    def distribution_of_raw(self) -> BaseDistribution | None:
        """What Optuna is told of the raw values; None where there is nothing to choose."""

    def grid(self) -> list[Any] | None:
        """Every value, each once; None where a grid over them has no end."""
        return None

    def raw_of(self, value: Any) -> Any:
        """The raw value of one of `grid`."""
        return value


class Constant(Parameter):
    """One value."""

    distribution: Literal["constant"] = "constant"
    value_: Any = Field(alias="value")

    def draw(self, rng: np.random.Generator) -> Any:
        """The value."""
        return None

    def value(self, raw: Any) -> Any:
        """The value."""
        return self.value_

    def ends(self) -> list[Any]:
        """The value."""
        return [self.value_]

    def grid(self) -> list[Any]:
        """The value."""
        return [self.value_]

    def distribution_of_raw(self) -> None:
        """Nothing to choose."""
        return


class Categorical(Parameter):
    """One of several values, all as likely, or with probabilities."""

    distribution: Literal["categorical"] = "categorical"
    values: Annotated[list[Any], Field(min_length=1)]

    def labels(self) -> list[str]:
        """A text for each value, as Optuna and the plots name it; no two are the same."""
        plain = [value if isinstance(value, str) else json.dumps(value) for value in self.values]
        distinct = len(set(plain)) == len(plain)
        return plain if distinct else [json.dumps(value) for value in self.values]

    def weights(self) -> list[float] | None:
        """The probability of each value; None for all the same."""
        return None

    def draw(self, rng: np.random.Generator) -> str:
        """The label of a value."""
        return self.labels()[int(rng.choice(len(self.values), p=self.weights()))]

    def value(self, raw: Any) -> Any:
        """The value of a label."""
        return self.values[self.labels().index(raw)]

    def raw_of(self, value: Any) -> str:
        """The label of a value; 1, 1.0 and True are three."""
        text = json.dumps(value)
        return next(r for r, v in zip(self.labels(), self.values, strict=True)
                    if json.dumps(v) == text)  # fmt: skip

    def ends(self) -> list[Any]:
        """All; of a list of numbers the smallest and the largest."""
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in self.values):
            return _distinct([min(self.values), max(self.values)])
        return list(self.values)

    def grid(self) -> list[Any]:
        """The values, each once."""
        return list(self.values)

    def distribution_of_raw(self) -> BaseDistribution | None:
        """A choice among the labels."""
        return CategoricalDistribution(self.labels()) if len(self.values) > 1 else None

    @model_validator(mode="after")
    def _no_value_twice(self) -> Categorical:
        texts = [json.dumps(value, default=str) for value in self.values]
        if twice := next((t for t in texts if texts.count(t) > 1), None):
            raise ValueError(f"values: {twice} is there twice")
        return self


class CategoricalWithProbabilities(Categorical):
    """One of several values with probabilities, which W&B normalises."""

    distribution: Literal["categorical_w_probabilities"]  # type: ignore[assignment]
    probabilities: Annotated[list[NonNegativeNumber], Field(min_length=1)]

    def weights(self) -> list[float]:
        """Normalised, as W&B does it."""
        total = sum(self.probabilities)
        return [p / total for p in self.probabilities]

    @model_validator(mode="after")
    def _as_many(self) -> CategoricalWithProbabilities:
        if len(self.probabilities) != len(self.values):
            raise ValueError(
                f"{len(self.values)} values have {len(self.probabilities)} probabilities"
            )
        if not sum(self.probabilities):
            raise ValueError("probabilities: all are 0")
        return self


class IntUniform(Parameter):
    """Whole numbers from `min` to `max`, both included."""

    distribution: Literal["int_uniform"] = "int_uniform"
    min: Integer
    max: Integer

    def draw(self, rng: np.random.Generator) -> int:
        """A whole number."""
        return int(rng.integers(self.min, self.max + 1))

    def value(self, raw: Any) -> int:
        """The same."""
        return int(raw)

    def ends(self) -> list[int]:
        """Both."""
        return _distinct([self.min, self.max])

    def grid(self) -> list[int]:
        """All."""
        return list(range(self.min, self.max + 1))

    def distribution_of_raw(self) -> BaseDistribution | None:
        """Whole numbers too."""
        return IntDistribution(self.min, self.max) if self.min < self.max else None

    @model_validator(mode="after")
    def _in_order(self) -> IntUniform:
        _require_order(self.min, self.max)
        return self


class Continuous(Parameter):
    """A real number, rounded to multiples of `q` where the distribution has one."""

    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest raw value."""

    @property
    def is_log(self) -> bool:
        """Whether the raw value is spread evenly in its logarithm."""
        return False

    def draw(self, rng: np.random.Generator) -> float:
        """Uniform, or uniform in the logarithm."""
        low, high = self.bounds()
        if self.is_log:
            drawn = math.exp(rng.uniform(math.log(low), math.log(high)))
        else:
            drawn = float(rng.uniform(low, high))
        return min(max(drawn, low), high)

    def value(self, raw: Any) -> float | int:
        """Rounded where there is a `q`: a whole number where that is one."""
        q: float | None = getattr(self, "q", None)
        if q is None:
            return float(raw)
        if float(q).is_integer():
            return round(float(raw) / q) * int(q)
        # 3 * 0.1 is 0.30000000000000004, which nobody wants to type again.
        return float(f"{round(raw / q) * q:.12g}")

    def ends(self) -> list[float | int]:
        """Of the values."""
        return _distinct([self.value(raw) for raw in self.bounds()])

    def distribution_of_raw(self) -> BaseDistribution | None:
        """The same range."""
        low, high = self.bounds()
        return FloatDistribution(low, high, log=self.is_log) if low < high else None

    @model_validator(mode="after")
    def _in_order(self) -> Continuous:
        _require_order(getattr(self, "min", 0), getattr(self, "max", 0))
        try:
            low, high = self.bounds()
        except OverflowError:
            low, high = 0.0, math.inf
        if not (math.isfinite(low) and math.isfinite(high)) or (self.is_log and low <= 0):
            raise ValueError("the range goes beyond what a number can be; are these exponents?")
        return self


class Uniform(Continuous):
    """Between `min` and `max`."""

    distribution: Literal["uniform"] = "uniform"
    min: Number
    max: Number

    def bounds(self) -> tuple[float, float]:
        """As given."""
        return float(self.min), float(self.max)


class QUniform(Uniform):
    """`uniform`, rounded to multiples of `q`."""

    distribution: Literal["q_uniform"] = "q_uniform"  # type: ignore[assignment]
    q: PositiveNumber = 1.0

    def grid(self) -> list[Any]:
        """The multiples of `q` that rounding can give."""
        first, last = round(self.min / self.q), round(self.max / self.q)
        return [self.value(k * self.q) for k in range(first, last + 1)]

    def raw_of(self, value: Any) -> float:
        """The value, within the range."""
        return min(max(float(value), self.min), self.max)


class LogUniformValues(Continuous):
    """Between `min` and `max`, the logarithm uniform."""

    distribution: Literal["log_uniform_values"]
    min: PositiveNumber
    max: PositiveNumber

    @property
    def is_log(self) -> bool:
        """In the logarithm."""
        return True

    def bounds(self) -> tuple[float, float]:
        """As given."""
        return float(self.min), float(self.max)


class QLogUniformValues(LogUniformValues):
    """`log_uniform_values`, rounded to multiples of `q`."""

    distribution: Literal["q_log_uniform_values"]  # type: ignore[assignment]
    q: PositiveNumber = 1.0


class InvLogUniformValues(LogUniformValues):
    """The logarithm of 1/x uniform between log(1/max) and log(1/min): that of x is so, too."""

    distribution: Literal["inv_log_uniform_values"]  # type: ignore[assignment]


class LogUniform(Continuous):
    """Between exp(`min`) and exp(`max`), the logarithm uniform."""

    distribution: Literal["log_uniform"]
    min: Number
    max: Number

    @property
    def is_log(self) -> bool:
        """In the logarithm."""
        return True

    def bounds(self) -> tuple[float, float]:
        """The given numbers are exponents of e."""
        return math.exp(self.min), math.exp(self.max)


class QLogUniform(LogUniform):
    """`log_uniform`, rounded to multiples of `q`."""

    distribution: Literal["q_log_uniform"]  # type: ignore[assignment]
    q: PositiveNumber = 1.0


class InvLogUniform(LogUniform):
    """The logarithm of 1/x uniform between `min` and `max`."""

    distribution: Literal["inv_log_uniform"]  # type: ignore[assignment]

    def bounds(self) -> tuple[float, float]:
        """The exponents change their sign."""
        return math.exp(-self.max), math.exp(-self.min)


class Normal(Continuous):
    """Normal with mean `mu` and standard deviation `sigma`."""

    distribution: Literal["normal"]
    mu: Number = 0.0
    sigma: NonNegativeNumber = 1.0

    def bounds(self) -> tuple[float, float]:
        """Six standard deviations to both sides."""
        return self.mu - SIGMAS * self.sigma, self.mu + SIGMAS * self.sigma

    def draw(self, rng: np.random.Generator) -> float:
        """Normal."""
        return self.mu + self.sigma * float(np.clip(rng.standard_normal(), -SIGMAS, SIGMAS))


class QNormal(Normal):
    """`normal`, rounded to multiples of `q`."""

    distribution: Literal["q_normal"]  # type: ignore[assignment]
    q: PositiveNumber = 1.0


class LogNormal(Continuous):
    """The logarithm normal with mean `mu` and standard deviation `sigma`."""

    distribution: Literal["log_normal"]
    mu: Number = 0.0
    sigma: NonNegativeNumber = 1.0

    @property
    def is_log(self) -> bool:
        """In the logarithm."""
        return True

    def bounds(self) -> tuple[float, float]:
        """Six standard deviations of the logarithm to both sides."""
        return math.exp(self.mu - SIGMAS * self.sigma), math.exp(self.mu + SIGMAS * self.sigma)

    def draw(self, rng: np.random.Generator) -> float:
        """The logarithm normal."""
        low, high = self.bounds()
        return min(max(math.exp(self.mu + self.sigma * rng.standard_normal()), low), high)


class QLogNormal(LogNormal):
    """`log_normal`, rounded to multiples of `q`."""

    distribution: Literal["q_log_normal"]  # type: ignore[assignment]
    q: PositiveNumber = 1.0


class Beta(Continuous):
    """The beta distribution on 0 to 1."""

    distribution: Literal["beta"]
    a: PositiveNumber = 1.0
    b: PositiveNumber = 1.0

    def bounds(self) -> tuple[float, float]:
        """0 and 1."""
        return 0.0, 1.0

    def draw(self, rng: np.random.Generator) -> float:
        """Beta."""
        return float(rng.beta(self.a, self.b))


class QBeta(Beta):
    """`beta`, rounded to multiples of `q`."""

    distribution: Literal["q_beta"]  # type: ignore[assignment]
    q: PositiveNumber = 1.0


KINDS: dict[str, type[Parameter]] = {
    kind.model_fields["distribution"].annotation.__args__[0]: kind  # type: ignore[union-attr]
    for kind in (
        Constant, Categorical, CategoricalWithProbabilities, IntUniform, Uniform, QUniform,
        LogUniform, QLogUniform, InvLogUniform, LogUniformValues, QLogUniformValues,
        InvLogUniformValues, Normal, QNormal, LogNormal, QLogNormal, Beta, QBeta,
    )
}  # fmt: skip
"""The classes by what `distribution` says."""


def inferred(fields: dict[str, Any]) -> str | None:
    """The distribution that W&B takes where none is named; None where nothing says which."""
    if "values" in fields:
        return "categorical_w_probabilities" if "probabilities" in fields else "categorical"
    if "value" in fields:
        return "constant"
    if "min" in fields and "max" in fields:
        whole = all(type(fields[end]) is int for end in ("min", "max"))
        return "int_uniform" if whole else "uniform"
    return None


def _distinct(values: list[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _require_order(low: float, high: float) -> None:
    if low > high:
        raise ValueError(f"min, {low}, is above max, {high}")
