"""The inverse of a wave: at which phase were these noisy values of a wavy function taken?

The problem of lstm-play (Bullaughey 2015): x_k = f(z - k) + noise for k = 0 .. length - 1, and the
target is z. The function takes most of its values at several places, so that one value says little,
and more steps say more.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from unrolled.data.schema import Numeric, Schema
from unrolled.data.tensors import TensorSequences
from unrolled.synthetic.generated import SequenceGenerator

LARGEST = 10.0
"""z is uniform on [0, LARGEST]."""
INPUT_MEAN, INPUT_STD = 2.87, 0.93
"""Of the values, close enough to put the input on a scale of one."""


def wave(x: Tensor) -> Tensor:
    """The function whose inverse is asked."""
    return 2 + 0.5 * (x / 2 - 1).sin() + x.sin() + (2 * x + 2).sin() + (x / 4 + 1).sin()


def posterior_variance(values: Tensor, noise: float, grid_size: int | None = None) -> Tensor:
    """The variance of z given noisy values, by quadrature over a grid of z.

    Its mean is the smallest squared error that any model can reach.

    Args:
        values: `[sequence, length]`, float64.
        noise: Standard deviation.
        grid_size: Points of the grid; None takes as many as the noise needs, 1,000 at least.

    Returns:
        `[sequence]`.
    """
    # The posterior is as narrow as the noise over the wave's slope, which is 4 at most.
    grid_size = grid_size or max(1_000, min(round(10 * LARGEST / noise), 50_000))
    step = LARGEST / grid_size
    z = step * (torch.arange(grid_size, dtype=torch.float64) + 0.5)
    lags = torch.arange(values.shape[1], dtype=torch.float64)
    expected = wave(z.unsqueeze(1) - lags)
    parts = []
    for chunk in torch.split(values, 2_000_000 // grid_size):
        # Squares by the product rule: the differences themselves are [sequence, grid, length].
        distance = (
            chunk.square().sum(1, keepdim=True) - 2 * chunk @ expected.T + expected.square().sum(1)
        )
        weight = (-distance / (2 * noise**2)).softmax(1)
        mean = weight @ z
        parts.append(weight @ z.square() - mean.square())
    return torch.cat(parts)


class WaveInverse(SequenceGenerator):
    """Sequences of wave values whose phase is asked.

    Args:
        lengths: Lengths of the sequences, each as frequent as the others. The tutorial's text says
            2, 3, 4; its code drew 3 and 4 only.
        noise: Standard deviation of the noise.
    """

    def __init__(
        self,
        # The signature is the schema.
        lengths: Annotated[list[PositiveInt], Field(min_length=1)] = [2, 3, 4],  # noqa: B006
        noise: NonNegativeFloat = 0.1,
    ) -> None:
        self.lengths = sorted(set(lengths))
        self.noise = noise

    @property
    def schema(self) -> Schema:
        """One numeric feature, `value`, standardised; a real target in 0 .. 10."""
        return Schema(
            (Numeric("value"),), None, target_mean=LARGEST / 2, target_std=LARGEST / 12**0.5
        )

    def draw(self, count: int, random: torch.Generator) -> TensorSequences:
        """`count` sequences."""
        z = LARGEST * torch.rand(count, generator=random)
        which = torch.randint(len(self.lengths), (count,), generator=random)
        lengths = torch.tensor(self.lengths)[which]
        values = self._values(z, self.lengths[-1], random)
        past = torch.arange(self.lengths[-1]) >= lengths.unsqueeze(1)
        x = ((values - INPUT_MEAN) / INPUT_STD).masked_fill(past, 0.0)
        return TensorSequences({"value": x}, z, lengths)

    def _values(self, z: Tensor, length: int, random: torch.Generator) -> Tensor:
        lags = torch.arange(length, dtype=z.dtype)
        clean = wave(z.unsqueeze(1) - lags)
        return clean + self.noise * torch.randn(clean.shape, generator=random, dtype=z.dtype)

    def further_tests(
        self, test: TensorSequences, random: torch.Generator
    ) -> dict[str, TensorSequences]:
        """The test sequences of each length."""
        if len(self.lengths) == 1:
            return {}
        parts = {f"length_{n}": test.where(test.lengths == n) for n in self.lengths}
        return {name: part for name, part in parts.items() if len(part)}

    def best_possible(self) -> dict[str, float]:
        """The Bayes error by length and over all, from 100,000 sequences of each length."""
        if self.noise < 0.004:
            # The grid would have to be finer than the memory allows; the floor is about zero.
            return {}
        floors = {}
        for length in self.lengths:
            random = torch.Generator().manual_seed(length)
            # One in each of 100,000 equal parts: less chance than with independent draws.
            part = torch.arange(100_000, dtype=torch.float64)
            z = LARGEST * (part + torch.rand(part.shape, generator=random)) / len(part)
            variance = posterior_variance(self._values(z, length, random), self.noise)
            floors[f"length_{length}/mse"] = float(variance.mean())
        return {"test/mse": sum(floors.values()) / len(floors), **floors}

    def trivial_scores(self) -> dict[str, float]:
        """The variance of z."""
        return {"mse": LARGEST**2 / 12}
