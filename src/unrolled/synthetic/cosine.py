"""A cosine, seen through windows; a model that has learned it can go on by itself."""

from __future__ import annotations

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from unrolled.data.schema import Numeric, Schema
from unrolled.data.tensors import TensorSequences
from unrolled.errors import UserError
from unrolled.synthetic.generated import SequenceGenerator


class Cosine(SequenceGenerator):
    """Windows of cos(step * t), t = 0 .. points - 1; the target of each step is the next value.

    The Element-Research tutorial's series: 2,000 points over 0 .. 200, 63 points a period.

    Args:
        length: Steps of a window.
        points: Of the series.
        step: Radians between two points.
    """

    def __init__(
        self,
        length: PositiveInt = 50,
        points: PositiveInt = 2_000,
        step: PositiveFloat = 200 / 1_999,
    ) -> None:
        if length >= points:
            raise UserError(
                f"data.source.length={length} leaves no window of points={points}; "
                "it must be smaller"
            )
        self.length = length
        self.points = points
        self.step = step

    @property
    def schema(self) -> Schema:
        """One numeric feature, `value`; a real target for each step."""
        return Schema((Numeric("value"),), None, per_step=True, target_std=0.5**0.5)

    def draw(self, count: int, random: torch.Generator) -> TensorSequences:
        """`count` windows that begin at random points."""
        start = torch.randint(self.points - self.length, (count, 1), generator=random)
        values = self.values(start + torch.arange(self.length + 1))
        return TensorSequences({"value": values[:, :-1]}, values[:, 1:].contiguous())

    def values(self, t: Tensor) -> Tensor:
        """The series at the points `t`; computed in float64, where 10,000 points are exact."""
        return (self.step * t.double()).cos().float()

    def continuation(self, count: int) -> tuple[Tensor, Tensor]:
        """A first window `[length]`, and the `count` values that follow it."""
        values = self.values(torch.arange(self.length + count))
        return values[: self.length], values[self.length :]

    def best_possible(self) -> dict[str, float]:
        """There is no noise."""
        return {"mse": 0.0, "mae": 0.0}

    def trivial_scores(self) -> dict[str, float]:
        """Always zero, over whole periods."""
        return {"mse": 0.5}
