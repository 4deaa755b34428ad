"""Batches: each sequence once an epoch, the same over any number of ranks, resumable."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from unrolled.data.batch import SequenceBatch
from unrolled.data.batching import BatchLoader

law = settings(max_examples=25, deadline=None)
sizes = st.integers(1, 60)
ranks = st.integers(1, 5)
seeds = st.integers(0, 2**40)


class Numbers:
    """Sequence i is the number i, one step long."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.asked: list[list[int]] = []

    def __len__(self) -> int:
        return self.n

    def gather(self, indices: Tensor) -> SequenceBatch:
        self.asked.append(indices.tolist())
        features = {"number": indices.float().unsqueeze(1)}
        return SequenceBatch(features, torch.ones_like(indices), indices, indices)

    def targets(self) -> Tensor:
        return torch.arange(self.n)


def epoch(loader: BatchLoader) -> list[list[int]]:
    """The sequences of each batch of the next epoch."""
    return [batch.ids.tolist() for batch in loader]


@law
@given(sizes, sizes, ranks, seeds, st.booleans())
def test_every_sequence_comes_exactly_once_an_epoch_over_all_ranks(
    n: int, batch_size: int, num_ranks: int, seed: int, shuffle: bool
) -> None:
    loaders = [
        BatchLoader(Numbers(n), batch_size, shuffle=shuffle, seed=seed, rank=r, num_ranks=num_ranks)
        for r in range(num_ranks)
    ]
    for _ in range(2):
        ids = [i for loader in loaders for batch in epoch(loader) for i in batch]
        assert sorted(ids) == list(range(n))


@law
@given(sizes, sizes, seeds)
def test_batch_sizes_differ_by_at_most_one_and_never_exceed_the_limit(
    n: int, batch_size: int, seed: int
) -> None:
    loader = BatchLoader(Numbers(n), batch_size, shuffle=True, seed=seed)
    lengths = [len(batch) for batch in epoch(loader)]
    assert len(lengths) == len(loader) == -(-n // batch_size)
    assert max(lengths) <= batch_size
    assert max(lengths) - min(lengths) <= 1


@law
@given(sizes, sizes, ranks, seeds, st.booleans())
def test_many_ranks_see_the_batches_of_one_in_the_same_order(
    n: int, batch_size: int, num_ranks: int, seed: int, shuffle: bool
) -> None:
    whole = BatchLoader(Numbers(n), batch_size, shuffle=shuffle, seed=seed)
    assume(n >= num_ranks * len(whole))
    parts = [
        BatchLoader(Numbers(n), batch_size, shuffle=shuffle, seed=seed, rank=r, num_ranks=num_ranks)
        for r in range(num_ranks)
    ]
    for _ in range(2):
        expected, shares = epoch(whole), [epoch(part) for part in parts]
        assert [len(share) for share in shares] == [len(expected)] * num_ranks
        for batch, *of_ranks in zip(expected, *shares, strict=True):
            # Deal the sequences back: one from each rank in turn.
            turns = itertools.zip_longest(*of_ranks)
            assert [i for turn in turns for i in turn if i is not None] == batch


@law
@given(sizes, sizes, ranks, seeds)
def test_the_mean_over_ranks_of_weighted_means_is_the_mean_over_the_global_batch(
    n: int, batch_size: int, num_ranks: int, seed: int
) -> None:
    values = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    whole = BatchLoader(Numbers(n), batch_size, shuffle=True, seed=seed)
    # Also where a rank has no share of a batch: then the others make up for it.
    of_ranks: dict[int, float] = dict.fromkeys(range(len(whole)), 0.0)
    weights = dict.fromkeys(of_ranks, 0.0)
    batch_of = {i: k for k, batch in enumerate(epoch(whole)) for i in batch}
    for r in range(num_ranks):
        for batch in BatchLoader(
            Numbers(n), batch_size, shuffle=True, seed=seed, rank=r, num_ranks=num_ranks
        ):
            k = batch_of[int(batch.ids[0])]
            of_ranks[k] += batch.weight * float(values[batch.ids].mean()) / num_ranks
            weights[k] += batch.weight / num_ranks
    again = BatchLoader(Numbers(n), batch_size, shuffle=True, seed=seed)
    for k, batch in enumerate(again):
        assert batch.weight == 1.0
        assert of_ranks[k] == pytest.approx(float(values[batch.ids].mean()), abs=1e-12)
        assert weights[k] == pytest.approx(1.0)


@law
@given(st.integers(20, 200), sizes, sizes, seeds, st.integers(0, 50))
def test_the_order_is_a_function_of_seed_and_epoch_alone(
    n: int, one_size: int, other_size: int, seed: int, number: int
) -> None:
    loader = BatchLoader(Numbers(n), one_size, shuffle=True, seed=seed)
    order = loader.order(number).tolist()
    torch.manual_seed(number)
    other = BatchLoader(Numbers(n), other_size, shuffle=True, seed=seed, rank=1, num_ranks=2)
    assert other.order(number).tolist() == order
    assert sorted(order) == list(range(n))
    assert loader.order(number + 1).tolist() != order
    assert BatchLoader(Numbers(n), 1, shuffle=True, seed=seed + 1).order(number).tolist() != order


def test_no_two_of_many_seeds_and_epochs_share_an_order() -> None:
    orders = {
        tuple(BatchLoader(Numbers(30), 1, shuffle=True, seed=seed).order(number).tolist())
        for seed in range(20)
        for number in range(50)
    }
    assert len(orders) == 20 * 50


def test_the_order_leaves_torchs_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    epoch(BatchLoader(Numbers(9), 2, shuffle=True))
    assert torch.equal(torch.rand(3), expected)


@law
@given(sizes, sizes)
def test_without_shuffling_every_epoch_has_the_order_of_the_source(n: int, batch_size: int) -> None:
    loader = BatchLoader(Numbers(n), batch_size, seed=3)
    for _ in range(2):
        assert [i for batch in epoch(loader) for i in batch] == list(range(n))


@law
@given(st.integers(1, 40), st.integers(1, 15), st.integers(1, 3), seeds, st.data())
def test_a_resumed_loader_gives_the_remaining_batches_and_then_the_following_epochs(
    n: int, batch_size: int, num_ranks: int, seed: int, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, num_ranks - 1), label="rank")

    def make() -> BatchLoader:
        return BatchLoader(
            Numbers(n), batch_size, shuffle=True, seed=seed, rank=rank, num_ranks=num_ranks
        )

    reference = make()
    assume(n >= num_ranks * len(reference))
    epochs = [epoch(reference) for _ in range(4)]
    whole_epochs = data.draw(st.integers(0, 1), label="epochs before")
    used = data.draw(st.integers(0, len(reference)), label="batches used")
    stopped = make()
    for _ in range(whole_epochs):
        epoch(stopped)
    running = iter(stopped)
    for _ in range(used):
        next(running)
    state = json.loads(json.dumps(stopped.state_dict()))

    resumed = make()
    resumed.load_state_dict(state)
    # A state saved before the first batch is the same position.
    assert resumed.state_dict() == state
    rest = epochs[whole_epochs][used:] if used else epochs[whole_epochs]
    if rest:
        assert epoch(resumed) == rest
    assert epoch(resumed) == epochs[whole_epochs + 1]
    assert epoch(resumed) == epochs[whole_epochs + 2]


