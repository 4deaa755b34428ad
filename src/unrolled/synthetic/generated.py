"""Data that are drawn: a generator says how, three splits say how many."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from pydantic import NonNegativeInt, PositiveInt

from unrolled.data.batching import Source
from unrolled.data.schema import Schema
from unrolled.data.tensor_data import TensorData
from unrolled.data.tensors import TensorSequences
from unrolled.data.tuning import Share


class SequenceGenerator(ABC):
    """How sequences and their targets are drawn, and what can be known of them."""

    one_set = False
    """Whether to test on the training sequences themselves: what is asked is memory."""

    @property
    @abstractmethod
    def schema(self) -> Schema:
        """Features and target."""

    @abstractmethod
    def draw(self, count: int, random: torch.Generator) -> TensorSequences:
        """`count` sequences with their targets."""

    def further_tests(
        self, test: TensorSequences, random: torch.Generator
    ) -> dict[str, TensorSequences]:
        """Test sets beside the test split, by name: parts of it, or other lengths."""
        return {}

    def best_possible(self) -> dict[str, float]:
        """The best value that any model can reach; keys as in `SequenceData.best_possible`."""
        return {}

    def trivial_scores(self) -> dict[str, float]:
        """What a trivial answer scores, where it is known exactly."""
        return {}


class GeneratedData(TensorData):
    """Sequences of a generator; each split has random numbers of its own.

    Args:
        source: How they are drawn.
        train_size: Training sequences.
        val_size: Validation sequences; 0 goes without.
        test_size: Test sequences.
        batch_size: Sequences of an optimizer step, over all processes.
        eval_batch_size: Sequences of a validation or test batch, over all processes.
        shuffle: A new order of the training sequences each epoch.
        seed: Of the sequences and of their order.
        workers: Processes that gather batches ahead; 0 gathers in the one that trains.
        hpo_val: Share of the validation sequences by which configurations are chosen, apart from
            those by which the checkpoint is.
    """

    def __init__(
        self,
        source: SequenceGenerator,
        train_size: PositiveInt = 10_000,
        val_size: NonNegativeInt = 1_000,
        test_size: PositiveInt = 10_000,
        batch_size: PositiveInt = 64,
        eval_batch_size: PositiveInt = 1_000,
        shuffle: bool = True,
        seed: int = 0,
        workers: NonNegativeInt = 0,
        hpo_val: Share = 0.0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, shuffle, seed, workers, hpo_val)
        self.generator = source
        self.sizes = {"train": train_size, "val": val_size, "test": test_size}
        self._further: dict[str, TensorSequences] = {}

    @property
    def schema(self) -> Schema:
        """The generator's."""
        return self.generator.schema

    def make(self) -> dict[str, TensorSequences]:
        """Draw the splits."""
        if self.generator.one_set:
            drawn = self._draw("train")
            val = drawn if self.sizes["val"] else drawn.first(0)
            return {"train": drawn, "val": val, "test": drawn}
        splits = {split: self._draw(split) for split in self.sizes}
        self._further = self.generator.further_tests(splits["test"], self._random("further"))
        return splits

    def _draw(self, split: str) -> TensorSequences:
        # None at all is drawn as one and cut: generators need not care.
        sequences = self.generator.draw(max(self.sizes[split], 1), self._random(split))
        return sequences if self.sizes[split] else sequences.first(0)

    def _random(self, split: str) -> torch.Generator:
        index = ("train", "val", "test", "further").index(split)
        return torch.Generator().manual_seed((4 * self.seed + index) % 2**63)

    def further_tests(self) -> dict[str, Source]:
        """The generator's."""
        self.setup()
        return {name: sequences.to(self.device) for name, sequences in self._further.items()}

    def best_possible(self) -> dict[str, float]:
        """The generator's."""
        return self.generator.best_possible()

    def trivial_scores(self) -> dict[str, float]:
        """The generator's."""
        return self.generator.trivial_scores()
