"""What comes next, as the target of every event but the last."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import cast

import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unrolled.data import store
from unrolled.data.batch import NO_TARGET
from unrolled.data.events import EventData
from unrolled.data.log import EventLog
from unrolled.data.outputs import write_table
from unrolled.data.prepare import prepare
from unrolled.data.store import JaggedSequences, Target, read_meta
from unrolled.errors import UserError

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


@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=30), part=st.integers(1, 9))
def test_targets_are_counted_in_parts_as_they_would_be_all_at_once(
    lengths: list[int], part: int
) -> None:
    offsets = torch.tensor([0, *lengths]).cumsum(0) + 2  # Values before and behind belong to none.
    items = torch.arange(int(offsets[-1]) + 3, dtype=torch.int32) * 5 % 7
    for target in ("next_item", "next_event"):
        source = JaggedSequences(
            {"item": items}, offsets, times=items.double(), target=cast(Target, target),
            target_feature="item",
        )  # fmt: skip
        expected = [0] * 7
        for start, stop in pairwise(offsets.tolist()):
            for item in items[start + 1 : stop].tolist():
                expected[item] += 1
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store, "MOST_CELLS", part)
            assert source.target_counts(7).tolist() == expected
        assert len(source) == sum(length > 1 for length in lengths)
        assert source.starts.tolist() == offsets[source.rows].tolist()


def test_the_next_event_is_its_type_and_the_seconds_until_it() -> None:
    source = _source("next_event")
    batch = source.gather(torch.tensor([0, 1]))
    assert batch.targets[0].tolist() == [[6.0, 2.5], [5.0, 1.5]]
    assert batch.targets[1, 0].tolist() == [8.0, 0.0]
    assert bool(batch.targets[1, 1].isnan().all())
    assert source.targets().tolist() == [[6.0, 2.5], [5.0, 1.5], [8.0, 0.0]]


def test_gaps_are_counted_in_their_unit(tmp_path: Path) -> None:
    rows = pa.table({"user": [n for n in range(9) for _ in "ab"], "at": [0.0, 0.003] * 9})
    write_table(rows, tmp_path / "log.parquet")
    log = EventLog(
        path=tmp_path / "log.parquet", sequence="user", order="at", time="at", gap=True,
        gap_unit=0.001, val_fraction=0.2, test_fraction=0.2,
    )  # fmt: skip
    meta = read_meta(prepare(log, tmp_path / "stores"))
    # Half of the events are the first of their sequence: no gap.
    expected = {"mean": math.log(4) / 2, "std": math.log(4) / 2}
    assert meta["statistics"]["gap"] == pytest.approx(expected)


def test_the_time_of_the_next_event_can_not_be_asked_where_time_goes_back(tmp_path: Path) -> None:
    rows = pa.table(
        {"user": [n for n in range(9) for _ in "ab"], "at": [9, 3, *range(16)],
         "place": [1, 2] * 9, "kind": list("xy") * 9}
    )  # fmt: skip
    write_table(rows, tmp_path / "log.parquet")
    log = EventLog(
        path=tmp_path / "log.parquet", sequence="user", order="place", time="at",
        event_type="kind", categorical=["kind"], val_fraction=0.2, test_fraction=0.2,
    )  # fmt: skip
    data = EventData(log, tmp_path / "stores", target="next_event")
    with pytest.raises(UserError) as error:
        data.source("train")
    assert str(error.value) == (
        "data.target=next_event: ordered by 'place', the time 'at' goes back 1 times; "
        "set data.source.order to the time column"
    )


def _one_event_log(folder: Path, lengths: dict[str, int], item: str = "b") -> EventLog:
    """Ten sessions a split, of some events each; those that validate and test have only `item`."""
    rows = [
        (f"{split} {i}", 100 * i + k, "ab"[k % 2] if split == "train" else item, split, i % 2)
        for split, length in lengths.items()
        for i in range(10)
        for k in range(length)
    ]
    columns = zip(("visit", "at", "item", "part", "buys"), zip(*rows, strict=True), strict=True)
    write_table(pa.table(dict(columns)), folder / "log.parquet")
    return EventLog(
        path=folder / "log.parquet", sequence="visit", time="at", item="item", split="part"
    )


@pytest.mark.parametrize("target", ["next_item", "next_event"])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_sequences_after_whose_only_event_nothing_comes_are_refused(
    tmp_path: Path, target: Target, split: str
) -> None:
    lengths = {"train": 2, "val": 2, "test": 2} | {split: 1}
    log = replace(_one_event_log(tmp_path, lengths, item="a"), event_type="item")
    data = EventData(log, tmp_path / "stores", target=target)
    with pytest.raises(UserError) as refused:
        data.require_usable(("train", "val", "test"))
    assert refused.value.problems == (
        f"data.target={target}: all sequences have one event, 10 of the split '{split}', so "
        "nothing comes next and there is nothing to predict. Look at data.source.sequence=visit, "
        "which says what belongs together; data.source.min_length=2 leaves such sequences out "
        "before the split",
    )
    # What is not asked for need not be there.
    data.require_usable([s for s in ("train", "val", "test") if s != split])  # type: ignore[misc]


def test_a_log_of_single_events_is_told_once(tmp_path: Path) -> None:
    log = _one_event_log(tmp_path, {"train": 1, "val": 1, "test": 1}, item="a")
    with pytest.raises(UserError) as refused:
        EventData(log, tmp_path / "stores", target="next_item").require_usable(
            ("train", "val", "test")
        )
    (problem,) = refused.value.problems
    assert problem.startswith(
        "data.target=next_item: all sequences have one event, 10 of the split 'train', 10 of the "
        "split 'val', 10 of the split 'test', so nothing comes next"
    )


def test_next_items_that_training_never_has_are_refused(tmp_path: Path) -> None:
    lengths = {"train": 2, "val": 2, "test": 2}
    data = EventData(
        _one_event_log(tmp_path, lengths, item="new"), tmp_path / "stores", target="next_item",
        hpo_val=0.5,
    )  # fmt: skip
    with pytest.raises(UserError) as refused:
        data.require_usable(("train", "val", "test"))
    assert [problem.partition(":")[2] for problem in refused.value.problems] == [
        f" what comes next in '{name}' is never a value of 'item' that training has, so there is "
        "nothing to predict; give training more of the log, or split it another way"
        for name in ("val", "hpo_val", "test")
    ]


def test_a_label_is_a_target_also_of_one_event(tmp_path: Path) -> None:
    log = replace(_one_event_log(tmp_path, {"train": 1, "val": 1, "test": 1}), label="buys")
    EventData(log, tmp_path / "stores", target="label").require_usable(("train", "val", "test"))
