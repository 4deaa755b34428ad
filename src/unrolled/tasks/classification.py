"""Questions whose answer is one of several classes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from unrolled.data.module import SequenceData
from unrolled.data.schema import Schema
from unrolled.errors import UserError
from unrolled.metrics.counting import ErrorRate, Mistakes, NumSequences
from unrolled.tasks.base import SequenceTask


class Classification(SequenceTask):
    """Which class has a sequence, or each of its steps?"""

    main_metric = "error"
    # Among many checkpoints without a mistake the loss still tells which is surest.
    monitor = "val/loss"
    mode = "min"

    def check_schema(self, schema: Schema) -> None:
        """The question needs classes."""
        if schema.num_classes is None:
            raise UserError("the task asks for classes; the target of these data is a real number")

    def metrics(self) -> dict[str, Any]:
        """Share and number of wrong answers, number of answers (of sequences or of steps)."""
        return {"error": ErrorRate(), "mistakes": Mistakes(), "answers": NumSequences()}

    def metric_input(self, outputs: Tensor) -> Tensor:
        """The most probable class."""
        return self.model.head.predict(outputs)

    def trivial_input(self, train_targets: Tensor) -> Tensor:
        """Always the most frequent class."""
        return train_targets.mode().values

    def trivial_scores(self, data: SequenceData) -> dict[str, float]:
        """As every task's; the mistakes go with the error, which the data may know exactly."""
        scores = super().trivial_scores(data)
        for test in data.test_sources():
            wrong = scores[f"{test}/error"] * scores[f"{test}/answers"]
            scores[f"{test}/mistakes"] = float(round(wrong))
        return scores


class Memorize(Classification):
    """Which label was drawn for this step? There is no rule; the training set itself is asked."""

    main_metric = "loss"


class Parity(Classification):
    """Is the number of ones so far even or odd?"""


class TemporalOrder(Classification):
    """In which order did the important symbols come?"""


class CopyMemory(Classification):
    """Which symbols were shown before the long pause?"""

    main_metric = "loss"


class AssociativeRecall(Classification):
    """Which value came with this key?"""


class SequenceImages(Classification):
    """What does an image show that is read row by row?"""
