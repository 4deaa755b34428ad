"""Temporal order: in which order did the important symbols come, long ago?

Hochreiter & Schmidhuber (1997), experiments 6a (two important symbols) and 6b (three).
"""

from __future__ import annotations

from typing import Literal

import torch

from unrolled.data.schema import UNKNOWN_ID, Categorical, Schema
from unrolled.data.tensors import TensorSequences
from unrolled.synthetic.generated import SequenceGenerator

DISTRACTORS, IMPORTANT = 4, 2
START, END = 0, 1
WHERE = {2: ((10, 20), (50, 60)), 3: ((10, 20), (33, 43), (66, 76))}
"""Between which steps each important symbol stands, the first step being 0; both ends included."""


class TemporalOrder(SequenceGenerator):
    """Sequences of 100 to 110 symbols: start, distractors a to d, X or Y at some places, end.

    Args:
        important: Number of important symbols: two make 4 classes (6a), three make 8 (6b).
    """

    def __init__(self, important: Literal[2, 3] = 2) -> None:
        self.where = WHERE[important]

    @property
    def schema(self) -> Schema:
        """Symbols as ids; the class is the important symbols read as a binary number."""
        num_ids = UNKNOWN_ID + 1 + 2 + DISTRACTORS + IMPORTANT
        return Schema((Categorical("symbol", num_ids),), 2 ** len(self.where))

    def draw(self, count: int, random: torch.Generator) -> TensorSequences:
        """`count` sequences."""
        lengths = torch.randint(100, 111, (count,), generator=random)
        symbols = 2 + torch.randint(DISTRACTORS, (count, 110), generator=random)
        symbols[:, 0] = START
        symbols.scatter_(1, lengths.unsqueeze(1) - 1, END)
        targets = torch.zeros(count, dtype=torch.int64)
        for low, high in self.where:
            step = torch.randint(low, high + 1, (count, 1), generator=random)
            which = torch.randint(IMPORTANT, (count, 1), generator=random)
            symbols.scatter_(1, step, 2 + DISTRACTORS + which)
            targets = IMPORTANT * targets + which.squeeze(1)
        past = torch.arange(110) >= lengths.unsqueeze(1)
        ids = (symbols + UNKNOWN_ID + 1).masked_fill(past, 0)
        return TensorSequences({"symbol": ids}, targets, lengths)

    def best_possible(self) -> dict[str, float]:
        """The order can be told without a mistake."""
        return {"error": 0.0, "mistakes": 0.0}

    def trivial_scores(self) -> dict[str, float]:
        """All classes are equally frequent."""
        return {"error": 1 - 2.0 ** -len(self.where)}
