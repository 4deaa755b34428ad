"""What comes next, as the target of every event but the last."""

from __future__ import annotations

import torch

from unrolled.data.batch import NO_TARGET
from unrolled.data.store import JaggedSequences, Target

ITEMS = torch.tensor([5, 6, 5, 9, 7, 8], dtype=torch.int32)
TIMES = torch.tensor([0.0, 2.5, 4.0, 1.0, 10.0, 10.0], dtype=torch.float64)
OFFSETS = torch.tensor([0, 3, 4, 6])


def _source(target: Target) -> JaggedSequences:
    return JaggedSequences(
        {"item": ITEMS}, OFFSETS, times=TIMES, target=target, target_feature="item"
    )


def test_the_next_item_is_the_target_of_every_event_but_the_last() -> None:
    source = _source("next_item")
    batch = source.gather(torch.tensor([1, 0]))
    assert batch.lengths.tolist() == [1, 2]
    assert batch.features["item"].tolist() == [[7, 0], [5, 6]]
    assert batch.targets.tolist() == [[8, NO_TARGET], [6, 5]]
    assert source.targets().tolist() == [6, 5, 8]


def test_a_sequence_of_one_event_has_nothing_to_ask() -> None:
    source = _source("next_item")
    assert len(source) == 2
    assert source.rows.tolist() == [0, 2]


def test_the_next_event_is_its_type_and_the_seconds_until_it() -> None:
    source = _source("next_event")
    batch = source.gather(torch.tensor([0, 1]))
    assert batch.targets[0].tolist() == [[6.0, 2.5], [5.0, 1.5]]
    assert batch.targets[1, 0].tolist() == [8.0, 0.0]
    assert bool(batch.targets[1, 1].isnan().all())
    assert source.targets().tolist() == [[6.0, 2.5], [5.0, 1.5], [8.0, 0.0]]
