"""Buckets: similar lengths together, within the budget, with hardly any padding."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unrolled.data.buckets import WIDTH, BucketedLoader, bucket_lengths
from unrolled.data.events import EventData
from unrolled.data.store import JaggedSequences
from unrolled.errors import UserError
from unrolled.run.compose import compose
from unrolled.run.experiment import Experiment
from unrolled.run.overrides import read_command_line

law = settings(max_examples=40, deadline=None)
lengths = st.lists(st.one_of(st.integers(1, 5), st.integers(1, 80)), min_size=1, max_size=80)


def sequences(of_lengths: Tensor) -> JaggedSequences:
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), of_lengths.cumsum(0)])
    events = torch.ones(int(offsets[-1]))
    return JaggedSequences({"event": events}, offsets, torch.zeros(len(of_lengths)).long())


def density(loader: BucketedLoader) -> float:
    """Real cells over all cells of an epoch."""
    batches = list(loader)
    real = sum(int(batch.lengths.sum()) for batch in batches)
    return real / sum(batch.features["event"].numel() for batch in batches)


@law
@given(lengths, st.integers(1, 300), st.integers(0, 9))
def test_no_batch_has_more_steps_than_the_budget(
    of_lengths: list[int], budget: int, seed: int
) -> None:
    loader = BucketedLoader(sequences(torch.tensor(of_lengths)), budget, shuffle=True, seed=seed)
    for batch in loader:
        cells = len(batch) * int(batch.lengths.max())
        assert cells <= budget or len(batch) == 1


@law
@given(lengths, st.integers(1, 200))
def test_a_bucket_has_similar_lengths_or_is_small(of_lengths: list[int], least: int) -> None:
    sizes = torch.tensor(of_lengths)
    longest = bucket_lengths(sizes, least)
    assert longest.tolist() == sorted(set(longest.tolist()))
    assert int(longest[-1]) == max(of_lengths)
    bucket = torch.searchsorted(longest, sizes)
    events = torch.zeros(len(longest), dtype=torch.int64).index_add(0, bucket, sizes)
    if len(longest) > 1:
        assert int(events.min()) >= least
    # Without a least number, lengths differ by the width at most.
    narrow = bucket_lengths(sizes, 0)
    bucket = torch.searchsorted(narrow, sizes)
    assert bool((sizes * (1 + WIDTH) >= narrow[bucket]).all())


def test_batches_are_mixed_anew_each_epoch_and_come_in_random_order() -> None:
    sizes = torch.arange(400) % 20 + 1
    loader = BucketedLoader(sequences(sizes), 64, shuffle=True)
    first, second = ([batch.ids.tolist() for batch in loader] for _ in range(2))
    longest = [max(int(sizes[i]) for i in batch) for batch in first]
    # The shortest of a bucket fill a single batch.
    several = {tuple(sorted(b)) for b, n in zip(first, longest, strict=True) if n > 10}
    assert len(several) > 20
    assert several.isdisjoint(tuple(sorted(b)) for b in second)
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


def test_a_heavy_tail_is_hardly_padded() -> None:
    random = torch.Generator().manual_seed(0)
    uniform = torch.rand(20_000, generator=random, dtype=torch.float64)
    sizes = (1.5 / uniform ** (1 / 1.5)).long().clamp(1, 300)
    loader = BucketedLoader(sequences(sizes), 2048, shuffle=True)
    assert density(loader) >= 0.95
    exact = BucketedLoader(sequences(sizes), 2048, min_share=0.0)
    assert density(exact) >= 0.97


def test_a_budget_too_small_for_the_processes_is_refused() -> None:
    source = sequences(torch.tensor([50] * 20))
    BucketedLoader(source, 100, num_ranks=2).require_shares()
    with pytest.raises(
        UserError, match=r"data.events_per_batch=100 makes batches of 2 of the"
    ) as e:
        BucketedLoader(source, 100, num_ranks=3).require_shares()
    assert "too few for 3 processes; make it larger" in str(e.value)


@pytest.mark.skipif("UNROLLED_DATA" not in os.environ, reason="the shared data are not here")
@pytest.mark.parametrize(
    ("name", "target"),
    [("clickstream", "label"), ("yoochoose64", "next_item"), ("taobao_tpp", "next_event")],
)
def test_real_data_are_hardly_padded(name: str, target: str, tmp_path: Path) -> None:
    typed = ["task=purchase_intent", f"data={name}", f"data.target={target}"]
    typed += ["data.batching=bucketed", f"data.store_dir={tmp_path}"]
    data = Experiment(**compose(read_command_line(typed)).config).build_data()
    assert isinstance(data, EventData)
    for split in ("train", "val", "test"):
        loader = data.loader(split)  # type: ignore[arg-type]
        assert isinstance(loader, BucketedLoader)
        batches = list(loader)
        cells = sum(len(batch) * int(batch.lengths.max()) for batch in batches)
        assert sum(int(batch.lengths.sum()) for batch in batches) >= 0.93 * cells
