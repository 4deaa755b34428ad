"""Parity: is the number of ones so far even or odd?"""

from __future__ import annotations

import torch
from pydantic import PositiveInt

from unrolled.data.batch import NO_TARGET
from unrolled.data.schema import Numeric, Schema
from unrolled.data.tensors import TensorSequences
from unrolled.errors import UserError
from unrolled.synthetic.generated import SequenceGenerator


class Parity(SequenceGenerator):
    """Random bits; the target of each step is the sum of the bits so far, modulo 2.

    Short strings are few: the test has those of the training too. Longer ones are never the same.

    Args:
        min_length: Of the strings; lengths are uniform.
        max_length: Of the strings.
        test_lengths: Further test sets with strings of one length each, longer than trained on.
    """

    def __init__(
        self,
        min_length: PositiveInt = 1,
        max_length: PositiveInt = 50,
        test_lengths: list[PositiveInt] = [100],  # noqa: B006  # The signature is the schema.
    ) -> None:
        if min_length > max_length:
            raise UserError(f"data.source.min_length={min_length} is above max_length={max_length}")
        self.min_length = min_length
        self.max_length = max_length
        self.test_lengths = list(test_lengths)

    @property
    def schema(self) -> Schema:
        """One numeric feature, `bit`; two classes, a target for each step."""
        return Schema((Numeric("bit"),), 2, per_step=True)

    def draw(self, count: int, random: torch.Generator) -> TensorSequences:
        """`count` strings."""
        lengths = torch.randint(self.min_length, self.max_length + 1, (count,), generator=random)
        return self._strings(lengths, random)

    def further_tests(
        self, test: TensorSequences, random: torch.Generator
    ) -> dict[str, TensorSequences]:
        """As many strings as in the test split, of each further length."""
        return {
            f"length_{length}": self._strings(torch.full((len(test),), length), random)
            for length in self.test_lengths
        }

    def _strings(self, lengths: torch.Tensor, random: torch.Generator) -> TensorSequences:
        longest = int(lengths.max())
        bits = torch.randint(2, (len(lengths), longest), generator=random)
        past = torch.arange(longest) >= lengths.unsqueeze(1)
        targets = (bits.cumsum(1) % 2).masked_fill(past, NO_TARGET)
        return TensorSequences({"bit": bits.float().masked_fill(past, 0.0)}, targets, lengths)

    def best_possible(self) -> dict[str, float]:
        """One unit that flips is enough."""
        return {"error": 0.0, "mistakes": 0.0}

    def trivial_scores(self) -> dict[str, float]:
        """Even and odd are equally frequent."""
        return {"error": 0.5}
