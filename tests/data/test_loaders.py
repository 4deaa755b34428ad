"""What every kind of batching owes: each event once an epoch, over any ranks, from any position."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from unrolled.data import store
from unrolled.data.batch import NO_TARGET, SequenceBatch, has_target, pack_steps
from unrolled.data.batching import BatchLoader, Loader, PackedLoader
from unrolled.data.buckets import BucketedLoader
from unrolled.data.store import JaggedSequences, Target
from unrolled.data.streams import StreamLoader
from unrolled.errors import UserError

law = settings(max_examples=40, deadline=None)
lengths = st.lists(st.one_of(st.integers(1, 6), st.integers(1, 40)), min_size=1, max_size=40)
seeds = st.integers(0, 2**40)
budgets = st.integers(1, 60)

Make = Callable[..., Loader]
KINDS: dict[str, Make] = {
    "random": BatchLoader,
    "packed": PackedLoader,
    "bucketed": lambda source, size, **options: BucketedLoader(source, 40 * size, **options),
    "stream": lambda source, size, **options: StreamLoader(source, 1 + size % 7, size, **options),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def sequences(of_lengths: list[int], target: Target = "next_item") -> JaggedSequences:
    """Event number i has the feature i; labels are the numbers of the sequences."""
    extra = int(target != "label")
    sizes = torch.tensor(of_lengths) + extra
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    events = torch.arange(int(offsets[-1]))
    labels = torch.arange(len(of_lengths))
    return JaggedSequences({"event": events}, offsets, labels, events.double(), target, "event")


def steps(batch: SequenceBatch, values: Tensor | None = None) -> Tensor:
    """The real steps of a batch's feature or of other values, one after the other."""
    values = batch.features["event"] if values is None else values
    if batch.packed:
        return values
    order = batch.lengths.argsort(descending=True, stable=True)
    real = torch.arange(values.shape[1]) < batch.lengths.unsqueeze(1)
    assert bool((batch.features["event"][~real] == 0).all())
    return pack_steps(values[order], batch.lengths[order])


def key(batch: SequenceBatch) -> Any:
    """All that a batch says."""
    continues = None if batch.continues is None else batch.continues.tolist()
    return steps(batch).tolist(), batch.lengths.tolist(), batch.ids.tolist(), continues


def usable(loader: Loader) -> Loader:
    """The loader, if it may train."""
    try:
        loader.require_shares()
    except UserError:
        assume(False)
    return loader


def shards(kind: str, source: JaggedSequences, size: int, ranks: int, **options: Any) -> Any:
    make = KINDS[kind]
    return [usable(make(source, size, rank=r, num_ranks=ranks, **options)) for r in range(ranks)]


@kinds
@law
@given(lengths, budgets, st.integers(1, 4), seeds, st.booleans())
def test_every_event_comes_exactly_once_an_epoch_over_all_ranks(
    kind: str, of_lengths: list[int], size: int, ranks: int, seed: int, shuffle: bool
) -> None:
    source = sequences(of_lengths * 2 * ranks)
    expected = steps(next(iter(PackedLoader(source, len(source))))).sort().values
    loaders = shards(kind, source, size, ranks, shuffle=shuffle, seed=seed)
    for _ in range(2):
        epochs = [list(loader) for loader in loaders]
        assert [len(batches) for batches in epochs] == [len(loaders[0])] * ranks
        found = torch.cat([steps(batch) for batches in epochs for batch in batches])
        assert torch.equal(found.sort().values, expected)


@kinds
@law
@given(lengths, budgets, st.integers(1, 5))
@example([3], 1, 2)
@example([3, 1], 10, 5)
@example([2] * 7, 3, 2)
@example([1, 5] * 500, 50, 3)
def test_a_set_that_is_judged_is_whole_also_where_some_ranks_have_nothing(
    kind: str, of_lengths: list[int], size: int, ranks: int
) -> None:
    source = sequences(of_lengths)
    loaders = [KINDS[kind](source, size, rank=r, num_ranks=ranks) for r in range(ranks)]
    # Lightning asks for the length, which has to be the same, and takes what comes.
    assert len({len(loader) for loader in loaders}) == 1
    batches = [batch for loader in loaders for batch in loader]
    assert all(len(batch.lengths) for batch in batches)
    found = torch.cat([steps(batch) for batch in batches]).sort().values
    expected = steps(next(iter(PackedLoader(source, len(source))))).sort().values
    assert torch.equal(found, expected)


@kinds
@law
@given(lengths, budgets, st.integers(2, 4), seeds)
def test_the_batches_of_many_ranks_together_are_those_of_one(
    kind: str, of_lengths: list[int], size: int, ranks: int, seed: int
) -> None:
    source = sequences(of_lengths * 2 * ranks)
    parts = shards(kind, source, size, ranks, shuffle=True, seed=seed)
    (whole,) = shards(kind, source, size, 1, shuffle=True, seed=seed)
    for batch, *of_ranks in zip(whole, *parts, strict=True):
        found = torch.cat([steps(part) for part in of_ranks])
        assert torch.equal(found.sort().values, steps(batch).sort().values)
        # The mean over ranks of weighted means is the mean over the global batch.
        mean = sum(p.weight * p.lengths.double().mean() for p in of_ranks) / ranks
        assert float(mean) == pytest.approx(float(batch.lengths.double().mean()))
        assert batch.weight == 1.0


