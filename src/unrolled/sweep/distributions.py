"""The distributions that a parameter of a sweep may have: W&B's own, with W&B's meaning.

Those of real numbers are in `continuous`.

Names, fields and defaults are those of the JSON schema of W&B's sweep engine (`sweeps`, the file
`config/schema.json`); what they mean is in https://docs.wandb.ai/models/sweeps/sweep-config-keys.

A parameter has a *raw* number, which the sampler chooses, and the value that is made of it: by
rounding to multiples of `q`, by looking it up in a list of values.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from pydantic import BaseModel, ConfigDict, Field, model_validator

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
PositiveNumber = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NonNegativeNumber = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Integer = Annotated[int, Field(strict=True, ge=-(2**53), le=2**53)]
"""A whole number that samplers, which reckon in floating point, know to the last digit."""


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

    def listed(self) -> list[Any]:
        """The values that the file names, each of which may be wrong by itself; or the ends."""
        return self.ends()

    @abstractmethod
    def distribution_of_raw(self) -> BaseDistribution | None:
        """What Optuna is told of the raw values; None where there is nothing to choose."""

    def num_values(self) -> float:
        """How many there are; infinite where a grid over them has no end."""
        return math.inf

    def grid(self) -> Iterable[Any]:
        """Every value, each once; only where there is an end to them."""
        raise TypeError(f"{type(self).__name__} has no end")

    def raw_of(self, value: Any) -> Any:
        """The raw value of one of `grid`."""
        return value

    def in_grid(self) -> Parameter:
        """The same parameter as `method: grid` searches it.

        Raises:
            ValueError: If a grid over it has no end, or W&B allows none.
        """
        if math.isinf(self.num_values()):
            kind = self.model_dump()["distribution"]
            raise ValueError(
                f"a grid over {kind} has no end; list its values, take q_uniform or int_uniform, "
                "or method: random"
            )
        return self


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

    def num_values(self) -> int:
        """One."""
        return 1

    def grid(self) -> Iterable[Any]:
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
            return distinct([min(self.values), max(self.values)])
        return list(self.values)

    def listed(self) -> list[Any]:
        """All."""
        return self.values

    def num_values(self) -> int:
        """Number of different values."""
        return len(self.grid())

    def grid(self) -> list[Any]:
        """The values, each once; of 1 and 1.0, which W&B counts as one, the last."""
        return list({_in_grid(value): value for value in self.values}.values())

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
    """One of several values with probabilities."""

    distribution: Literal["categorical_w_probabilities"]  # type: ignore[assignment]
    probabilities: Annotated[list[NonNegativeNumber], Field(min_length=1)]

    def weights(self) -> list[float]:
        """Exactly one together."""
        total = sum(self.probabilities)
        return [p / total for p in self.probabilities]

    def in_grid(self) -> Parameter:
        """Refused, as by W&B."""
        raise ValueError(
            "a grid tries each value once: leave out probabilities, or take method: random"
        )

    @model_validator(mode="after")
    def _as_many(self) -> CategoricalWithProbabilities:
        if len(self.probabilities) != len(self.values):
            raise ValueError(
                f"{len(self.values)} values have {len(self.probabilities)} probabilities"
            )
        # The tolerance is W&B's.
        if not np.isclose(total := sum(self.probabilities), 1.0):
            raise ValueError(f"probabilities: they add up to {total:.6g}, not to 1")
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
        return distinct([self.min, self.max])

    def num_values(self) -> int:
        """All between the ends, and these."""
        return self.max - self.min + 1

    def grid(self) -> Iterable[int]:
        """All."""
        return range(self.min, self.max + 1)

    def distribution_of_raw(self) -> BaseDistribution | None:
        """Whole numbers too."""
        return IntDistribution(self.min, self.max) if self.min < self.max else None

    @model_validator(mode="after")
    def _in_order(self) -> IntUniform:
        require_order(self.min, self.max)
        return self


def _in_grid(value: Any) -> str:
    """A text by which W&B's grid tells values apart."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True)


def distinct(values: list[Any]) -> list[Any]:
    """Each once, in their order."""
    return list(dict.fromkeys(values))


def require_order(low: float, high: float) -> None:
    """Refuse a range that is none.

    Raises:
        ValueError: When `low` is not below `high`.
    """
    if low >= high:
        raise ValueError(f"min, {low}, is not below max, {high}")
