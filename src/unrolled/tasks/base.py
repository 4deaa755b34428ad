"""What every task shares: one loss, one set of metrics, and a scale to read them on."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Protocol, cast, runtime_checkable

import lightning
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from unrolled.data.batch import SequenceBatch, has_target
from unrolled.data.batching import Source
from unrolled.data.module import SequenceData
from unrolled.data.processes import gather, num_processes, rank
from unrolled.data.schema import Schema
from unrolled.errors import UserError
from unrolled.metrics.undefined import NOTHING
from unrolled.models.readout import EveryStep
from unrolled.models.sequence import SequenceModel
from unrolled.tasks.carried_states import CarriedStates
from unrolled.tasks.finite_outputs import FiniteOutputs, NotFiniteError
from unrolled.tasks.judge import Judge, judge_constant
from unrolled.tasks.row_tables import RowTables
from unrolled.tasks.running_mean import RunningMean
from unrolled.tasks.schedule import fitted, tell_steps
from unrolled.tasks.targets import asked, judged, padded, trained_on
from unrolled.tasks.telling import Tell, untold

log = logging.getLogger(__name__)


@runtime_checkable
class Reinforced(Protocol):
    """An encoder that also learns by trial and error, from whether the prediction was right."""

    def reinforce_loss(self, reward: Tensor) -> Tensor:
        """The loss that goes with the last forward pass, rewards and loss `[batch]`."""
        ...


class SequenceTask(lightning.LightningModule, ABC):
    """A question about sequences or about their steps.

    Args:
        model: From a batch to the outputs of its head.
        optimizer: Makes the optimizer from the parameters.
        scheduler: Makes the learning-rate scheduler from the optimizer; it moves at each step.
        regularizers: Penalties of the encoder's outputs `[batch, time, size]` and lengths, added
            to the loss.
        loss_reduction: Over the sequences of a global batch.
        over_time: Of the losses of a sequence's steps, where every step has one. The tutorials
            sum, which makes gradients grow with the length.
    """

    main_metric: str
    """The metric that answers the question, without the split: `error`, `auroc`."""
    monitor: str
    """The validation metric that says which checkpoint is best."""
    mode: ClassVar[Literal["min", "max"]]
    """Whether less or more of it is better."""
    tell: Tell = staticmethod(untold)
    """Is told how far the references are."""

    def __init__(
        self,
        model: SequenceModel,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        regularizers: Sequence[nn.Module] = (),
        loss_reduction: Literal["mean", "sum"] = "mean",
        over_time: Literal["mean", "sum"] = "mean",
    ) -> None:
        super().__init__()
        self.model = model
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.regularizers = nn.ModuleList(regularizers)
        self.loss_reduction = loss_reduction
        self.over_time = over_time
        self.results: dict[str, float] = {}
        self.undefined: dict[str, str] = {}
        self.tables: dict[str, dict[str, Tensor]] = {}
        self.judges = nn.ModuleDict({"val": Judge(self.metrics())})
        self._finite: FiniteOutputs | None = None
        self._unlogged = RunningMean()
        self._logged_step = 0
        self._carried = CarriedStates()
        self._row_tables = RowTables(model, optimizer)
        # Asked once: to look for the method costs as much as a small layer.
        self._reinforced = isinstance(model.encoder, Reinforced)

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the name of the running hook here some 40 times a step, and a module's
        # own `__setattr__` looks for parameters first: a tenth of a small model's step.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def setup(self, stage: str) -> None:
        """Choose the layout of the tables' gradients, before DDP asks for it."""
        self._row_tables.choose_layout(self.trainer)

    @abstractmethod
    def metrics(self) -> dict[str, Any]:
        """The metrics by name; each takes `metric_input` and the targets, `[item]`."""

    @abstractmethod
    def metric_input(self, outputs: Tensor) -> Tensor:
        """What the metrics judge: of outputs `[item, output]` a class or a number, `[item]`."""

    @abstractmethod
    def trivial_input(self, train_targets: Tensor) -> Tensor:
        """What a model that sees no features would give to the metrics, for one item."""

    def check_schema(self, schema: Schema) -> None:
        """Refuse data that the question can't be asked of.

        Raises:
            UserError: Saying what the task needs.
        """

    def forward(self, batch: SequenceBatch) -> Tensor:
        """The outputs of the head, `[batch, output]` or `[batch, time, output]`.

        Of packed steps `[N, output]` instead of the latter; `targets.flatten_steps` gives the steps
        of both alike.
        """
        return self.model.decode(self.encode(batch), batch.lengths, batch.packed)

    def encode(self, batch: SequenceBatch) -> Tensor:
        """The encoder's outputs, `[batch, time, size]`, packed `[N, size]`.

        In a stream the encoder goes on where the batch before stopped; gradients end where the
        batch begins (truncated backpropagation through time).
        """
        before = None
        if batch.continues is not None:
            before = self._carried.take(batch, self.training)
            if not getattr(self.model.encoder, "causal", True):
                raise UserError(
                    "model: this encoder reads the future, which a window of a stream has not; use "
                    "one that goes forward only (model.bidirectional=false), or other data.batching"
                )
        try:
            encoded, state = self.model.encode(batch, before)
        except ValueError as error:
            # An encoder that has no place for so many steps, or wants images.
            raise UserError(f"model: {error}") from error
        if batch.continues is not None:
            self._carried.keep(batch, self.training, state)
        return encoded

    def losses(self, outputs: Tensor, batch: SequenceBatch) -> Tensor:
        """The loss of each sequence, `[batch]`; 0 for one that has no target."""
        outputs, targets = padded(outputs, batch)
        labels = targets.dim() == 1
        targets = trained_on(outputs, targets, batch.lengths)
        # Of a stream's rows only those with the end of a sequence have its label.
        if labels and targets.dim() == 1 and batch.continues is None:
            return self.model.head.loss(outputs, targets)
        present = has_target(targets)
        losses = self.model.head.loss(outputs, targets.masked_fill(~present, 0))
        losses = losses.masked_fill(~present, 0)
        if losses.dim() == 1:
            return losses
        total = losses.sum(1)
        return total if self.over_time == "sum" else total / present.sum(1).clamp(min=1)

    def training_step(self, batch: SequenceBatch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        encoded = self.encode(batch)
        outputs = self.model.decode(encoded, batch.lengths, batch.packed)
        losses = self.losses(outputs, batch)
        if self._reinforced:
            items, targets = judged(*padded(outputs, batch), batch.lengths)
            right = self.model.head.predict(items) == targets
            encoder = cast(Reinforced, self.model.encoder)
            losses = losses + encoder.reinforce_loss(right.to(losses.dtype))
        if self.loss_reduction == "sum":
            loss = losses.sum()
            # Lightning takes the mean over the batches that are accumulated.
            scale: float = self.trainer.world_size * self.trainer.accumulate_grad_batches
        else:
            loss = losses.mean()
            scale = batch.weight * batch.step_weight
        # Gradients are averaged over the processes: each part counts by its share of the sequences.
        if scale != 1.0:
            loss = loss * scale
        for regularizer in self.regularizers:
            # Penalties are means, whatever becomes of the losses.
            penalty = regularizer(batch.pad(encoded), batch.lengths)
            loss = loss + batch.weight * batch.step_weight * penalty
        # `self.log` costs as much as a small model's forward pass: sum here, log every k steps.
        self._unlogged.add(loss.detach())
        return loss

    def on_after_backward(self) -> None:
        """Let each row of a table's gradient stand once, for those who look at gradients."""
        self._row_tables.unite()

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip like Lightning, also if some gradients are rows of a table."""
        if not self._row_tables:
            super().configure_gradient_clipping(
                optimizer, gradient_clip_val, gradient_clip_algorithm
            )
        elif gradient_clip_val:
            by_value = gradient_clip_algorithm == "value"
            self._row_tables.clip(optimizer, gradient_clip_val, by_value=by_value)

    def on_train_batch_end(self, outputs: Any, batch: SequenceBatch, batch_idx: int) -> None:
        """Log the mean loss of the last `log_every_n_steps` steps, of all processes."""
        trainer = self.trainer
        step = trainer.global_step
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]  # Set by a connector.
        # While gradients are accumulated the step stays the same.
        due = every and step % every == 0 and step != self._logged_step
        # There is no loss where all steps since the last time were left out.
        if due and self._unlogged.count:
            self._logged_step = step
            mean = self._unlogged.take()
            if trainer.world_size > 1:
                mean = cast(Tensor, trainer.strategy.reduce(mean, reduce_op="mean"))
            self._log({"train/loss": mean}, step)

    def on_validation_start(self) -> None:
        """Take over the first process's buffers, on all processes.

        DDP does so in the first forward pass, where a process without a sequence to validate would
        be missing, and the others would wait for it for ever.
        """
        model = self.trainer.strategy.model
        if isinstance(model, DistributedDataParallel) and model.broadcast_buffers:
            for buffer in self.buffers():
                torch.distributed.broadcast(buffer, 0)
            model.require_forward_param_sync = False
        self._finite = FiniteOutputs(self)

    def validation_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        """Judge one batch."""
        self._judge(batch, "val")

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation set: NaN where the model did not answer."""
        self._log_metrics(["val"], self._finite.close() if self._finite else None)

    def on_test_start(self) -> None:
        """A judge for each test set."""
        data = cast(SequenceData, self.trainer.datamodule)  # type: ignore[attr-defined]
        self._tests = list(data.test_sources())
        for name in self._tests:
            self.judges[name] = Judge(self.metrics()).to(self.device)
        self._finite = FiniteOutputs(self)

    def test_step(self, batch: SequenceBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Judge one batch."""
        if self._finite is not None:
            self._finite.test = dataloader_idx
        self._judge(batch, self._tests[dataloader_idx])

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test sets.

        Raises:
            NotFiniteError: When the model did not answer.
        """
        if self._finite is not None:
            data = cast(SequenceData, self.trainer.datamodule)  # type: ignore[attr-defined]
            error = self._finite.close(sum(map(len, data.test_sources().values())))
            if error is not None:
                raise error
        self._log_metrics(self._tests)

    def predict_step(self, batch: SequenceBatch, batch_idx: int) -> dict[str, Tensor]:
        """What `predictions` says of one batch, with the sequences' ids."""
        return {"ids": batch.ids, **self.predict_batch(batch)}

    def predict_batch(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Columns of the output of `unrolled predict`.

        Each is `[batch]`, `[batch, time]`, or for lists of one length `[batch, 1, k]`.
        """
        return self.predictions(self(batch))

    def predictions(self, outputs: Tensor) -> dict[str, Tensor]:
        """Columns of the output of `unrolled predict`, each `[batch]` or `[batch, time]`."""
        return {"prediction": self.model.head.predict(outputs)}

    def references(self, data: SequenceData) -> dict[str, dict[str, float]]:
        """What simple methods score on the test sets: the method, then `test/error` and so on."""
        return {}

    def protocol(self) -> dict[str, str]:
        """What has to be known to compare the metrics with those of others; written beside them."""
        return {}

    def target_columns(self, targets: Tensor) -> dict[str, Tensor]:
        """Columns of the targets beside those of `predictions`, each `[batch]`, `[batch, time]`."""
        return {"target": targets}

    def undefined_on(self, data: SequenceData, source: Source, metric: str) -> str | None:
        """Why a metric has no value on some sequences, whatever the model; None where it has one.

        Asked of the validation set before training, for what chooses the checkpoint.

        Args:
            data: With the training targets.
            source: The sequences that are judged.
            metric: Its name without the split, `loss` among them.
        """
        every_step = isinstance(self.model.readout, EveryStep)
        targets = asked(source.targets(), every_step)
        if len(targets) == 0:
            return NOTHING
        if metric not in (metrics := self.metrics()):
            return None
        answer = self.trivial_input(asked(data.train_targets(), every_step))
        return judge_constant({metric: metrics[metric]}, answer, targets)[1].get(metric)

    def most_judged(self) -> int | None:
        """Steps that a validation judges in reasonable time; None where each costs little."""
        return None

    def trivial_scores(self, data: SequenceData) -> dict[str, float]:
        """Every metric on the test sets for a model that sees no features; `test/error`.

        What the data know exactly goes before what a constant answer scores.
        """
        every_step = isinstance(self.model.readout, EveryStep)
        answer = self.trivial_input(asked(data.train_targets(), every_step))
        # They are of a target at every step, and of the mean over time.
        known = {} if data.schema.per_step and not every_step else data.trivial_scores()
        if self.over_time == "sum":
            known = {name: v for name, v in known.items() if name.rpartition("/")[2] != "loss"}
        scores = {}
        for test, source in data.test_sources().items():
            targets = asked(source.targets(), every_step)
            computed, _ = judge_constant(self.metrics(), answer, targets)
            for name in [*computed, "loss"]:
                exact = known.get(f"{test}/{name}", known.get(name, computed.get(name)))
                if exact is not None:
                    scores[f"{test}/{name}"] = exact
        return scores

    def metric_direction(self) -> dict[str, str]:
        """For each metric, whether `max` or `min` is better; metrics without one are left out."""
        better = {n: getattr(m, "higher_is_better", None) for n, m in self.metrics().items()}
        return {name: "max" if b else "min" for name, b in better.items() if b is not None}

    def configure_optimizers(self) -> Any:
        """The optimizer, with the scheduler moving at every step.

        Raises:
            UserError: When one of them refuses its arguments.
        """
        try:
            optimizer = self.make_optimizer(self._row_tables.groups(self.parameters()))
            if self.make_scheduler is None:
                return optimizer
            scheduler = fitted(self.make_scheduler, optimizer, self.trainer)
        except (ValueError, ZeroDivisionError) as error:
            raise UserError(f"optimizer or scheduler: {error}") from error
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the loss that is not logged yet, and the state that a stream carries."""
        checkpoint["unlogged_losses"] = gather(self._unlogged.state())
        checkpoint["carried_states"] = self._carried.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them up again."""
        self._unlogged = RunningMean.of_one(checkpoint["unlogged_losses"], rank(), num_processes())
        self._carried.load_state_dict(checkpoint["carried_states"])

    @property
    def unlogged(self) -> RunningMean:
        """The losses since the last time that their mean was logged."""
        return self._unlogged

    def take_back(self, total: Tensor | None, count: int) -> None:
        """Undo what a step has left that does not count, because it is not finite.

        Args:
            total: Sum of the `unlogged` losses before the step.
            count: Number of these losses.
        """
        self._unlogged = RunningMean(total, count)
        # Else a stream would carry it on.
        self._carried.forget_nan()

    def on_train_start(self) -> None:
        """Take a restored state to where the module is by now."""
        tell_steps(self.trainer)
        self._carried.to(self.device)
        # Else the first of the accumulated batches after a resume would log the last step again.
        self._logged_step = self.trainer.global_step

    def _judge(self, batch: SequenceBatch, name: str) -> None:
        outputs = self(batch)
        items, targets = judged(*padded(outputs, batch), batch.lengths)
        judge = cast(Judge, self.judges[name])
        judge.update(self.metric_input(items), targets, self.losses(outputs, batch))

    def _log_metrics(self, names: list[str], faulty: NotFiniteError | None = None) -> None:
        judges = {name: cast(Judge, self.judges[name]) for name in names}
        values = {
            f"{name}/{metric}": value
            for name, judge in judges.items()
            for metric, value in judge.take().items()
        }
        if faulty is not None:
            log.warning("step %d: %s", self.trainer.global_step, faulty)
            values = {name: torch.full_like(v.float(), torch.nan) for name, v in values.items()}
        # Lightning keeps logged values in float32, where counts end at 2^24; `results` is exact.
        self.results = {name: float(value) for name, value in values.items()}
        self.undefined = {
            f"{name}/{metric}": reason
            for name, judge in judges.items()
            for metric, reason in judge.undefined.items()
        }
        # What is not defined is in no logger: a number would be read, NaN would end a sweep.
        known = {name: value for name, value in values.items() if name not in self.undefined}
        self._log(known, self.trainer.global_step)

    def _log(self, values: dict[str, Tensor], step: int) -> None:
        """Give values to the loggers under the number of optimizer steps done so far.

        Lightning's own count for loggers is one too high after a resume at the end of an epoch.
        """
        for name, value in values.items():
            self.log(
                name,
                value.float(),
                prog_bar=name in ("train/loss", f"val/{self.main_metric}"),
                logger=False,
                sync_dist=not name.startswith("train/"),
            )
        row = {name: float(value) for name, value in values.items()}
        if not self.trainer.testing:
            # A test is of the best checkpoint, whichever epoch the run is in.
            row["epoch"] = self.current_epoch
        for logger in self.loggers:
            logger.log_metrics(row, step)