@kinds
@law
@given(lengths, budgets, st.integers(1, 2), seeds, st.data())
def test_a_resumed_loader_goes_on_with_the_same_batches(
    kind: str, of_lengths: list[int], size: int, ranks: int, seed: int, data: st.DataObject
) -> None:
    def make() -> Loader:
        found = shards(
            kind, sequences(of_lengths * 2 * ranks), size, ranks, shuffle=True, seed=seed
        )
        return found[-1]  # type: ignore[no-any-return]

    reference = make()
    epochs = [[key(batch) for batch in reference] for _ in range(3)]
    used = data.draw(st.integers(1, len(reference)), label="batches used")
    before = data.draw(st.integers(0, 1), label="epochs before")
    stopped = make()
    for _ in range(before):
        list(stopped)
    running = iter(stopped)
    for _ in range(used):
        next(running)
    resumed = make()
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    rest = epochs[before][used:]
    if rest:
        assert [key(batch) for batch in resumed] == rest
    assert [key(batch) for batch in resumed] == epochs[before + 1]


@kinds
def test_the_order_is_a_function_of_seed_and_epoch_alone(kind: str) -> None:
    source = sequences([1 + i % 9 for i in range(200)])

    def epochs(seed: int) -> list[Any]:
        (loader,) = shards(kind, source, 16, 1, shuffle=True, seed=seed)
        return [[key(batch) for batch in loader] for _ in range(2)]

    torch.manual_seed(3)
    found = epochs(0)
    untouched = torch.rand(2)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(2), untouched)
    assert epochs(0) == found
    assert found[0] != found[1]
    assert epochs(1)[0] not in found


@kinds
def test_without_sequences_there_are_no_batches(kind: str) -> None:
    empty = JaggedSequences({"event": torch.zeros(0)}, torch.zeros(1, dtype=torch.int64), None)
    empty.labels = torch.zeros(0, dtype=torch.int64)
    loader = KINDS[kind](empty, 8, shuffle=True)
    loader.require_shares()
    assert len(loader) == 0
    assert list(loader) == []


@law
@given(lengths, st.integers(1, 20), seeds)
def test_packed_batches_are_the_random_ones_without_padding(
    of_lengths: list[int], size: int, seed: int
) -> None:
    source = sequences(of_lengths)
    padded = BatchLoader(source, size, shuffle=True, seed=seed)
    packed = PackedLoader(source, size, shuffle=True, seed=seed)
    for one, other in zip(padded, packed, strict=True):
        assert other.packed
        order = one.lengths.argsort(descending=True, stable=True)
        assert torch.equal(other.ids, one.ids[order])
        assert torch.equal(other.lengths, one.lengths[order])
        assert torch.equal(steps(other), steps(one))
        assert torch.equal(other.targets, steps(one, one.targets))
        assert torch.equal(other.pad(other.targets, NO_TARGET), one.targets[order])


def test_large_batches_are_gathered_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    source = sequences([3, 9, 1, 4, 2])
    parts = [torch.tensor([0, 1]), torch.tensor([4, 2, 3])]
    together = list(source.gather_several(parts))
    monkeypatch.setattr(store, "MOST_CELLS", 5)
    for one, other in zip(together, source.gather_several(parts), strict=True):
        assert torch.equal(one.features["event"], other.features["event"])
        assert torch.equal(one.targets, other.targets)
        # Neither keeps the other in memory.
        assert other.features["event"].untyped_storage().nbytes() == 8 * other.targets.numel()


@pytest.mark.parametrize("target", ["label", "next_item", "next_event"])
@law
@given(lengths, st.data())
def test_pieces_put_together_are_the_sequences(
    target: Target, of_lengths: list[int], data: st.DataObject
) -> None:
    source = sequences(of_lengths, target)
    first = torch.tensor([data.draw(st.integers(0, n - 1), label="first") for n in of_lengths])
    length = torch.tensor(
        [
            data.draw(st.integers(1, n - int(f)), label="length")
            for n, f in zip(of_lengths, first, strict=True)
        ]
    )
    order = length.argsort(descending=True, stable=True)
    (batch,) = source.cut(order, first[order], length[order], [len(order)])
    whole = source.gather(torch.arange(len(source)))
    padded = batch.pad(batch.features["event"])
    targets = batch.pad(batch.targets, float("nan") if target == "next_event" else NO_TARGET)
    for row, sequence in enumerate(order.tolist()):
        n = int(length[sequence])
        piece = slice(int(first[sequence]), int(first[sequence]) + n)
        assert torch.equal(padded[row, :n], whole.features["event"][sequence, piece])
        if target != "label":
            assert torch.equal(targets[row, :n], whole.targets[sequence, piece])
        elif piece.stop == of_lengths[sequence]:
            assert batch.targets[row] == sequence
        else:
            assert batch.targets[row] == NO_TARGET
    if target != "label":
        assert bool(has_target(batch.targets).all())
