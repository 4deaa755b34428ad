"""What every task shares: one loss, one set of metrics, and a scale to read them on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, cast

import lightning
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric, MetricCollection

from unrolled.data.batch import SequenceBatch
from unrolled.data.module import SequenceData
from unrolled.data.schema import Schema
from unrolled.errors import UserError
from unrolled.models.sequence import SequenceModel


class RunningMean:
    """The mean of what was added since it was last taken, without waiting for the device.

    Not a torchmetrics.MeanMetric, whose update costs more than all else in a small training step.

    Args:
        total: Sum so far, a scalar; None before the first value.
        count: Number of values.
    """

    def __init__(self, total: Tensor | None = None, count: int = 0) -> None:
        self.total = total
        self.count = count

    def add(self, value: Tensor) -> None:
        """Add a scalar."""
        self.total = value if self.total is None else self.total.to(value.device) + value
        self.count += 1

    def take(self) -> Tensor:
        """The mean; the next one begins."""
        assert self.total is not None
        mean, self.total, self.count = self.total / self.count, None, 0
        return mean

    def state(self) -> tuple[Tensor | None, int]:
        """The arguments that make it again."""
        return (None if self.total is None else self.total.cpu()), self.count


class SequenceTask(lightning.LightningModule, ABC):
    """A question about whole sequences, with an integer target each.

    Args:
        model: From a batch to the outputs of its head.
        optimizer: Makes the optimizer from the parameters.
        scheduler: Makes the learning-rate scheduler from the optimizer; it moves at each step.
        loss_reduction: Over the sequences of a global batch.
    """

    main_metric: ClassVar[str]
    """The metric that answers the question, without the split: `error`, `auroc`."""
    monitor: ClassVar[str]
    """The validation metric that says which checkpoint is best."""
    mode: ClassVar[Literal["min", "max"]]
    """Whether less or more of it is better."""

    def __init__(
        self,
        model: SequenceModel,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        loss_reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        super().__init__()
        self.model = model
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.loss_reduction = loss_reduction
        self.results: dict[str, float] = {}
        self.val_metrics = MetricCollection(self.metrics(), prefix="val/")
        self.test_metrics = MetricCollection(self.metrics(), prefix="test/")
        self.val_loss = MeanMetric()
        self.test_loss = MeanMetric()
        self._unlogged = RunningMean()
        self._logged_step = 0

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the name of the running hook here some 40 times a step, and a module's
        # own `__setattr__` looks for parameters first: a tenth of a small model's step.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @abstractmethod
    def metrics(self) -> dict[str, Any]:
        """The metrics by name; each takes `metric_input` and the targets."""

    @abstractmethod
    def metric_input(self, outputs: Tensor) -> Tensor:
        """What the metrics judge, `[batch]`: a class or a probability."""

    @abstractmethod
    def trivial_input(self, train_targets: Tensor) -> Tensor:
        """What a model that sees no features would give to the metrics, a scalar."""

    def check_schema(self, schema: Schema) -> None:
        """Refuse data that the question can't be asked of.

        Raises:
            UserError: Saying what the task needs.
        """

    def forward(self, batch: SequenceBatch) -> Tensor:
        """The outputs of the head, `[batch, output]`."""
        outputs: Tensor = self.model(batch)
        return outputs

    def training_step(self, batch: SequenceBatch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        losses = self.model.head.loss(self.model(batch), batch.targets)
        if self.loss_reduction == "sum":
            loss = losses.sum()
            scale: float = self.trainer.world_size
        else:
            loss = losses.mean()
            scale = batch.weight
        # Gradients are averaged over the processes: each part counts by its share of the sequences.
        if scale != 1.0:
            loss = loss * scale
        # `self.log` costs as much as a small model's forward pass: sum here, log every k steps.
        self._unlogged.add(loss.detach())
        return loss

    def on_train_batch_end(self, outputs: Any, batch: SequenceBatch, batch_idx: int) -> None:
        """Log the mean loss of the last `log_every_n_steps` steps, of all processes."""
        trainer = self.trainer
        step = trainer.global_step
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]  # Set by a connector.
        # While gradients are accumulated the step stays the same.
        if every and step % every == 0 and step != self._logged_step:
            self._logged_step = step
            mean = self._unlogged.take()
            if trainer.world_size > 1:
                mean = cast(Tensor, trainer.strategy.reduce(mean, reduce_op="mean"))
            self._log({"train/loss": mean}, step)

    def validation_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        """Judge one batch."""
        self._judge(batch, self.val_metrics, self.val_loss)

    def test_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        """Judge one batch."""
        self._judge(batch, self.test_metrics, self.test_loss)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation set."""
        self._log_metrics("val", self.val_metrics, self.val_loss)

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test set."""
        self._log_metrics("test", self.test_metrics, self.test_loss)

    def predict_step(self, batch: SequenceBatch, batch_idx: int) -> dict[str, Tensor]:
        """What `predictions` says of one batch, with the sequences' ids."""
        return {"ids": batch.ids, **self.predictions(self.model(batch))}

    def predictions(self, outputs: Tensor) -> dict[str, Tensor]:
        """Columns of the output of `unrolled predict`, each `[batch]`."""
        return {"prediction": self.model.head.predict(outputs)}

    def trivial_scores(self, data: SequenceData) -> dict[str, float]:
        """Every metric on the test set for a model that sees no features."""
        targets = data.source("test").targets()
        constant = self.trivial_input(data.train_targets()).to(targets.device)
        metrics = MetricCollection(self.metrics()).to(targets.device)
        for metric in metrics.values():
            # Every process judges the whole test set: there is nothing to add up.
            metric.distributed_available_fn = lambda: False
        metrics.update(constant.expand(len(targets)), targets)
        return {name: float(value) for name, value in metrics.compute().items()}

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
            optimizer = self.make_optimizer(self.parameters())
            if self.make_scheduler is None:
                return optimizer
            scheduler = self.make_scheduler(optimizer)
        except (ValueError, ZeroDivisionError) as error:
            raise UserError(f"optimizer or scheduler: {error}") from error
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the loss that is not logged yet."""
        checkpoint["unlogged_loss"] = self._unlogged.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it up again."""
        self._unlogged = RunningMean(*checkpoint["unlogged_loss"])

    def _judge(
        self, batch: SequenceBatch, metrics: MetricCollection, mean_loss: MeanMetric
    ) -> None:
        outputs = self.model(batch)
        mean_loss.update(self.model.head.loss(outputs, batch.targets))
        metrics.update(self.metric_input(outputs), batch.targets)

    def _log_metrics(self, split: str, metrics: MetricCollection, mean_loss: MeanMetric) -> None:
        values: dict[str, Tensor] = {f"{split}/loss": mean_loss.compute(), **metrics.compute()}
        # Lightning keeps logged values in float32, where counts end at 2^24; `results` is exact.
        self.results = {name: float(value) for name, value in values.items()}
        self._log(values, self.trainer.global_step)
        metrics.reset()
        mean_loss.reset()

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
        for logger in self.loggers:
            logger.log_metrics({**row, "epoch": self.current_epoch}, step)
