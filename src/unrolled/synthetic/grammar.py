"""A grammar whose next symbol depends on the last few, with an entropy that is known exactly."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from unrolled.data.module import Split
from unrolled.data.schema import UNKNOWN_ID


class Grammar:
    """A Markov chain of order `order` with random transition probabilities.

    No model can have a lower mean cross-entropy than the chain's entropy rate (Cover & Thomas,
    eq. 4.27), `sum_c pi(c) H(p(. | c))` over contexts c and their stationary distribution pi; the
    lowest perplexity is its exponential.

    Args:
        num_symbols: Symbols there are.
        order: Symbols that the next one depends on.
        concentration: Of the Dirichlet distribution that the transition probabilities are drawn
            from: small makes few continuations likely.
        train_symbols: Length of the training text, all streams together.
        eval_symbols: Of the validation and of the test text.
        seed: Of the probabilities.
    """

    def __init__(
        self,
        num_symbols: Annotated[int, Field(ge=2)] = 16,
        order: PositiveInt = 2,
        concentration: PositiveFloat = 0.1,
        train_symbols: PositiveInt = 256_000,
        eval_symbols: PositiveInt = 50_000,
        seed: int = 0,
    ) -> None:
        self.num_symbols = num_symbols
        self.order = order
        self.sizes = {"train": train_symbols, "val": eval_symbols, "test": eval_symbols}
        random = torch.Generator().manual_seed(seed)
        shape = (num_symbols**order, num_symbols)
        draws = torch._standard_gamma(torch.full(shape, concentration).double(), random)
        # Every symbol stays possible, or the chain could fall apart.
        self.transitions = 0.99 * draws / draws.sum(1, keepdim=True) + 0.01 / num_symbols

    def vocabulary(self) -> list[str]:
        """The symbols are called by their numbers."""
        return [str(symbol) for symbol in range(self.num_symbols)]

    def streams(
        self, split: Split, count: int, seed: int, vocabulary: list[str] | None = None
    ) -> Tensor:
        """A text for each stream, `[count, step]`."""
        random = torch.Generator().manual_seed((4 * seed + list(self.sizes).index(split)) % 2**63)
        return UNKNOWN_ID + 1 + self.draw(count, max(self.sizes[split] // count, 2), random)

    def perplexity(self) -> float:
        """The lowest that any model can reach."""
        return math.exp(self.entropy())

    def draw(self, streams: int, steps: int, random: torch.Generator) -> Tensor:
        """Symbols 0 .. num_symbols - 1 of independent texts, `[streams, steps]` int64."""
        cumulative = self.transitions.float().cumsum(1)
        contexts = torch.randint(len(cumulative), (streams,), generator=random)
        chance = torch.rand(steps, streams, 1, generator=random)
        out = torch.empty(steps, streams, dtype=torch.int64)
        for t in range(steps):
            symbol = torch.searchsorted(cumulative[contexts], chance[t]).squeeze(1)
            out[t] = symbol.clamp_(max=self.num_symbols - 1)
            contexts = (contexts * self.num_symbols + out[t]) % len(cumulative)
        return out.T.contiguous()

    def entropy(self) -> float:
        """The entropy rate in nats a symbol."""
        contexts, symbols = self.transitions.shape
        following = (
            torch.arange(contexts).unsqueeze(1) * symbols + torch.arange(symbols)
        ) % contexts
        stationary = torch.full((contexts,), 1 / contexts, dtype=torch.float64)
        for _ in range(2_000):
            flow = stationary.unsqueeze(1) * self.transitions
            new = torch.zeros_like(stationary).index_add_(0, following.flatten(), flow.flatten())
            if torch.allclose(new, stationary, rtol=0, atol=1e-15):
                break
            stationary = new
        each = -(self.transitions * self.transitions.log()).sum(1)
        return float(stationary @ each)
