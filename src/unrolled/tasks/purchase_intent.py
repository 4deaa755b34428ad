"""Will this session buy?"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torchmetrics import MeanSquaredError, MetricCollection
from torchmetrics.classification import BinaryCalibrationError

from unrolled.data.batch import SequenceBatch, has_target
from unrolled.data.module import SequenceData
from unrolled.data.schema import Schema
from unrolled.errors import UserError
from unrolled.metrics.binary import AUROC, AveragePrecision
from unrolled.metrics.calibration import Scaled, Temperature, scale
from unrolled.metrics.counting import NumSequences
from unrolled.metrics.log_loss import LogLoss
from unrolled.metrics.undefined import compute_each
from unrolled.models.readout import EveryStep
from unrolled.tasks.base import SequenceTask
from unrolled.tasks.boosted_trees import boosted_trees, installed
from unrolled.tasks.events_seen import first_events, outputs_after
from unrolled.tasks.judge import Judge, judge_predictions, share_kinds
from unrolled.tasks.targets import judged, padded, trained_on

log = logging.getLogger(__name__)
RANKING = ("auroc", "average_precision")
"""The metrics that are also told by number of events seen."""
EVENTS_SEEN = (1, 2, 3, 5, 10, 20)


class PurchaseIntent(SequenceTask):
    """The probability that a session ends with a purchase.

    It is asked at a session's last event. With `readout=every_step` the model is trained to answer
    after every event, all in one pass, and `unrolled predict` gives the probability as the session
    unfolds.

    A model that was trained to answer after every event is also tested on what was seen early:
    `test/auroc@5` is over all sessions of the test split, each cut to its first 5 events; those
    that are shorter are seen whole. Of a model that was trained on whole sessions such a number
    would mislead: it takes the first event of a long session for a session that ended there, and
    may rank worse than chance.

    A temperature (Guo et al. 2017) is fitted on the validation sessions each time they are judged,
    with `every_step` on the answers after all their events, and kept in the checkpoint.
    `log_loss_scaled` and `calibration_error_scaled` are of the probabilities whose log-odds are
    divided by it, and so is the column `probability_scaled` of predictions.

    Args:
        model: From a batch to the outputs of its head.
        first_events: Ask after the first so many events, in training and in every test; None asks
            of whole sessions.
        events_seen: After how many events the test sessions are judged besides; None takes 1, 2,
            3, 5, 10 and 20 where the model learns to answer after every event, and none elsewhere.
        reference: A model of another kind that is trained and tested on the same sessions, to be
            shown beside the result: gradient-boosted trees on features of the session; they need
            the extra `references`.
        **options: As every task has.
    """

    main_metric = "auroc"
    monitor = "val/auroc"
    mode = "max"
    temperature: Tensor

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        scheduler: Any = None,
        regularizers: Any = (),
        loss_reduction: Literal["mean", "sum"] = "mean",
        over_time: Literal["mean", "sum"] = "mean",
        first_events: PositiveInt | None = None,
        events_seen: Sequence[PositiveInt] | None = None,
        reference: Literal["none", "boosted_trees"] = "none",
    ) -> None:
        super().__init__(model, optimizer, scheduler, regularizers, loss_reduction, over_time)
        self.first_events = first_events
        self.answers_early = isinstance(model.readout, EveryStep)
        if events_seen is None:
            events_seen = EVENTS_SEEN if self.answers_early else ()
        self.events_seen = [n for n in sorted({*events_seen}) if n < (first_events or n + 1)]
        self.reference = reference
        self.register_buffer("temperature", torch.ones((), dtype=torch.float64))
        self.held_out = Temperature()
        self.early = nn.ModuleDict()

    def check_schema(self, schema: Schema) -> None:
        """The question is yes or no, of a session: it needs two classes and one label for each."""
        if schema.num_classes != 2:
            raise UserError(
                f"task=purchase_intent needs data with two classes; these have "
                f"{schema.num_classes}; use data=shop or data=clickstream"
            )
        if schema.per_step:
            raise UserError(
                "task=purchase_intent asks for one label a sequence; these data have one for each "
                "step; use data=shop or data=clickstream"
            )
        if self.answers_early and not getattr(self.model.encoder, "causal", True):
            raise UserError(
                "readout=every_step answers after each event of a session; this model has seen the "
                "events that follow. Use one that goes forward only, or readout=last"
            )

    def metrics(self) -> dict[str, Any]:
        """AUROC, average precision, log loss in nats, Brier score, calibration error in 15 bins."""
        return {
            "auroc": AUROC(),
            "average_precision": AveragePrecision(),
            "log_loss": LogLoss(),
            # The squared error of a probability is the Brier score.
            "brier": MeanSquaredError(),
            "calibration_error": BinaryCalibrationError(n_bins=15, norm="l1"),
            "sequences": NumSequences(),
        }

    def scaled_metrics(self) -> dict[str, Any]:
        """What the temperature changes, with it."""
        temperature = float(self.temperature)
        return {
            f"{name}_scaled": Scaled(metric, temperature)
            for name, metric in self.metrics().items()
            if name in ("log_loss", "brier", "calibration_error")
        }

    def metric_input(self, outputs: Tensor) -> Tensor:
        """The probability of class 1."""
        return self.model.head.expectation(outputs)

    def trivial_input(self, train_targets: Tensor) -> Tensor:
        """The share of sessions that buy."""
        return train_targets.float().mean()

    def predictions(self, outputs: Tensor) -> dict[str, Tensor]:
        """The class, its probability, and the probability scaled by the temperature."""
        head = self.model.head
        probability = head.expectation(outputs)
        return {
            "prediction": head.predict(outputs),
            "probability": probability,
            "probability_scaled": scale(probability, self.temperature),
        }

    def forward(self, batch: SequenceBatch) -> Tensor:
        """The outputs of the head, `[batch, output]` or `[batch, time, output]`."""
        return super().forward(self._asked(batch))

    def training_step(self, batch: SequenceBatch, batch_idx: int) -> Tensor:
        """The loss of one batch.

        Raises:
            UserError: When every event is to be answered in a stream, where only the window with
                a session's end has its label.
        """
        if batch.continues is not None and self.answers_early:
            raise UserError(
                "data.batching=stream has a session's label where the session ends; to answer "
                "after every event (readout=every_step) use packed, bucketed or random"
            )
        return super().training_step(self._asked(batch), batch_idx)

    def _asked(self, batch: SequenceBatch) -> SequenceBatch:
        if self.first_events is None:
            return batch
        if batch.continues is not None:
            raise UserError(
                "task.first_events: the batches of a stream are windows, which need not begin "
                "where their session does; use batches of whole sequences"
            )
        return first_events(batch, self.first_events)

    def _judge(self, batch: SequenceBatch, name: str) -> None:
        batch = self._asked(batch)
        outputs = self(batch)
        losses = self.losses(outputs, batch)
        outputs, labels = padded(outputs, batch)
        items, targets = judged(outputs, labels, batch.lengths)
        probabilities = self.metric_input(items)
        judge = cast(Judge, self.judges[name])
        judge.update(probabilities, targets, losses)
        if name == "val":
            if outputs.dim() == 3:
                # Where every event is answered, every answer is to be believed.
                asked = trained_on(outputs, labels, batch.lengths)
                present = has_target(asked)
                probabilities, targets = self.metric_input(outputs[present]), asked[present]
            self.held_out.update(probabilities, targets)
        # The window of a stream need not begin where its session does.
        elif name == "test" and batch.continues is None:
            for count in self.events_seen:
                seen = (
                    outputs_after(outputs, batch.lengths, count)
                    if outputs.dim() == 3
                    else self(first_events(batch, count))
                )
                early = cast(MetricCollection, self.early[str(count)])
                early.update(self.metric_input(seen), targets)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics, and fit the temperature."""
        super().on_validation_epoch_end()
        share_kinds([self.held_out])
        self.temperature.copy_(self.held_out.compute())
        self.held_out.reset()

    def on_test_start(self) -> None:
        """A judge for each test set, and for each number of events seen."""
        super().on_test_start()
        for name in self._tests:
            cast(Judge, self.judges[name]).metrics.add_metrics(self.scaled_metrics())
            self.judges[name].to(self.device)
        self.early = nn.ModuleDict(
            {
                str(count): MetricCollection(
                    {"auroc": AUROC(), "average_precision": AveragePrecision()},
                    compute_groups=False,
                )
                for count in self.events_seen
            }
        ).to(self.device)

    def on_test_epoch_end(self) -> None:
        """Log the metrics; `events_seen` is the table of those by number of events seen."""
        super().on_test_epoch_end()
        if "test" not in self._tests:
            return
        self.results["test/temperature"] = float(self.temperature)
        columns: dict[str, list[float]] = {name: [] for name in RANKING}
        share_kinds(self.early.modules())
        for count, module in self.early.items():
            metrics = cast(MetricCollection, module)
            # Of streams there are none, on any process.
            if not metrics["auroc"].metric_state["preds"]:
                return
            values, reasons = compute_each(metrics.items())
            self.undefined |= {f"test/{name}@{count}": why for name, why in reasons.items()}
            for name, value in values.items():
                self.results[f"test/{name}@{count}"] = float(value)
                columns[name].append(float(value))
        if self.events_seen:
            self.tables["events_seen"] = {
                "events": torch.tensor(self.events_seen),
                **{name: torch.tensor(v, dtype=torch.float64) for name, v in columns.items()},
            }

    def trivial_scores(self, data: SequenceData) -> dict[str, float]:
        """As every task's; neither the temperature nor what was seen change a constant answer."""
        scores = super().trivial_scores(data)
        for test in data.test_sources():
            for name in self.scaled_metrics():
                scores[f"{test}/{name}"] = scores[f"{test}/{name.removesuffix('_scaled')}"]
        for count in self.events_seen if data.with_tests else ():
            for name in RANKING:
                scores[f"test/{name}@{count}"] = scores[f"test/{name}"]
        return scores

    def metric_direction(self) -> dict[str, str]:
        """Ranking up, the rest down."""
        early = (f"{n}@{c}" for n in RANKING for c in self.events_seen)
        return {
            **super().metric_direction(),
            **dict.fromkeys(self.scaled_metrics(), "min"),
            **dict.fromkeys(early, "max"),
        }

    def protocol(self) -> dict[str, str]:
        """Which sessions are judged, and what is seen of them."""
        asked = "the whole session"
        if self.first_events is not None:
            asked = f"the first {self.first_events} events of the session"
        told = {"asked after": asked}
        if self.answers_early:
            told["answers"] = "after every event, not knowing whether the session goes on"
        if self.events_seen:
            told["@n"] = "all test sessions, each cut to its first n events, shorter ones whole"
        if not self.answers_early:
            learnt = "whole sessions" if self.first_events is None else "what is asked after"
            told["early answers"] = (
                f"not learnt: the model was trained on {learnt} only, and its probabilities after "
                "fewer events mean little"
                + (" (test/*@n)" if self.events_seen else "")
                + "; experiment=purchase_intent_unfolding learns to answer after every event"
            )
        return told

    def references(self, data: SequenceData) -> dict[str, dict[str, float]]:
        """The trees, trained and tested on the same sessions, anew for each number of events."""
        if self.reference == "none":
            return {}
        if not installed():
            log.warning("task.reference=boosted_trees needs scikit-learn: pip install "
                        "'unrolled[references]'; it is left out")  # fmt: skip
            return {}
        scores = {}
        counts = [*self.events_seen, self.first_events]
        for done, count in enumerate(counts):
            self.tell("reference boosted trees, models", done, len(counts))
            judged = judge_predictions(self.metrics(), *boosted_trees(data, count))
            whole = count == self.first_events
            for name, value in judged.items():
                if whole or name in RANKING:
                    scores[f"test/{name}" if whole else f"test/{name}@{count}"] = value
        self.tell("reference boosted trees, models", len(counts), len(counts))
        return {self.reference: scores}
