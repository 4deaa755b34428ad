"""Adding and multiplication: two of many numbers are marked; what is their sum, their product?

Hochreiter & Schmidhuber (1997), experiments 4 and 5, in the form that later work uses (Le et al.
2015, Arjovsky et al. 2016): numbers from U[0, 1], one mark in each half.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from unrolled.data.schema import Numeric, Schema
from unrolled.data.tensors import TensorSequences
from unrolled.synthetic.generated import SequenceGenerator


class MarkedNumbers(SequenceGenerator):
    """Numbers with two marks; the target is the sum or the product of the marked ones.

    Always answering the mean costs the target's variance, exactly 1/6 for the sum and 7/144 for
    the product (papers print .1767 for the first).

    Args:
        length: Numbers in a sequence.
        target: What is asked.
    """

    def __init__(
        self,
        length: Annotated[int, Field(ge=2)] = 600,
        target: Literal["sum", "product"] = "sum",
    ) -> None:
        self.length = length
        self.target = target

    @property
    def variance(self) -> float:
        """Of the target: the squared error of always answering its mean."""
        return 1 / 6 if self.target == "sum" else 7 / 144

    @property
    def schema(self) -> Schema:
        """Channels `number` and `mark`; a real target."""
        mean = 1.0 if self.target == "sum" else 0.25
        return Schema(
            (Numeric("number"), Numeric("mark")),
            None,
            target_mean=mean,
            target_std=self.variance**0.5,
        )

    def draw(self, count: int, random: torch.Generator) -> TensorSequences:
        """`count` sequences."""
        numbers = torch.rand(count, self.length, generator=random)
        half = self.length // 2
        first = torch.randint(half, (count, 1), generator=random)
        second = torch.randint(half, self.length, (count, 1), generator=random)
        marks = torch.zeros_like(numbers).scatter_(1, first, 1.0).scatter_(1, second, 1.0)
        a, b = numbers.gather(1, first).squeeze(1), numbers.gather(1, second).squeeze(1)
        targets = a + b if self.target == "sum" else a * b
        return TensorSequences({"number": numbers, "mark": marks}, targets)

    def best_possible(self) -> dict[str, float]:
        """There is no noise."""
        return {"mse": 0.0, "mae": 0.0, "off": 0.0}

    def trivial_scores(self) -> dict[str, float]:
        """The target's variance."""
        return {"mse": self.variance}
