"""Memorise: random labels of random sequences, for which there is no rule (Sheil 2015)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, PositiveInt

from unrolled.data.schema import Numeric, Schema
from unrolled.data.tensors import TensorSequences
from unrolled.synthetic.generated import SequenceGenerator


class RandomLabels(SequenceGenerator):
    """Normal vectors at each step, and at each step a random label.

    The sequences that train are those that are judged: what is asked is memory. The tutorial's
    loop reads 8 of every 10 batches of 5 vectors, so that it has 800 labels to learn.

    Args:
        length: Steps of a sequence.
        size: Channels of a step.
        num_classes: Labels there are.
    """

    one_set = True

    def __init__(
        self,
        length: PositiveInt = 8,
        size: PositiveInt = 10,
        num_classes: Annotated[int, Field(ge=2)] = 3,
    ) -> None:
        self.length = length
        self.size = size
        self.num_classes = num_classes

    @property
    def schema(self) -> Schema:
        """One feature of `size` channels; a class for each step."""
        return Schema((Numeric("vector", self.size),), self.num_classes, per_step=True)

    def draw(self, count: int, random: torch.Generator) -> TensorSequences:
        """`count` sequences."""
        vectors = torch.randn(count, self.length, self.size, generator=random)
        labels = torch.randint(self.num_classes, (count, self.length), generator=random)
        return TensorSequences({"vector": vectors}, labels)

    def best_possible(self) -> dict[str, float]:
        """Everything can be memorised."""
        return {"loss": 0.0, "error": 0.0, "mistakes": 0.0}
