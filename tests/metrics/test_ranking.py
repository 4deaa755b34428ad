"""Ranks and what follows from them: against sorting, and against torchmetrics."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.retrieval import RetrievalMRR, RetrievalNormalizedDCG, RetrievalRecall

from unrolled.metrics import ranking
from unrolled.metrics.at_k import (
    CoverageAtK,
    MRRAtK,
    NDCGAtK,
    PopularityAtK,
    RankedQueries,
    RecallAtK,
    UnseenQueries,
)
from unrolled.metrics.ranking import rank, rank_in_chunks, top_items


def brute_force(scores: list[float], target: int, ties: str) -> float:
    """The rank by sorting, the target put where the rule says."""
    own = scores[target]
    others = sorted((s for i, s in enumerate(scores) if i != target), reverse=True)
    first = next((i for i, s in enumerate(others) if s <= own), len(others)) + 1
    last = next((i for i, s in enumerate(others) if s < own), len(others)) + 1
    return {"conservative": last, "optimistic": first, "mean": (first + last) / 2}[ties]


def draw(seed: int, queries: int, items: int, values: int) -> tuple[Tensor, Tensor]:
    """Scores of few different values, so that many are equal, and targets."""
    random = torch.Generator().manual_seed(seed)
    scores = torch.randint(values, (queries, items), generator=random).float() / 7
    return scores, torch.randint(items, (queries,), generator=random)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    queries=st.integers(1, 9),
    items=st.integers(1, 40),
    values=st.integers(1, 50),
    ties=st.sampled_from(["conservative", "optimistic", "mean"]),
)
def test_ranks_are_those_of_sorting_ties_included(
    seed: int, queries: int, items: int, values: int, ties: ranking.Ties
) -> None:
    scores, targets = draw(seed, queries, items, values)
    expected = [
        brute_force(row, t, ties) for row, t in zip(scores.tolist(), targets.tolist(), strict=True)
    ]
    assert rank(scores, targets, ties).tolist() == expected


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32), queries=st.integers(1, 30), k=st.integers(1, 12))
def test_metrics_are_the_means_of_what_torchmetrics_says_of_each_query(
    seed: int, queries: int, k: int
) -> None:
    items = 25
    scores, targets = draw(seed, queries, items, 9)
    ranks = rank(scores, targets)
    # torchmetrics breaks ties by position: the smallest step down puts the target behind them.
    lowered = scores.clone()
    own = lowered.gather(1, targets.unsqueeze(1))
    lowered.scatter_(1, targets.unsqueeze(1), own - 1e-3)
    relevant = torch.zeros(queries, items, dtype=torch.bool)
    relevant.scatter_(1, targets.unsqueeze(1), True)
    query = torch.arange(queries).unsqueeze(1).expand(-1, items)
    for ours, theirs in (
        (RecallAtK(k), RetrievalRecall(top_k=k)),
        (MRRAtK(k), RetrievalMRR(top_k=k)),
        (NDCGAtK(k), RetrievalNormalizedDCG(top_k=k)),
    ):
        ours.update(ranks)
        expected = theirs(lowered.flatten(), relevant.flatten(), indexes=query.flatten())
        assert float(ours.compute()) == pytest.approx(float(expected), abs=1e-6)


def test_a_model_that_gives_all_items_one_score_finds_nothing() -> None:
    scores, targets = torch.ones(3, 100), torch.tensor([0, 5, 99])
    assert rank(scores, targets).tolist() == [100, 100, 100]
    assert rank(scores, targets, "optimistic").tolist() == [1, 1, 1]
    assert rank(scores, targets, "mean").tolist() == [50.5, 50.5, 50.5]


@pytest.mark.parametrize("ties", ["conservative", "optimistic", "mean"])
def test_not_a_number_never_helps(ties: ranking.Ties) -> None:
    nan = float("nan")
    scores = torch.tensor([[nan, 1.0, 2.0], [nan, 1.0, 2.0], [nan, nan, nan]])
    assert rank(scores, torch.tensor([0, 2, 1]), ties).tolist() == [3, 2, 3]


def test_an_item_that_is_no_candidate_stands_behind_all_others() -> None:
    scores = torch.tensor([[-torch.inf, -torch.inf, -5.0, -7.0]])
    assert rank(scores, torch.tensor([3])).tolist() == [2]
    assert top_items(scores, 2).tolist() == [[2, 3]]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32), items=st.integers(1, 3000), k=st.integers(1, 10))
def test_top_items_have_the_scores_that_topk_finds(seed: int, items: int, k: int) -> None:
    scores, _ = draw(seed, 4, items, 10_000)
    top = top_items(scores, k)
    assert torch.equal(scores.gather(1, top), scores.topk(min(k, items), 1).values)
    assert all(len(set(row)) == len(row) for row in top.tolist())


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    queries = torch.randint(-2, 3, (300, 8), generator=random).float()
    items = torch.randint(-2, 3, (900, 8), generator=random).float()
    targets = torch.randint(900, (300,), generator=random)
    sizes = []

    def score(some: Tensor) -> Tensor:
        sizes.append(len(some))
        return some @ items.T

    whole = rank(queries @ items.T, targets)
    monkeypatch.setattr(ranking, "CHUNK_BYTES", 70 * 900 * 4)
    monkeypatch.setattr(ranking, "_COMPARED_BYTES", 9 * 900 * 4)
    result = rank_in_chunks(queries, score, targets, 900, k=3)
    assert torch.equal(result.ranks, whole)
    assert result.top.shape == (300, 3)
    assert sizes == [70, 70, 70, 70, 20]
    nothing = rank_in_chunks(queries[:0], score, targets[:0], 900, k=3)
    assert nothing.ranks.shape == (0,)
    assert nothing.top.shape == (0, 3)


def test_what_was_never_seen_is_dropped_or_missed() -> None:
    ranks, unseen = torch.tensor([1, 2, 30]), torch.tensor(2)
    values = {}
    for name, metric in {
        "recall": RecallAtK(20),
        "recall_missed": RecallAtK(20, unseen_missed=True),
        "mrr": MRRAtK(20),
        "mrr_missed": MRRAtK(20, unseen_missed=True),
        "ndcg": NDCGAtK(20),
        "queries": RankedQueries(),
        "unseen": UnseenQueries(),
    }.items():
        metric.update(ranks, unseen)
        metric.update(ranks[:1], unseen * 0)
        values[name] = float(metric.compute())
    assert values == pytest.approx(
        {
            "recall": 3 / 4,
            "recall_missed": 3 / 6,
            "mrr": 2.5 / 4,
            "mrr_missed": 2.5 / 6,
            "ndcg": (2 + 1 / 1.5849625) / 4,
            "queries": 4,
            "unseen": 2,
        }
    )


def test_coverage_and_popularity_of_what_is_recommended() -> None:
    counts = torch.tensor([0, 0, 6, 3, 1, 0])
    coverage = CoverageAtK(torch.arange(6) > 1)
    popularity = PopularityAtK(counts)
    for top in (torch.tensor([[2, 3], [2, 4]]), torch.tensor([[2, 3]])):
        coverage.update(top)
        popularity.update(top)
    assert float(coverage.compute()) == pytest.approx(3 / 4)
    assert float(popularity.compute()) == pytest.approx((3 * 0.6 + 2 * 0.3 + 0.1) / 6)


def test_the_state_of_a_metric_does_not_grow() -> None:
    metric = MRRAtK(20)
    for _ in range(3):
        metric.update(torch.randint(1, 50, (1000,)))
    assert [getattr(metric, name).numel() for name in metric._defaults] == [1, 1]


def test_a_collection_keeps_metrics_apart_that_begin_alike() -> None:
    together = MetricCollection(
        {
            "recall": RecallAtK(20),
            "mrr": MRRAtK(20),
            "mrr@5": MRRAtK(5),
            "missed": RecallAtK(20, unseen_missed=True),
        }
    )
    none = torch.tensor(0)
    # All are 0 after the first batch.
    together.update(ranks=torch.tensor([21, 22]), unseen=none)
    together.update(ranks=torch.tensor([10, 2]), unseen=none + 1)
    values = {name: float(value) for name, value in together.compute().items()}
    assert values == pytest.approx({"recall": 0.5, "mrr": 0.15, "mrr@5": 0.125, "missed": 0.4})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_ranks_are_exact_in_half_precision(dtype: torch.dtype) -> None:
    scores = torch.zeros(1, 50_100, dtype=dtype)
    scores[0, 7] = 1
    scores[0, 8:316] = 2
    assert rank(scores, torch.tensor([7])).tolist() == [309]
