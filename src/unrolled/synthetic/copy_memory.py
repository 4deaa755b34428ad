"""Copy: repeat ten symbols after a long pause.

Hochreiter & Schmidhuber (1997), in the form of Arjovsky et al. (2016).
"""

from __future__ import annotations

import math

import torch
from pydantic import PositiveInt

from unrolled.data.schema import UNKNOWN_ID, Categorical, Schema
from unrolled.data.tensors import TensorSequences
from unrolled.synthetic.generated import SequenceGenerator

ALPHABET = 8
SYMBOLS = 10


class CopyMemory(SequenceGenerator):
    """Ten symbols of eight, `pause - 1` blanks, a delimiter, ten blanks: pause + 20 steps.

    Every step has a target: blank for the first pause + 10 steps, then the ten symbols. A model
    without memory knows when to answer, not what: its cross-entropy is 10 ln 8 / (pause + 20).

    Args:
        pause: Steps between the last symbol and the first answer.
    """

    def __init__(self, pause: PositiveInt = 200) -> None:
        self.pause = pause
        self.length = pause + 2 * SYMBOLS

    @property
    def schema(self) -> Schema:
        """Symbols as ids; class 0 is blank, the symbols follow."""
        return Schema(
            (Categorical("symbol", UNKNOWN_ID + 1 + ALPHABET + 2),), 1 + ALPHABET, per_step=True
        )

    def draw(self, count: int, random: torch.Generator) -> TensorSequences:
        """`count` sequences."""
        blank, delimiter = 0, 1 + ALPHABET
        shown = 1 + torch.randint(ALPHABET, (count, SYMBOLS), generator=random)
        symbols = torch.full((count, self.length), blank)
        symbols[:, :SYMBOLS] = shown
        symbols[:, -SYMBOLS - 1] = delimiter
        targets = torch.zeros_like(symbols)
        targets[:, -SYMBOLS:] = shown
        return TensorSequences({"symbol": symbols + UNKNOWN_ID + 1}, targets)

    def best_possible(self) -> dict[str, float]:
        """Everything can be remembered."""
        return {"loss": 0.0, "error": 0.0, "mistakes": 0.0}

    def trivial_scores(self) -> dict[str, float]:
        """A model without memory."""
        share = SYMBOLS / self.length
        return {"loss": share * math.log(ALPHABET), "error": share * (1 - 1 / ALPHABET)}
