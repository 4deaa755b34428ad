"""What happens next, and when?"""

from __future__ import annotations

import logging
import math
from typing import Any, cast

import torch
from torch import Tensor

from unrolled.data.batch import NO_TARGET, SequenceBatch
from unrolled.data.batching import Source
from unrolled.data.module import SequenceData
from unrolled.data.schema import Schema
from unrolled.data.store import JaggedSequences
from unrolled.errors import UserError
from unrolled.metrics.forecast import (
    Forecast,
    MeanLogLikelihood,
    NumEvents,
    TimeMAE,
    TimeRMSE,
    TypeAccuracy,
)
from unrolled.metrics.undefined import NOTHING
from unrolled.models.point_process import PointProcessHead
from unrolled.models.readout import EveryStep
from unrolled.tasks.base import SequenceTask
from unrolled.tasks.hawkes_reference import LARGEST_NUM_TYPES, hawkes_reference
from unrolled.tasks.judge import Judge, judge_predictions
from unrolled.tasks.targets import flatten_steps, padded

log = logging.getLogger(__name__)


class NextEvent(SequenceTask):
    """The type of the next event and the time until it: a marked temporal point process.

    Asked at every event but the last of a sequence, which has no next one: a sequence of n events
    has n - 1 answers, all given its first event. That nothing happened between the last event and
    the end of the observation is not counted. Times are in the unit of the log's own, and so is
    the density whose logarithm is the score.
    """

    main_metric = "log_likelihood"
    monitor = "val/log_likelihood"
    mode = "max"

    def check_schema(self, schema: Schema) -> None:
        """The question needs targets of a type and a time, and an encoder that looks back only."""
        if schema.target_feature is None or not schema.per_step:
            raise UserError(
                "task=next_event needs an event log with types and times: data=hawkes, "
                "data=taobao_tpp, or a log of yours with data.target=next_event"
            )
        if not isinstance(self.model.head, PointProcessHead):
            raise UserError(
                f"head: {type(self.model.head).__name__} does not say when; task=next_event needs "
                "head=lognormal_mixture or head=exponential"
            )
        if not isinstance(self.model.readout, EveryStep):
            raise UserError("task=next_event asks at every event: use readout=every_step")
        if not getattr(self.model.encoder, "causal", True):
            raise UserError(
                "task=next_event: this encoder reads the future, where the answers stand; use one "
                "that goes forward only (model.bidirectional=false)"
            )

    @property
    def head(self) -> PointProcessHead:
        """The model's."""
        return cast(PointProcessHead, self.model.head)

    def metrics(self) -> dict[str, Any]:
        """Log-likelihood in nats an event, whole and by parts; type accuracy; errors of the time.

        The absolute error is that of the predicted median, the squared one that of the predicted
        mean.
        """
        return {
            "log_likelihood": MeanLogLikelihood(),
            "time_log_likelihood": MeanLogLikelihood("time"),
            "type_log_likelihood": MeanLogLikelihood("type"),
            "type_accuracy": TypeAccuracy(),
            "time_mae": TimeMAE(),
            "time_rmse": TimeRMSE(),
            "events": NumEvents(),
        }

    def metric_input(self, outputs: Tensor) -> Tensor:
        """The log-probabilities of the types, whenever the event comes, `[event, type]`."""
        return self.head.log_probabilities(outputs)

    def trivial_input(self, train_targets: Tensor) -> Tensor:
        """A Poisson process: its log rate, then the log frequencies of the types, `[1 + type]`.

        Each type is counted once more than it was seen.
        """
        counts = torch.bincount(train_targets[:, 0].long(), minlength=self.head.num_classes) + 1.0
        counts[0] = 0  # Padding is no type.
        rate = 1 / train_targets[:, 1].mean()
        return torch.cat([rate.view(1), counts.double() / counts.sum()]).log()

    def forecast(self, outputs: Tensor, targets: Tensor) -> Forecast:
        """What outputs `[event, output]` said of the events `[event, 2]`."""
        time, kind = self.head.log_likelihood(outputs, targets)
        likeliest = self.metric_input(outputs).argmax(-1)
        median, mean = self.head.median(outputs), self.head.expectation(outputs)
        return Forecast(time, kind, likeliest, median, mean)

    def losses(self, outputs: Tensor, batch: SequenceBatch) -> Tensor:
        """The negative log-likelihood of each sequence, `[batch]`: mean or sum over its steps."""
        outputs, targets = padded(outputs, batch)
        present = ~targets[..., 0].isnan()
        steps = self.head.loss(outputs[present], targets[present])
        losses = steps.new_zeros(present.shape).masked_scatter(present, steps)
        total = losses.sum(1)
        return total if self.over_time == "sum" else total / present.sum(1).clamp(min=1)

    def predictions(self, outputs: Tensor) -> dict[str, Tensor]:
        """The likeliest type and its probability; median and mean of the time until the event."""
        log_probability, kind = self.metric_input(outputs).max(-1)
        return {
            "prediction": kind,
            "prediction_probability": log_probability.exp(),
            "median_time": self.head.median(outputs),
            "mean_time": self.head.expectation(outputs),
        }

    def target_columns(self, targets: Tensor) -> dict[str, Tensor]:
        """The type, an id, and the time until the event."""
        kind = targets[..., 0].nan_to_num(NO_TARGET).long()
        return {"target": kind, "target_time": targets[..., 1]}

    def trivial_scores(self, data: SequenceData) -> dict[str, float]:
        """Every metric on the test sets for a Poisson process with the training data's rate."""
        known = data.train_targets()
        if len(known) == 0:  # Other data than a run's own have no training sequences.
            return {}
        log_rate, *log_types = self.trivial_input(known)
        frequencies = torch.stack(log_types)
        scores: dict[str, float] = {}
        for test, source in data.test_sources().items():
            targets = source.targets()
            gaps = targets[:, 1].clamp(min=float(self.head.min_gap))
            every = torch.ones_like(gaps)
            forecast = Forecast(
                log_rate - log_rate.exp() * gaps,
                frequencies[targets[:, 0].long()],
                (every * frequencies.argmax()).long(),
                every * math.log(2) / log_rate.exp(),
                every / log_rate.exp(),
            )
            judged = judge_predictions(self.metrics(), forecast, targets)
            scores |= {f"{test}/{name}": value for name, value in judged.items()}
        return scores

    def undefined_on(self, data: SequenceData, source: Source, metric: str) -> str | None:
        """Only where there is no event that has one before it."""
        return None if len(source.targets()) else NOTHING

    def references(self, data: SequenceData) -> dict[str, dict[str, float]]:
        """A Hawkes process fitted to the training sequences, on the test set."""
        train, test = (cast(JaggedSequences, data.source(s)) for s in ("train", "test"))
        if self.head.num_classes > LARGEST_NUM_TYPES:
            log.warning(
                "there is no Hawkes process beside the result: it has parameters for each pair of "
                f"types, of which there are {self.head.num_classes}; {LARGEST_NUM_TYPES} at most"
            )
            return {}
        if len(train) == 0 or len(test) == 0:
            return {}
        scores = hawkes_reference(
            train, test, self.metrics(), self.head.num_classes,
            float(self.head.min_gap), float(self.head.long_gap),
        )  # fmt: skip
        return {"hawkes": {f"test/{name}": value for name, value in scores.items()}}

    def protocol(self) -> dict[str, str]:
        """What the metrics are metrics of."""
        return {
            "positions": "every event after the first of each test sequence, given all before it",
            "log-likelihood": "nats an event, of a density in the unit of the log's times; "
            f"gaps below {float(self.head.min_gap):.3g} count as that; the time after the last "
            "event is not counted",
            "points": "time_mae of the median, time_rmse of the mean (of the time until the "
            f"event or until {float(self.head.long_gap):.3g}), type_accuracy of the likeliest type "
            "whenever the event comes",
            "trivial": "a Poisson process with the rate and the types of the training events",
        }

    def _judge(self, batch: SequenceBatch, name: str) -> None:
        outputs = self(batch)
        items, targets = flatten_steps(outputs, batch)
        judge = cast(Judge, self.judges[name])
        forecast = self.forecast(items, targets)
        judge.update(forecast, targets, self.losses(outputs, batch))
