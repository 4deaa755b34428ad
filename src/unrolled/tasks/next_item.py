"""Which item comes next?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from unrolled.data.batch import SequenceBatch, has_target
from unrolled.data.batching import Source
from unrolled.data.module import SequenceData
from unrolled.data.schema import UNKNOWN_ID, Schema
from unrolled.errors import UserError
from unrolled.metrics.at_k import (
    CoverageAtK,
    MRRAtK,
    NDCGAtK,
    PopularityAtK,
    RankedQueries,
    RecallAtK,
    UnseenQueries,
    UnseenShare,
)
from unrolled.metrics.ranking import Ties, chunk_size, rank_in_chunks
from unrolled.models.catalogue import FIRST_ITEM, CatalogueHead
from unrolled.models.readout import EveryStep
from unrolled.models.sequence import SequenceModel
from unrolled.tasks.base import SequenceTask
from unrolled.tasks.judge import Judge
from unrolled.tasks.next_item_references import MOST_SCORES, NextItemReferences
from unrolled.tasks.targets import flat_steps

OF_ALL = "_all"
"""Ends the names of the metrics of all targets: those never seen in training are misses."""


class NextItem(SequenceTask):
    """After each event of a session, the item of the next one, among all items of the training log.

    The loss is the mean over the events that have a next item; a next item that was never seen in
    training has none.

    Args:
        model: From a batch to one vector for each step.
        optimizer: Makes the optimizer from the parameters.
        scheduler: Makes the learning-rate scheduler from the optimizer; it moves at each step.
        regularizers: Penalties of the encoder's outputs.
        k: Length of the recommended list.
        ties: Where the target stands among items of the same score: behind them (`conservative`),
            before them, or in their middle.
        references: Whether to compute what methods without training score.
        reference_scores: Scores that each of these methods makes for a test set, targets times
            items; where that is not enough for all targets a sample of them is scored.
    """

    mode = "max"

    def __init__(
        self,
        model: SequenceModel,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        regularizers: Sequence[nn.Module] = (),
        k: PositiveInt = 20,
        ties: Ties = "conservative",
        references: bool = True,
        reference_scores: PositiveInt = MOST_SCORES,
    ) -> None:
        self.k = k
        self.ties: Ties = ties
        self.with_references = references
        self.reference_scores = reference_scores
        self.main_metric = f"recall@{k}"
        self.monitor = f"val/recall@{k}"
        self._known: NextItemReferences | None = None
        head = model.head
        if not isinstance(head, CatalogueHead):
            raise UserError(
                f"task=next_item recommends from a catalogue, which {type(head).__name__} does "
                "not; use head=item_sampled_softmax, item_softmax, item_bpr_max or item_gbce"
            )
        super().__init__(model, optimizer, scheduler, regularizers)

    @property
    def head(self) -> CatalogueHead:
        """The head, of the kind that knows the catalogue."""
        return cast(CatalogueHead, self.model.head)

    def check_schema(self, schema: Schema) -> None:
        """The question is asked at every step, of an encoder that does not see the answer."""
        if not schema.per_step or schema.target_feature is None:
            raise UserError(
                "task=next_item asks for the next item of a log: set data.target=next_item and "
                "data.source.item, its column"
            )
        if not isinstance(self.model.readout, EveryStep):
            raise UserError("task=next_item asks after every event: use readout=every_step")
        if not getattr(self.model.encoder, "causal", True):
            raise UserError(
                "task=next_item: this encoder reads the future, where the answers stand; use one "
                "that goes forward only (model.bidirectional=false)"
            )

    def metrics(self) -> dict[str, Any]:
        """Recall (hit rate), MRR and NDCG of the list, of targets that were seen and of all."""
        k = self.k
        counts = self.head.class_counts
        candidates = torch.arange(len(counts), device=counts.device) >= FIRST_ITEM
        return {
            f"recall@{k}": RecallAtK(k),
            f"mrr@{k}": MRRAtK(k),
            f"ndcg@{k}": NDCGAtK(k),
            f"recall@{k}{OF_ALL}": RecallAtK(k, unseen_missed=True),
            f"mrr@{k}{OF_ALL}": MRRAtK(k, unseen_missed=True),
            f"ndcg@{k}{OF_ALL}": NDCGAtK(k, unseen_missed=True),
            f"coverage@{k}": CoverageAtK(candidates),
            f"popularity@{k}": PopularityAtK(counts.clone()),
            "targets": RankedQueries(),
            "unseen_targets": UnseenQueries(),
            "unseen_share": UnseenShare(),
        }

    def metric_input(self, outputs: Tensor) -> Tensor:
        """The best item, `[item]`; the metrics themselves take ranks."""
        return self.head.predict(outputs)

    def trivial_input(self, train_targets: Tensor) -> Tensor:
        """The most frequent item; `trivial_scores` ranks all items by their frequency."""
        return train_targets.mode().values

    def losses(self, outputs: Tensor, batch: SequenceBatch) -> Tensor:
        """The loss of each event that has a next item, `[event]`."""
        vectors, targets = flat_steps(outputs, batch.targets, has_item(batch.targets))
        # Of a batch without any, still a function of the parameters: others wait for gradients.
        losses = self.head.loss(vectors, targets) if len(targets) else outputs.sum()[None] * 0
        if not (self.training and torch.distributed.is_initialized()):
            return losses
        # `batch.weight` is the process's share of the sequences; the mean is one over events.
        events = torch.tensor(float(len(targets)), device=losses.device)
        world = torch.distributed.get_world_size()
        everywhere = events.clone()
        torch.distributed.all_reduce(everywhere)
        return losses * (world * events / everywhere.clamp(min=1) / batch.weight)

    def undefined_on(self, data: SequenceData, source: Source, metric: str) -> str | None:
        """Only where no target can be recommended; the loss has none either."""
        return None if bool(has_item(source.targets()).any()) else RecallAtK.undefined

    def most_judged(self) -> int:
        """Each target is ranked among all items."""
        return max(1, MOST_SCORES // self.head.num_classes)

    def trivial_scores(self, data: SequenceData) -> dict[str, float]:
        """Always the most popular items."""
        # Other data than a run's own have no training sessions.
        return self._references(data).scores("popularity") if len(data.source("train")) else {}

    def references(self, data: SequenceData) -> dict[str, dict[str, float]]:
        """The last item, first-order Markov and session nearest neighbours."""
        if not self.with_references or not len(data.source("train")):
            return {}
        references = self._references(data)
        return {name: references.scores(name) for name in references.methods}

    def protocol(self) -> dict[str, str]:
        """What the metrics are metrics of."""
        sampled = {} if self._known is None else self._known.sampled
        references = "; ".join(
            f"a sample of {some:,} of the {total:,} targets of {test} "
            f"(task.reference_scores={self.reference_scores})"
            for test, (some, total) in sampled.items()
        )
        return {
            **({"references": references} if references else {}),
            "positions": "every event after the first of each test session",
            "candidates": "all items of the training log, those of the session among them",
            "ties": self.ties,
            "trivial": "the most popular items",
            "unseen": f"targets never seen in training are dropped; they count as misses in "
            f"*{OF_ALL}",
        }

    def predict_batch(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """The best next item after each event; after the last one the best `k` with scores.

        Returns:
            `prediction` `[batch, time]`; `recommended` and `score` `[batch, 1, k]`.
        """
        outputs = self(batch)
        last = batch.lengths.to(outputs.device) - 1
        vectors = outputs[torch.arange(len(outputs), device=outputs.device), last]
        score, count = self.head.all_scores(), min(self.k, self.head.num_classes - FIRST_ITEM)
        size = chunk_size(vectors, self.head.num_classes)
        best = [score(some).topk(count, 1) for some in torch.split(vectors, size)]
        return {
            "prediction": self.head.predict(outputs),
            "recommended": torch.cat([b.indices for b in best]).unsqueeze(1),
            "score": torch.cat([b.values for b in best]).unsqueeze(1),
        }

    def _judge(self, batch: SequenceBatch, name: str) -> None:
        present = has_target(batch.targets)
        vectors, targets = flat_steps(self(batch), batch.targets, has_item(batch.targets))
        ranking = rank_in_chunks(
            vectors, self.head.all_scores(), targets, self.head.num_classes, self.k, self.ties,
            with_losses=True,
        )  # fmt: skip
        judge = cast(Judge, self.judges[name])
        judge.metrics.update(
            ranks=ranking.ranks, top=ranking.top, unseen=present.sum() - len(targets)
        )
        if len(targets):
            judge.loss.update(ranking.losses)

    def _references(self, data: SequenceData) -> NextItemReferences:
        if self._known is None or self._known.data is not data:
            self._known = NextItemReferences(
                data, self.metrics(), self.k, self.ties, self.reference_scores,
                lambda *told: self.tell(*told),
            )  # fmt: skip
        return self._known


def has_item(targets: Tensor) -> Tensor:
    """True where the next item is known: neither padding nor never seen in training."""
    return targets > UNKNOWN_ID