@law
@given(st.integers(1, 40), st.integers(1, 15), seeds, st.data())
def test_a_position_saved_by_one_rank_is_taken_up_by_another_number_of_ranks(
    n: int, batch_size: int, seed: int, data: st.DataObject
) -> None:
    one = BatchLoader(Numbers(n), batch_size, shuffle=True, seed=seed)
    used = data.draw(st.integers(1, len(one)), label="batches used")
    for _ in itertools.islice(one, used):
        pass
    state = one.state_dict()
    shares = []
    for r in range(2):
        loader = BatchLoader(Numbers(n), batch_size, shuffle=True, seed=seed, rank=r, num_ranks=2)
        loader.load_state_dict(state)
        shares += [i for batch in epoch(loader) for i in batch]
    one.load_state_dict(state)
    assert sorted(shares) == sorted(i for batch in epoch(one) for i in batch)


def test_resuming_gathers_only_the_batches_that_remain() -> None:
    source = Numbers(100)
    loader = BatchLoader(source, 10, shuffle=True)
    loader.load_state_dict({"epoch": 3, "next_batch": 8})
    batches = epoch(loader)
    assert source.asked == batches
    assert [i for batch in batches for i in batch] == loader.order(3)[80:].tolist()


@law
@given(st.integers(2, 40), st.integers(1, 10), seeds, st.data())
def test_breaking_off_and_starting_again_starts_the_next_epoch_at_its_beginning(
    n: int, batch_size: int, seed: int, data: st.DataObject
) -> None:
    reference = BatchLoader(Numbers(n), batch_size, shuffle=True, seed=seed)
    epochs = [epoch(reference) for _ in range(2)]
    loader = BatchLoader(Numbers(n), batch_size, shuffle=True, seed=seed)
    used = data.draw(st.integers(1, len(loader)), label="batches used")
    started = [batch.ids.tolist() for batch in itertools.islice(loader, used)]
    assert started == epochs[0][:used]
    assert epoch(loader) == epochs[1]


def test_the_position_counts_a_batch_as_used_while_it_is_in_use() -> None:
    loader = BatchLoader(Numbers(6), 2)
    assert loader.state_dict() == {"epoch": 0, "next_batch": 0}
    positions = [loader.state_dict() for _ in loader]
    assert positions == [
        {"epoch": 0, "next_batch": 1},
        {"epoch": 0, "next_batch": 2},
        {"epoch": 1, "next_batch": 0},
    ]


def test_a_rank_without_a_share_of_a_tiny_batch_skips_it() -> None:
    loaders = [BatchLoader(Numbers(2), 8, rank=r, num_ranks=3) for r in range(3)]
    assert [epoch(loader) for loader in loaders] == [[[0]], [[1]], []]


def test_a_source_without_sequences_gives_no_batches() -> None:
    loader = BatchLoader(Numbers(0), 8, shuffle=True)
    assert len(loader) == 0
    assert epoch(loader) == []
