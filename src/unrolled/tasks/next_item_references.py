"""What recommends the next item without training, by the protocol and the metrics of the task.

One pass over the training sessions counts everything that is needed; one over the test sessions
scores each method. The scores of all items are made for each target, so that the work is their
product: where it is too much, a sample of the targets is scored.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MetricCollection

from unrolled.data.batch import has_target
from unrolled.data.batching import CELLS, BatchLoader, Source
from unrolled.data.module import SequenceData
from unrolled.data.schema import PADDING_ID, UNKNOWN_ID
from unrolled.metrics.ranking import Ranking, Ties, rank_in_chunks, top_items
from unrolled.metrics.undefined import compute_each
from unrolled.tasks.telling import Tell, untold

RECENT = 10
"""So many of the last events of a session are looked at by the neighbours."""
SAMPLED = 500
"""Candidates for neighbours: of each item the most recent sessions, by their order in the log."""
NEIGHBOURS = 100
"""Of the candidates those most alike."""
_BATCH = 512
_TOLD = 4096
"""After so many targets it is told how far a method is."""
_SPARSE_PRODUCT = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
"""Whether torch multiplies sparse matrices on the CPU; without MKL it does not."""
MOST_SCORES = 1_000_000_000
"""By default a method makes so many scores for a test set, targets times items: some seconds for
the simplest, half a minute for the neighbours."""
_CANDIDATES = 2**19
"""So many candidates are looked at together, at most, unless a single query has more."""


class NextItemReferences:
    """The methods and their scores on the test sets of some data.

    `popularity`: the most frequent items. `last_item`: the item just seen, then the most frequent.
    `markov`: the items that most often followed the one just seen. `session_knn`: session nearest
    neighbours (Jannach & Ludewig 2017), later events of a session weighing more (the V-SKNN of
    Ludewig & Jannach 2018). Equal scores are ordered by popularity in all of them.

    Args:
        data: The data.
        metrics: Of the task, by name.
        k: Length of the recommended list.
        ties: The rule for equal scores.
        most_scores: Targets times items that a method scores in a test set; more targets are
            sampled. Popularity, which has one list for all, is of all targets.
        tell: Is told how far it is: the method, targets done, targets in all.
    """

    methods = ("last_item", "markov", "session_knn")
    """Those beside `popularity`, which is the trivial answer."""

    def __init__(
        self,
        data: SequenceData,
        metrics: dict[str, Any],
        k: int,
        ties: Ties,
        most_scores: int = MOST_SCORES,
        tell: Tell = untold,
    ) -> None:
        assert data.schema.target_feature is not None
        assert data.schema.num_classes is not None
        self.data = data
        self.item = data.schema.target_feature
        self.num_items = data.schema.num_classes
        self.metrics = metrics
        self.k = k
        self.ties: Ties = ties
        self.most_targets = max(1, most_scores // self.num_items)
        self.tell = tell
        self.sampled: dict[str, tuple[int, int]] = {}
        """Of each test set that was sampled the targets that were scored, and all of them."""

    @torch.inference_mode()
    def scores(self, method: str) -> dict[str, float]:
        """The metrics of a method on every test set, `test/recall@20`."""
        found: dict[str, float] = {}
        for name, source in self.data.test_sources().items():
            collection = MetricCollection(self.metrics, compute_groups=False).to("cpu")
            for metric in collection.values():
                # Every process judges all targets: there is nothing to add up.
                metric.distributed_available_fn = lambda: False
            total, done = len(source.targets()), 0
            wanted = total if method == "popularity" else min(total, self.most_targets)
            if wanted < total:
                self.sampled[name] = wanted, total
            for histories, targets in self._queries(source, wanted, total):
                known = targets > UNKNOWN_ID
                ranking = self._ranking(method, histories[known], targets[known])
                collection.update(ranks=ranking.ranks, top=ranking.top, unseen=(~known).sum())
                done += len(targets)
                self.tell(f"reference {method.replace('_', ' ')}, {name} targets", done, wanted)
            values, _ = compute_each(collection.items())
            found |= {f"{name}/{metric}": float(value) for metric, value in values.items()}
            collection.reset()
        return found

    def _ranking(self, method: str, histories: Tensor, targets: Tensor) -> Ranking:
        if method == "popularity":
            return self._popular(targets)
        score = getattr(self, f"_{method}")
        return rank_in_chunks(histories, score, targets, self.num_items, self.k, self.ties)

    def _queries(self, source: Source, wanted: int, total: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The last events before targets, `[query, RECENT]`, newest last, and the targets.

        Args:
            source: The sequences.
            wanted: Number of queries; if not all, they are drawn by chance, the same each time.
            total: Number of all queries.
        """
        chosen = torch.ones(total, dtype=torch.bool)
        if wanted < total:
            order = torch.randperm(total, generator=torch.Generator().manual_seed(0))
            chosen[order[wanted:]] = False
        done = 0
        for batch in BatchLoader(source, _BATCH, CELLS):
            items = batch.features[self.item].long().cpu()
            windows = F.pad(items, (RECENT - 1, 0)).unfold(1, RECENT, 1)
            present = has_target(batch.targets.cpu())
            here = chosen[done : (done := done + int(present.sum()))]
            windows, targets = windows[present][here], batch.targets.cpu()[present][here]
            yield from zip(torch.split(windows, _TOLD), torch.split(targets, _TOLD), strict=True)

    @cached_property
    def _sessions(self) -> tuple[Tensor, Tensor]:
        """All events of the training sessions: items and sessions, in order."""
        items, sessions = [], []
        source = self.data.source("train")
        for batch in BatchLoader(source, _BATCH, CELLS):
            values, targets = batch.features[self.item].long().cpu(), batch.targets.cpu()
            present = has_target(targets)
            whole = torch.cat([values[:, :1], targets.where(present, 0)], 1)
            real = F.pad(present, (1, 0), value=True)
            items.append(whole[real])
            sessions.append(batch.ids.cpu().unsqueeze(1).expand_as(whole)[real])
        return torch.cat(items), torch.cat(sessions)

    @cached_property
    def _counts(self) -> Tensor:
        """Share of the events of each item, `[item]`; minus infinity for what is no item."""
        counts = torch.bincount(self._sessions[0], minlength=self.num_items).float()
        # Below 1, so that it orders what is equal otherwise and nothing else.
        shares = counts / (counts.sum() + 1)
        shares[: UNKNOWN_ID + 1] = -torch.inf
        return shares

    def _popular(self, targets: Tensor) -> Ranking:
        """One list for all queries: each target's rank is looked up in it."""
        ordered = self._counts.sort().values
        own = self._counts[targets]
        first = len(ordered) - torch.searchsorted(ordered, own, right=True) + 1
        last = len(ordered) - torch.searchsorted(ordered, own)
        ranks = {"conservative": last, "optimistic": first, "mean": (first + last) / 2}[self.ties]
        top = top_items(self._counts.unsqueeze(0), self.k)
        return Ranking(ranks, top.expand(len(targets), -1), own.new_empty(0))

    def _last_item(self, histories: Tensor) -> Tensor:
        scores = self._counts.repeat(len(histories), 1)
        last = histories[:, -1:]
        return scores.scatter_add_(1, last, torch.ones_like(last, dtype=scores.dtype))

    @cached_property
    def _followers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Pairs of successive items: where those of an item begin, second items, how often."""
        items, sessions = self._sessions
        same = sessions[1:] == sessions[:-1]
        pairs = items[:-1][same] * self.num_items + items[1:][same]
        pairs, times = torch.unique(pairs, return_counts=True)
        first = pairs // self.num_items
        return _starts(first, self.num_items), pairs % self.num_items, times.float()

    def _markov(self, histories: Tensor) -> Tensor:
        starts, items, times = self._followers
        scores = self._counts.repeat(len(histories), 1)
        row, place = _ragged(starts, histories[:, -1])
        return scores.index_put_((row, items[place]), times[place], accumulate=True)

    @cached_property
    def _index(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sessions of each item, the most recent `SAMPLED`; different items of each session."""
        items, sessions = self._sessions
        pairs = torch.unique(items * (int(sessions.max()) + 1) + sessions)
        item, session = pairs // (int(sessions.max()) + 1), pairs % (int(sessions.max()) + 1)
        of_session = session.argsort(stable=True)
        in_sessions = item[of_session]
        session_starts = _starts(session, int(sessions.max()) + 1)
        starts = _starts(item, self.num_items)
        # Sessions of an item stand in the order of the log: the last ones are the most recent.
        recent = starts[item + 1] - torch.arange(len(item)) <= SAMPLED
        return _starts(item[recent], self.num_items), session[recent], session_starts, in_sessions

    def _session_knn(self, histories: Tensor) -> Tensor:
        size = max(1, _CANDIDATES // (RECENT * SAMPLED))
        return torch.cat([self._neighbours(some) for some in torch.split(histories, size)])

    def _neighbours(self, histories: Tensor) -> Tensor:
        starts, sessions, session_starts, in_sessions = self._index
        queries, length = histories.shape
        # Linear in the position, and of an item's repetitions the last counts.
        real = histories > UNKNOWN_ID
        back = length - torch.arange(length)
        lengths = (histories != PADDING_ID).sum(1, keepdim=True)
        weight = ((lengths + 1 - back) / lengths).where(real, 0)
        later = (histories.unsqueeze(1) == histories.unsqueeze(2)).triu(1).any(2)
        # What is no item, or counts later, has no sessions.
        weight = weight.masked_fill(later, 0).flatten()
        event = weight.nonzero().squeeze(1)
        entry, place = _ragged(starts, histories.flatten()[event])
        event = event[entry]
        # Only sessions that share an item: there are millions that do not.
        pairs, which = torch.unique(
            event // length * (len(session_starts) - 1) + sessions[place], return_inverse=True
        )
        row, session = pairs // (len(session_starts) - 1), pairs % (len(session_starts) - 1)
        alike = torch.zeros(len(pairs)).index_add_(0, which, weight[event])
        alike /= session_starts.diff()[session].sqrt()
        near = _largest(alike, row, queries)
        # Small beside any similarity, and not lost in its rounding.
        scores = 1e-3 * self._counts.double().repeat(queries, 1)
        if _SPARSE_PRODUCT:
            starts = _starts(row[near], queries)
            return _add_product(scores, starts, session[near], alike[near], self._contents)
        neighbour, place = _ragged(session_starts, session[near])
        found = (row[near][neighbour], in_sessions[place])
        return scores.index_put_(found, alike[near][neighbour].double(), accumulate=True)

    @cached_property
    def _contents(self) -> Tensor:
        """Ones for the items of each session: sparse float64, `[session, item]`."""
        _, _, starts, items = self._index
        ones = torch.ones(len(items), dtype=torch.float64)
        return _sparse(starts, items, ones, self.num_items)


def _add_product(
    scores: Tensor, starts: Tensor, sessions: Tensor, weights: Tensor, contents: Tensor
) -> Tensor:
    """Add to `[query, item]` the weights of each query's sessions at the items of these.

    A product of two sparse matrices: a quarter of the time of `index_put_`, which wants the place
    of every single addition.
    """
    similar = _sparse(starts, sessions, weights.double(), contents.shape[0])
    return torch.addmm(scores, similar, contents)


def _sparse(starts: Tensor, columns: Tensor, values: Tensor, num_columns: int) -> Tensor:
    size = (len(starts) - 1, num_columns)
    with warnings.catch_warnings():
        # Said once in a process: "Sparse CSR tensor support is in beta state".
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(starts, columns, values, size, check_invariants=False)


def _largest(values: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    """Where the `NEIGHBOURS` largest values of each row are; rows rise."""
    order = values.argsort(descending=True, stable=True)
    order = order[rows[order].argsort(stable=True)]
    place = torch.arange(len(order)) - _starts(rows, num_rows)[rows]
    return order[place < NEIGHBOURS]


def _starts(sorted_keys: Tensor, size: int) -> Tensor:
    """Where each key begins among sorted ones, `[size + 1]`."""
    return F.pad(torch.bincount(sorted_keys, minlength=size).cumsum(0), (1, 0))


def _ragged(starts: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """All entries of some keys: which of the keys, `[entry]`, and the place of the entry."""
    counts = starts[keys + 1] - starts[keys]
    which = torch.arange(len(keys)).repeat_interleave(counts)
    before = counts.cumsum(0) - counts
    return which, torch.arange(len(which)) - before[which] + starts[keys][which]
