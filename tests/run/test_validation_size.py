"""A validation takes no longer than the training before it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from unrolled.data.module import SequenceData
from unrolled.data.tensors import TensorSequences
from unrolled.run.validation_size import most_validated, sampled
from unrolled.synthetic.generated import GeneratedData
from unrolled.synthetic.parity import Parity
from unrolled.tasks.base import SequenceTask


class Sized:
    """Sequences of one length, of which only their number is looked at."""

    def __init__(self, count: int, length: int) -> None:
        self.lengths = torch.full((count,), length)

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: torch.Tensor) -> Sized:
        raise AssertionError("not asked")


def limit(
    val: tuple[int, int], train: tuple[int, int], judged: int | None = None, **node: Any
) -> int | None:
    task = SimpleNamespace(most_judged=lambda: judged)
    data = SimpleNamespace(
        validation=lambda: Sized(*val), source=lambda split: Sized(*train),
        sequences_per_step=lambda: 100.0,
    )  # fmt: skip
    return most_validated(cast(SequenceTask, task), cast(SequenceData, data), node)


@pytest.mark.parametrize(
    ("val", "train", "options", "expected"),
    [
        # Less than four times what an epoch trains.
        ((30_000, 10), (10_000, 10), {}, None),
        # 300,000 steps are a third of 900,000, and more than 4 epochs of 5,000 sequences.
        ((90_000, 10), (5_000, 10), {}, 20_000),
        ((90_000, 10), (5_000, 10), {"check_val_every_n_epoch": 2}, 40_000),
        ((90_000, 10), (50_000, 10), {"val_check_interval": 0.1}, 20_000),
        # 100 batches of 100.
        ((90_000, 10), (50_000, 10), {"val_check_interval": 100}, 40_000),
        # Few steps are always judged.
        ((20_000, 10), (100, 10), {}, None),
        ((20_001, 10), (100, 10), {}, 20_000),
        # Long histories count by their steps.
        ((2_000, 1_000), (2_000, 1_000), {"val_check_interval": 1}, 400),
        ((90_000, 10), (5_000, 10), {"limit_val_batches": 1.0}, None),
        ((90_000, 10), (5_000, 10), {"limit_val_batches": 7}, None),
        ((0, 10), (5_000, 10), {}, None),
        # Each target is ranked among so many items that 1,000 of them are enough.
        ((300, 10), (5_000, 10), {"judged": 1_000}, 100),
        ((300, 10), (5_000, 10), {"judged": 3_000}, None),
    ],
)
def test_more_than_four_times_what_was_trained_is_sampled(
    val: tuple[int, int], train: tuple[int, int], options: dict[str, Any], expected: int | None
) -> None:
    assert limit(val, train, **options) == expected


def test_the_sample_is_the_same_each_time_and_has_the_labels_in_proportion_and_is_told() -> None:
    data = GeneratedData(Parity(2, 9, []), 5, 400, 5)
    labels = torch.zeros(400, dtype=torch.int64)
    labels[::40] = 1
    data.source = lambda split: TensorSequences({"bit": torch.arange(400.0)[:, None]}, labels)  # type: ignore[method-assign, assignment]
    assert len(data.validation()) == 400
    assert sampled(data) is None
    data.most_validated = 100
    first, again = data.validation(), data.validation()
    assert (len(first), int(first.targets().sum())) == (100, 3)
    batches = [source.gather(torch.arange(100)) for source in (first, again)]
    assert torch.equal(batches[0].features["bit"], batches[1].features["bit"])
    assert sampled(data) == (
        "val/ metrics are of a sample of 100 validation sequences, so that validating takes no "
        "longer than training (trainer.limit_val_batches=1.0 takes all)."
    )
    # What is set apart to choose a configuration by is judged once, and whole.
    data.hpo_val, data.with_tests = 0.5, False
    assert len(data.validation()) == 100
    assert len(data.test_sources()["hpo_val"]) == 200
