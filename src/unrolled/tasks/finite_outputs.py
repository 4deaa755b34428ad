"""Whether a model answers at all: outputs that are not finite give classes and metrics made up.

The largest of some NaN is one of them, so a prediction of a class looks like any other, and its
error rate, too; the nearest whole number to NaN is -9223372036854775808.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unrolled.data.batch import SequenceBatch
from unrolled.data.processes import gather


class NotFiniteError(RuntimeError):
    """Predictions that are not finite.

    Args:
        faulty: Sequences that have one.
        total: Sequences that were predicted; None where they were not counted.
        test: Which of several sets of sequences has the first of them.
        first: Its index there.
    """

    def __init__(self, faulty: int, total: int | None, test: int, first: int) -> None:
        self.test, self.first = test, first
        of = "" if total is None else f" of {total:,}"
        super().__init__(f"the predictions of {faulty:,}{of} sequences are not finite")


class FiniteOutputs:
    """Looks at all outputs that a task gives while this is open.

    Logits of minus infinity are finite probabilities of 0: they pass.

    Args:
        task: Called with batches.
    """

    def __init__(self, task: nn.Module) -> None:
        self.test = 0
        """Index of the test set that is looked at; two test sets can have equal ids."""
        self._faulty: set[tuple[int, int]] = set()
        self._hook = task.register_forward_hook(self._look)

    def close(self, total: int | None = None, *, alone: bool = False) -> NotFiniteError | None:
        """Look no longer; the error if an output of any process was not finite.

        All processes have to call it, unless one of them predicts `alone`.

        Args:
            total: Sequences that were predicted, over all processes, if they were counted.
            alone: Whether only this process has predicted: the others wait for it elsewhere.
        """
        self._hook.remove()
        parts = [self._faulty] if alone else gather(self._faulty)
        faulty = set[tuple[int, int]]().union(*parts)
        return NotFiniteError(len(faulty), total, *min(faulty)) if faulty else None

    def note(self, batch: SequenceBatch, values: Tensor) -> None:
        """Look at predicted numbers: `[batch]`, `[batch, time]` or `[batch, 1, k]`."""
        if values.is_floating_point():
            self._take(batch, ~values.isfinite())

    def _look(self, task: nn.Module, arguments: tuple[Any, ...], outputs: Any) -> None:
        # DDP calls the task for a whole step, which gives no outputs; the step calls it again.
        if not isinstance(outputs, Tensor):
            return
        batch: SequenceBatch = arguments[0]
        wrong = (outputs.isnan() | outputs.isposinf()).any(-1)
        if batch.packed and outputs.dim() == 2:
            wrong = batch.pad(wrong.unsqueeze(-1).float()).squeeze(-1) > 0
        self._take(batch, wrong)

    def _take(self, batch: SequenceBatch, wrong: Tensor) -> None:
        if wrong.dim() == 2:
            # What an encoder gives past the end of a sequence is in no answer.
            time = torch.arange(wrong.shape[1]) < batch.lengths.unsqueeze(1)
            wrong = wrong & time.to(wrong.device)
        if bool(wrong.any()):
            rows = wrong.flatten(1).any(1) if wrong.dim() > 1 else wrong
            faulty = batch.ids[rows.to(batch.ids.device)].tolist()
            self._faulty.update((self.test, index) for index in faulty)
