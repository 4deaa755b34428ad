"""The two parts of a validation set: one chooses the checkpoint, the other the configuration."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.data.batch import SequenceBatch
from unrolled.data.events import Batching, EventData
from unrolled.data.module import SequenceData, Split
from unrolled.data.placement import Placement
from unrolled.data.schema import Numeric, Schema
from unrolled.data.store import JaggedSequences
from unrolled.data.tensors import TensorSequences
from unrolled.data.text import TextData
from unrolled.data.tuning import divide
from unrolled.errors import UserError
from unrolled.run.compose import compose
from unrolled.run.conf import choices, search_path
from unrolled.run.overrides import read_command_line
from unrolled.run.signatures import read_signature
from unrolled.synthetic.bitcount import BitcountData
from unrolled.synthetic.generated import GeneratedData, SequenceGenerator
from unrolled.synthetic.grammar import Grammar

law = settings(max_examples=25, deadline=None)
ROOT = Path(__file__).parents[2]


class Numbered(SequenceGenerator):
    """Every sequence has its own number as its feature and its target."""

    @property
    def schema(self) -> Schema:
        return Schema((Numeric("x"),), 100)

    def draw(self, count: int, random: torch.Generator) -> TensorSequences:
        numbers = torch.arange(count)
        return TensorSequences({"x": numbers.float().unsqueeze(1)}, numbers)


class NumberedEvents(EventData):
    """Sequences of 1 to 7 events; each has its own number as its label and in all its events."""

    def source(self, split: Split) -> JaggedSequences:
        lengths = torch.arange(23) * 5 % 7 + 1
        numbers = torch.arange(23)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        return JaggedSequences({"x": numbers.repeat_interleave(lengths)}, offsets, numbers)


def on_rank(data: SequenceData, rank: int, ranks: int) -> SequenceData:
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer = SimpleNamespace(world_size=ranks, global_rank=rank, strategy=strategy)
    data.trainer = cast(Any, trainer)
    return data


def judged(data: SequenceData, ranks: int) -> tuple[list[int], list[int]]:
    """The numbers of the sequences in the batches of both parts, of all processes."""
    found: tuple[list[int], list[int]] = ([], [])
    for rank in range(ranks):
        on_rank(data, rank, ranks)
        val, (apart,) = cast(Any, data.val_dataloader()), data.test_dataloader()
        for numbers, loader in zip(found, (val, apart), strict=True):
            for batch in cast(list[SequenceBatch], loader):
                numbers += batch.targets.tolist()
                # What lies beside the labels goes with them.
                assert set(batch.features["x"].long().flatten().tolist()) <= {0, *numbers}
    return sorted(found[0]), sorted(found[1])


@given(st.integers(2, 500), st.floats(0.001, 0.999))
def test_the_parts_are_apart_and_make_the_whole_and_a_smaller_share_is_part_of_a_larger(
    count: int, share: float
) -> None:
    if not 0 < round(share * count) < count:
        with pytest.raises(UserError):
            divide(count, share)
        return
    rest, apart = divide(count, share)
    assert len(apart) == round(share * count)
    assert rest.tolist() == sorted(rest.tolist())
    assert sorted(rest.tolist() + apart.tolist()) == list(range(count))
    if len(apart) > 1:
        assert set(divide(count, (len(apart) - 1) / count)[1].tolist()) < set(apart.tolist())


@law
@given(
    st.integers(2, 60), st.integers(0, 2**40), st.integers(1, 4), st.integers(1, 9),
    st.sampled_from([0.3, 0.5, 0.7]),
)  # fmt: skip
def test_every_seed_and_number_of_processes_has_the_same_parts(
    count: int, seed: int, ranks: int, batch_size: int, share: float
) -> None:
    data = GeneratedData(
        Numbered(), 9, count, 9, seed=seed, eval_batch_size=batch_size, hpo_val=share
    )
    data.with_tests = False
    rest, apart = divide(count, share)
    assert judged(data, ranks) == (rest.tolist(), apart.tolist())


@pytest.mark.parametrize("batching", ["random", "bucketed", "packed", "stream"])
@pytest.mark.parametrize("placement", ["disk", "memory"])
@pytest.mark.parametrize("ranks", [1, 3])
def test_the_parts_of_a_store_are_the_same_however_it_is_batched(
    batching: Batching, placement: Placement, ranks: int
) -> None:
    data = NumberedEvents(
        cast(Any, None), Path("none"), eval_batch_size=4, events_per_batch=16, batching=batching,
        placement=placement, hpo_val=0.4,
    )  # fmt: skip
    data.with_tests = False
    rest, apart = divide(23, 0.4)
    assert judged(data, ranks) == (rest.tolist(), apart.tolist())
    # To train on there are all.
    on_rank(data, 0, 1)
    assert sum(len(set(b.targets.tolist()) - {-1, -100}) for b in data.train_dataloader()) == 23


def test_streams_of_text_go_whole_to_one_of_the_parts() -> None:
    data = TextData(Grammar(eval_symbols=300), eval_batch_size=10, bptt=7, hpo_val=0.3)
    rest, apart = divide(10, 0.3)
    whole = data.source("val").features["symbol"]
    data.with_tests = False
    for loader, rows in ((data.val_dataloader(), rest), (data.test_dataloader()[0], apart)):
        windows = [window.features["symbol"] for window in cast(list[SequenceBatch], loader)]
        assert torch.equal(torch.cat(windows, 1), whole[rows])


def test_some_sequences_of_a_store_have_their_own_steps_and_targets() -> None:
    items = torch.arange(10, 24, dtype=torch.int32)
    offsets = torch.tensor([0, 3, 4, 6, 11, 14])
    whole = JaggedSequences({"i": items}, offsets, target="next_item", target_feature="i")
    some = whole.take(torch.tensor([0, 2])).copy_to(torch.device("cpu"))
    # The second sequence of the store has one event, which is no step.
    assert some.rows.tolist() == [0, 3]
    assert some.lengths.tolist() == [2, 4]
    assert some.targets().tolist() == [11, 12, 17, 18, 19, 20]
    batch = some.gather(torch.tensor([1]))
    assert batch.features["i"].tolist() == [[16, 17, 18, 19]]
    assert batch.targets.tolist() == [[17, 18, 19, 20]]
    assert len(whole) == 4


def test_without_the_option_everything_is_as_it_was() -> None:
    data = BitcountData(8, 40, 20, batch_size=10)
    assert list(data.test_sources()) == ["test"]
    assert torch.equal(cast(Any, data.validation()).bits, data.source("val").bits)
    apart = BitcountData(8, 40, 20, batch_size=10, hpo_val=0.5)
    assert list(apart.test_sources()) == ["test", "hpo_val"]
    for split in ("train", "val", "test"):
        assert torch.equal(data.source(split).bits, apart.source(split).bits)
    pairs = zip(data.train_dataloader(), apart.train_dataloader(), strict=True)
    assert all(torch.equal(a.ids, b.ids) for a, b in pairs)


@pytest.mark.parametrize(
    ("count", "share", "message"),
    [
        (20, 0.01, r"data.hpo_val=0.01 of 20 validation sequences sets 0 apart .* leaves 20 to"),
        (20, 0.99, r"data.hpo_val=0.99 of 20 validation sequences sets 20 apart .* leaves 0 to"),
        (0, 0.5, r"of 0 validation sequences sets 0 apart"),
    ],
)
def test_an_empty_part_is_an_error_with_the_counts(count: int, share: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        GeneratedData(Numbered(), 9, count, 9, hpo_val=share).validation()


def test_a_source_of_a_users_own_is_told_what_it_lacks() -> None:
    class Undivided(GeneratedData):
        def source(self, split: Split) -> Any:
            return [1, 2, 3, 4]

    with pytest.raises(UserError, match=r"data.hpo_val: list has no method `take\(rows\)`"):
        Undivided(Numbered(), hpo_val=0.5).validation()


@pytest.mark.parametrize("name", choices("data", search_path(None)))
def test_all_data_have_the_option(name: str) -> None:
    target = yaml.safe_load((ROOT / f"conf/data/{name}.yaml").read_text())["_target_"]
    parameter = read_signature(target).parameters["hpo_val"]
    assert (parameter.text, parameter.default) == ("Share", 0.0)


@pytest.mark.parametrize(
    ("value", "reason"), [("1", "less than 1"), ("-0.1", "greater than or equal to 0")]
)
def test_a_share_that_is_none_is_refused_before_anything_is_built(value: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"data.hpo_val: .* does not fit: it must be {reason}"):
        compose(read_command_line(["task=bitcount", f"data.hpo_val={value}"]))


@law
@given(st.lists(st.integers(0, 2), min_size=2, max_size=80), st.floats(0.1, 0.9))
def test_every_label_is_in_both_parts_in_proportion_and_smaller_shares_stay_within_larger(
    labels: list[int], share: float
) -> None:
    count, classes = len(labels), torch.tensor(labels)
    if not 3 <= round(share * count) <= count - 3:
        return
    rest, apart = divide(count, share, classes)
    assert len(apart) == round(share * count)
    assert sorted(rest.tolist() + apart.tolist()) == list(range(count))
    for label in set(labels):
        of_label, inside = labels.count(label), int((classes[apart] == label).sum())
        if of_label > 1:
            assert 0 < inside < of_label
            assert abs(inside - len(apart) / count * of_label) <= 3
        else:
            # It decides by which metric a checkpoint can be chosen.
            assert label in classes[rest]
    smaller = divide(count, (len(apart) - 1) / count, classes)[1]
    assert set(smaller.tolist()) < set(apart.tolist())


def test_labels_that_are_all_alike_or_all_different_change_nothing() -> None:
    for labels in (torch.zeros(30, dtype=torch.int64), torch.arange(30)):
        for part, plain in zip(divide(30, 0.3, labels), divide(30, 0.3), strict=True):
            assert torch.equal(part, plain)


def test_the_few_buyers_of_a_log_are_in_both_parts() -> None:
    labels = torch.zeros(200, dtype=torch.int64)
    # Both would be in one part if labels were not looked at.
    labels[divide(200, 0.5)[0][:2]] = 1
    data = GeneratedData(Numbered(), 9, 200, 9, hpo_val=0.5)
    data.source = lambda split: TensorSequences({"x": torch.zeros(200, 1)}, labels)  # type: ignore[method-assign, assignment]
    data.with_tests = False
    for source in (data.validation(), data.test_sources()["hpo_val"]):
        assert source.targets().tolist().count(1) == 1
