"""The distributions of real numbers, and what comes of rounding them to multiples of `q`."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution
from pydantic import model_validator

from unrolled.sweep.distributions import (
    NonNegativeNumber,
    Number,
    Parameter,
    PositiveNumber,
    distinct,
    require_order,
)

EDGE = 1e-9
"""A beta distribution never reaches 0 and 1, which may be no values of a parameter."""
SIGMAS = 6.0
"""Normal distributions end here: they go beyond once in 500 million draws, and a sampler that
learns needs a range."""


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
        return _tidy(round(float(raw) / q) * q, whole=float(q).is_integer())

    def ends(self) -> list[float | int]:
        """Of the values."""
        return distinct([self.value(raw) for raw in self.bounds()])

    def distribution_of_raw(self) -> BaseDistribution | None:
        """The same range."""
        low, high = self.bounds()
        return FloatDistribution(low, high, log=self.is_log) if low < high else None

    @model_validator(mode="after")
    def _in_order(self) -> Continuous:
        require_order(getattr(self, "min", 0), getattr(self, "max", 1))
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

    def num_values(self) -> int:
        """The multiples of `q` that rounding can give."""
        multiples = self._multiples()
        # Python's own len() ends at 2**63.
        return multiples.stop - multiples.start

    def grid(self) -> Iterable[float | int]:
        """These."""
        return (self.value(k * self.q) for k in self._multiples())

    def raw_of(self, value: Any) -> float:
        """The value, within the range."""
        return min(max(float(value), self.min), self.max)

    def in_grid(self) -> Parameter:
        """Steps from `min`: a grid of W&B's takes no multiples of `q`."""
        return Steps.model_validate(self.model_dump())

    def _multiples(self) -> range:
        return range(round(self.min / self.q), round(self.max / self.q) + 1)


class Steps(QUniform):
    """`q_uniform` in a grid: `min`, `min` + `q`, ..., all below `max`."""

    def value(self, raw: Any) -> float | int:
        """The step itself."""
        whole = float(self.q).is_integer() and float(self.min).is_integer()
        return _tidy(float(raw), whole=whole)

    def ends(self) -> list[float | int]:
        """The first and the last step."""
        return distinct([self._step(0), self._step(self.num_values() - 1)])

    def num_values(self) -> int:
        """Number of steps."""
        return math.ceil((self.max - self.min) / self.q)

    def grid(self) -> Iterable[float | int]:
        """The steps."""
        return map(self._step, range(self.num_values()))

    def in_grid(self) -> Parameter:
        """Nothing changes."""
        return self

    def _step(self, number: int) -> float | int:
        return self.value(self.min + number * self.q)


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
    """The beta distribution between 0 and 1."""

    distribution: Literal["beta"]
    a: PositiveNumber = 1.0
    b: PositiveNumber = 1.0

    def bounds(self) -> tuple[float, float]:
        """Just inside of 0 and 1."""
        return EDGE, 1 - EDGE

    def draw(self, rng: np.random.Generator) -> float:
        """Beta."""
        return min(max(float(rng.beta(self.a, self.b)), EDGE), 1 - EDGE)


class QBeta(Beta):
    """`beta`, rounded to multiples of `q`."""

    distribution: Literal["q_beta"]  # type: ignore[assignment]
    q: PositiveNumber = 1.0


def _tidy(number: float, *, whole: bool) -> float | int:
    # 3 * 0.1 is 0.30000000000000004, which nobody wants to type again.
    return round(number) if whole else float(f"{number:.12g}")
