"""Symbols that follow each other in a circle: the smallest language there is."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from unrolled.data.module import Split
from unrolled.data.schema import UNKNOWN_ID


class Cycle:
    """1, 2, .. num_symbols, 1, 2, ..: the series of the Element-Research tutorial's first example.

    Args:
        num_symbols: Symbols there are.
        steps: Length of each stream; streams begin at random symbols.
    """

    def __init__(
        self, num_symbols: Annotated[int, Field(ge=2)] = 10, steps: PositiveInt = 100
    ) -> None:
        self.num_symbols = num_symbols
        self.steps = steps

    def vocabulary(self) -> list[str]:
        """The numbers."""
        return [str(1 + symbol) for symbol in range(self.num_symbols)]

    def streams(
        self, split: Split, count: int, seed: int, vocabulary: list[str] | None = None
    ) -> Tensor:
        """`[count, step]`."""
        random = torch.Generator().manual_seed(
            (4 * seed + ("train", "val", "test").index(split)) % 2**63
        )
        start = torch.randint(self.num_symbols, (count, 1), generator=random)
        return UNKNOWN_ID + 1 + (start + torch.arange(self.steps + 1)) % self.num_symbols

    def perplexity(self) -> float:
        """The next symbol is certain."""
        return 1.0
