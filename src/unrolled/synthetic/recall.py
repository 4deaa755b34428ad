"""Associative recall: which value came with this key?

Multi-query associative recall of Arora et al. (2023), "Zoology".
"""

from __future__ import annotations

import torch
from pydantic import PositiveInt

from unrolled.data.batch import NO_TARGET
from unrolled.data.schema import UNKNOWN_ID, Categorical, Schema
from unrolled.data.tensors import TensorSequences
from unrolled.errors import UserError
from unrolled.synthetic.generated import SequenceGenerator


class AssociativeRecall(SequenceGenerator):
    """Pairs of key and value, then every key once more, at random steps among blanks.

    Only the steps that ask have a target, the value that came with their key.

    Args:
        num_pairs: Pairs in a sequence, each with another key.
        num_keys: Keys there are.
        num_values: Values there are.
        length: Steps of a sequence.
    """

    def __init__(
        self,
        num_pairs: PositiveInt = 8,
        num_keys: PositiveInt = 32,
        num_values: PositiveInt = 32,
        length: PositiveInt = 64,
    ) -> None:
        if num_pairs > num_keys:
            raise UserError(
                f"data.source.num_pairs={num_pairs} needs as many keys; num_keys={num_keys}"
            )
        if length < 3 * num_pairs:
            raise UserError(
                f"data.source.length={length} has no room for {num_pairs} pairs and their "
                f"questions; it needs {3 * num_pairs}"
            )
        self.num_pairs = num_pairs
        self.num_keys = num_keys
        self.num_values = num_values
        self.length = length

    @property
    def schema(self) -> Schema:
        """Blank, keys and values as ids; a class for each value."""
        num_ids = UNKNOWN_ID + 1 + 1 + self.num_keys + self.num_values
        return Schema((Categorical("symbol", num_ids),), self.num_values, per_step=True)

    def draw(self, count: int, random: torch.Generator) -> TensorSequences:
        """`count` sequences."""
        pairs, rest = self.num_pairs, self.length - 2 * self.num_pairs
        keys = torch.rand(count, self.num_keys, generator=random).argsort(1)[:, :pairs]
        values = torch.randint(self.num_values, (count, pairs), generator=random)
        steps = 2 * pairs + torch.rand(count, rest, generator=random).argsort(1)[:, :pairs]
        symbols = torch.zeros(count, self.length, dtype=torch.int64)
        symbols[:, 0 : 2 * pairs : 2] = 1 + keys
        symbols[:, 1 : 2 * pairs : 2] = 1 + self.num_keys + values
        symbols.scatter_(1, steps, 1 + keys)
        targets = torch.full_like(symbols, NO_TARGET).scatter_(1, steps, values)
        return TensorSequences({"symbol": symbols + UNKNOWN_ID + 1}, targets)

    def best_possible(self) -> dict[str, float]:
        """The answer stands in the sequence."""
        return {"error": 0.0, "mistakes": 0.0}

    def trivial_scores(self) -> dict[str, float]:
        """All values are equally frequent."""
        return {"error": 1 - 1 / self.num_values}
