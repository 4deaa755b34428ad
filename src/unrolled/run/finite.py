"""Steps whose loss or gradient is not finite: the run ends, or leaves the step out."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import lightning
import pyarrow as pa
import torch
from lightning.pytorch.callbacks import Callback
from pydantic import PositiveInt
from torch import Tensor
from torch.optim import Optimizer

from unrolled.data.batch import SequenceBatch
from unrolled.errors import TrainingError
from unrolled.models.row_gradients import values_of
from unrolled.tasks.base import SequenceTask

log = logging.getLogger(__name__)

SHOWN_IDS = 5
"""So many sequences are named in a message."""


@dataclass
class _Part:
    """What one process had in a step.

    Args:
        losses: Of its batches; several where gradients are accumulated.
        ids: The sequences of each of these batches.
        parameters: Those whose gradient is not finite.
    """

    losses: list[float]
    ids: list[list[int]]
    parameters: list[str]

    @property
    def faulty(self) -> bool:
        return bool(self.parameters) or not all(map(math.isfinite, self.losses))


@dataclass
class _Asked:
    """A step whose answer is on its way from the device."""

    answer: Tensor
    ready: torch.cuda.Event
    step: int
    losses: list[Tensor]
    ids: list[Tensor]


class FiniteCheck(Callback):
    """Looks at the loss and the gradients of every step, before they change the weights.

    The sum of the losses and of the gradients' norms tells: it is finite only if they all are. On
    a GPU, where waiting for it would keep the next step from being queued, `stop` reads the answer
    one step later, and before each checkpoint; `skip` has to know at once, and waits. With
    `trainer.precision=16-mixed` infinite gradients are part of the method (the scaler leaves such
    steps out and makes its factor smaller): there only the loss counts.

    No checkpoint is written with weights that are not finite.

    Args:
        action: `stop` ends the run; `skip` leaves the step out, as if there had been no gradient
            (the scheduler moves on), and counts it in `train/skipped_steps`.
        stop_after: With `skip`, steps in a row that may be left out before the run ends.

    Raises:
        TrainingError: Out of the training, with the step and the sequences of its batch.
    """

    def __init__(
        self, action: Literal["stop", "skip"] = "stop", stop_after: PositiveInt = 10
    ) -> None:
        self.action = action
        self.stop_after = stop_after
        self.skipped = 0
        self.in_a_row = 0
        self._saved = 0
        self._told = False
        self._losses: list[Tensor] = []
        self._ids: list[Tensor] = []
        self._unlogged: tuple[Tensor | None, int] = (None, 0)
        self._logged = 0
        self._asked: _Asked | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Note which checkpoint the run goes on from."""
        self._saved = trainer.global_step
        self._logged = self.skipped

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: Any, batch: SequenceBatch, batch_idx: int
    ) -> None:
        """Keep which sequences are in the step."""
        if not self._ids:
            self._unlogged = (pl_module.unlogged.total, pl_module.unlogged.count)
        self._ids.append(batch.ids)

    def on_before_backward(self, trainer: lightning.Trainer, pl_module: Any, loss: Tensor) -> None:
        """Keep the loss."""
        self._losses.append(loss.detach())

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: Any, optimizer: Optimizer
    ) -> None:
        """Judge the step."""
        losses, ids = self._losses, self._ids
        self._losses, self._ids = [], []
        values = losses if _scaled(trainer) else [*losses, *_norms(_gradients(optimizer))]
        if losses[0].device.type == "cpu" and trainer.world_size == 1:
            # Each of them by itself costs less than to stack them.
            if math.isfinite(sum(value.item() for value in values)):
                self.in_a_row = 0
                return
        else:
            total = torch.stack([value.float() for value in values]).sum()
            if trainer.world_size > 1:
                # Losses differ between the processes, and all have to decide alike.
                torch.distributed.all_reduce(total)
            if total.is_cuda and self.action == "stop":
                self._ask_pending(trainer, pl_module)
                self._asked = _ask(total, trainer.global_step + 1, losses, ids)
                return
            if math.isfinite(total.item()):
                self.in_a_row = 0
                return
        parts = _parts(trainer, pl_module, losses, ids)
        # A sum of huge numbers that are all finite can overflow.
        if any(part.faulty for part in parts):
            self._fault(trainer, pl_module, parts, optimizer)

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Log how many steps were left out, where one was."""
        if self.skipped != self._logged:
            self._logged = self.skipped
            row = {"train/skipped_steps": float(self.skipped), "epoch": trainer.current_epoch}
            for logger in trainer.loggers:
                logger.log_metrics(row, trainer.global_step)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Wait for an answer that is on its way."""
        self._ask_pending(trainer, pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Wait for an answer that is on its way."""
        self._ask_pending(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to save weights that are not finite: the checkpoint before them stays."""
        self._ask_pending(trainer, pl_module)
        weights = [p.detach() for p in pl_module.parameters()]
        if not math.isfinite(sum(norm.item() for norm in _norms(weights))):
            names = _not_finite((n, p) for n, p in pl_module.named_parameters())
            if names:
                raise TrainingError(
                    f"after step {trainer.global_step} (epoch {trainer.current_epoch}) the weights "
                    f"are not finite in {_some(names, 3)}: {self._advice()}"
                )
        self._saved = trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        """What was left out so far."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.skipped = state_dict["skipped"]
        self.in_a_row = state_dict["in_a_row"]

    def _ask_pending(self, trainer: lightning.Trainer, module: SequenceTask) -> None:
        asked, self._asked = self._asked, None
        if asked is None:
            return
        asked.ready.synchronize()
        if math.isfinite(asked.answer.item()):
            return
        # The gradients are of another step by now; they tell nothing of that one.
        parts = _parts(trainer, None, asked.losses, asked.ids)
        raise TrainingError(self._message(trainer, parts, asked.step))

    def _fault(
        self,
        trainer: lightning.Trainer,
        module: SequenceTask,
        parts: list[_Part],
        optimizer: Optimizer,
    ) -> None:
        message = self._message(trainer, parts, trainer.global_step + 1)
        if self.action == "stop":
            raise TrainingError(message)
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row >= self.stop_after:
            raise TrainingError(
                f"{self.in_a_row} steps in a row were left out, the run ends "
                f"(callbacks.finite.stop_after={self.stop_after}); the last: {message}"
            )
        # Optimizers pass over parameters that have no gradient.
        optimizer.zero_grad(set_to_none=True)
        lost = [name for name, buffer in module.named_buffers() if bool(buffer.isnan().any())]
        if lost:
            # Running statistics, which the forward pass has changed already.
            raise TrainingError(
                f"the step can't be left out, {_some(lost, 3)} took it up: {message}"
            )
        module.take_back(*self._unlogged)
        if trainer.is_global_zero:
            # The first time on the terminal too, then in train.log alone.
            log.log(
                logging.INFO if self._told else logging.WARNING,
                "left out, %d so far: %s",
                self.skipped,
                message,
            )
        self._told = True

    def _message(self, trainer: lightning.Trainer, parts: list[_Part], step: int) -> str:
        scale = trainer.accumulate_grad_batches
        losses = [loss * scale for part in parts for loss in part.losses]
        wrong = [loss for loss in losses if not math.isfinite(loss)]
        ids = [ids for part in parts for ids in part.ids]
        if wrong:
            what = f"the loss is not finite ({wrong[0]})"
            ids = [i for i, loss in zip(ids, losses, strict=True) if not math.isfinite(loss)]
        else:
            names = parts[0].parameters
            where = f" of {_some(names, 3)}" if names else ""
            what = (
                f"the gradient{where} is not finite, with a loss of {sum(losses) / len(losses):.4g}"
            )
        named = _named([i for batch in ids for i in batch], trainer)
        text = f"step {step} (epoch {trainer.current_epoch}): {what}; sequences {named}"
        return text if self.action == "skip" else f"{text}. {self._advice()}"

    def _advice(self) -> str:
        kept = (
            f"The checkpoint of step {self._saved} is kept"
            if self._saved
            else "There is no checkpoint yet"
        )
        skip = "" if self.action == "skip" else ", or callbacks.finite.action=skip"
        return f"{kept}. Try a smaller optimizer.lr, trainer.gradient_clip_val=1{skip}"


def _gradients(optimizer: Optimizer) -> list[Tensor]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return [values_of(p.grad) for p in parameters if p.grad is not None]


def _norms(tensors: Sequence[Tensor]) -> Iterable[Tensor]:
    # NaN and infinity are never lost in them, as they would be in a maximum.
    return torch._foreach_norm(list(tensors)) if tensors else ()


def _scaled(trainer: lightning.Trainer) -> bool:
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def _ask(total: Tensor, step: int, losses: list[Tensor], ids: list[Tensor]) -> _Asked:
    answer = torch.empty_like(total, device="cpu", pin_memory=True)
    answer.copy_(total, non_blocking=True)
    ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
    ready.record()
    return _Asked(answer, ready, step, losses, ids)


def _parts(
    trainer: lightning.Trainer,
    module: SequenceTask | None,
    losses: list[Tensor],
    ids: list[Tensor],
) -> list[_Part]:
    """What every process had in a step, the same on all of them."""
    gradients = (
        []
        if module is None or _scaled(trainer)
        else [(n, values_of(p.grad)) for n, p in module.named_parameters() if p.grad is not None]
    )
    mine = _Part(
        [float(loss) for loss in losses], [i.tolist() for i in ids], _not_finite(gradients)
    )
    if trainer.world_size == 1:
        return [mine]
    parts: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(parts, mine)
    return parts


def _not_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    return [name for name, tensor in tensors if not bool(tensor.isfinite().all())]


def _named(ids: list[int], trainer: lightning.Trainer) -> str:
    """The first sequences of a step, with their names in their source where they have some."""
    names: pa.Array | None = trainer.datamodule.sequence_ids("train")  # type: ignore[attr-defined]
    first = ids[:SHOWN_IDS]
    shown = [str(i) if names is None else f"{i} ({names[i].as_py()!r})" for i in first]
    return _some(shown + [""] * (len(ids) - len(shown)), SHOWN_IDS)


def _some(names: list[str], count: int) -> str:
    more = len(names) - count
    return ", ".join(names[:count]) + (f" and {more} more" if more > 0 else "")
