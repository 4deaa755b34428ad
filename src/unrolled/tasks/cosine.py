"""How does the cosine go on?"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from unrolled.data.batch import SequenceBatch
from unrolled.data.schema import Schema
from unrolled.errors import UserError
from unrolled.models.readout import EveryStep, Last
from unrolled.synthetic.cosine import Cosine as CosineSeries
from unrolled.tasks.regression import Regression


class Cosine(Regression):
    """The next value; and how long the model stays on the curve when it reads its own predictions.

    One-step errors say little: copying the last value looks perfect. In a free run the model gets
    one true window, then only what it predicts; `free_run` is the number of steps until the error
    reaches `tolerance`.

    Args:
        model: From a batch to the outputs of its head.
        free_run_steps: Longest free run; a model that lasts this long scores it.
        free_run_mode: `window` reads the last window anew for each step, as the tutorial did;
            `carry` reads each prediction once and keeps the state, for models trained so.
        tolerance: Absolute error at which the run has left the curve.
        **options: As every task has.
    """

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        scheduler: Any = None,
        regularizers: Any = (),
        loss_reduction: Literal["mean", "sum"] = "mean",
        over_time: Literal["mean", "sum"] = "mean",
        free_run_steps: PositiveInt = 2_000,
        free_run_mode: Literal["window", "carry"] = "window",
        tolerance: PositiveFloat = 0.1,
    ) -> None:
        super().__init__(model, optimizer, scheduler, regularizers, loss_reduction, over_time)
        self.free_run_steps = free_run_steps
        self.free_run_mode = free_run_mode
        self.tolerance = tolerance

    def check_schema(self, schema: Schema) -> None:
        """A free run needs data that can go on, and an encoder that goes forward only."""
        super().check_schema(schema)
        if not schema.per_step or [f.name for f in schema.features] != ["value"]:
            raise UserError("task=cosine needs the data of a cosine: use data=cosine")
        if not getattr(self.model.encoder, "causal", True):
            raise UserError("task=cosine needs an encoder that goes forward only, to run freely")
        if self.free_run_mode == "carry" and not isinstance(self.model.readout, Last | EveryStep):
            raise UserError(
                "task.free_run_mode=carry reads one step at a time; use readout=last or every_step"
            )

    def on_test_epoch_end(self) -> None:
        """Also run freely."""
        super().on_test_epoch_end()
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not data.with_tests:
            return
        generator = data.generator
        window, truth = cast(CosineSeries, generator).continuation(self.free_run_steps)
        predictions = self.run_freely(window, self.free_run_steps).cpu()
        # Not `>=`: NaN has left the curve too.
        off = ~((predictions - truth).abs() < self.tolerance)
        steps = int(off.int().argmax()) if bool(off.any()) else self.free_run_steps
        self.results["test/free_run"] = float(steps)
        self.tables["free_run"] = {
            "step": torch.arange(self.free_run_steps),
            "truth": truth,
            "prediction": predictions,
        }

    @torch.inference_mode()
    def run_freely(self, window: Tensor, steps: int) -> Tensor:
        """Predictions after a true window `[time]`, each made from those before it; `[steps]`."""
        values = window.to(self.device).unsqueeze(0)
        state: Any = None
        predictions = []
        for _ in range(steps):
            outputs, state = self._last(values, state)
            predicted = self.model.head.predict(outputs)
            predictions.append(predicted)
            if self.free_run_mode == "carry":
                values = predicted.unsqueeze(1)
            else:
                values, state = torch.cat([values[:, 1:], predicted.unsqueeze(1)], 1), None
        return torch.cat(predictions)

    def _last(self, values: Tensor, state: Any) -> tuple[Tensor, Any]:
        lengths = torch.tensor([values.shape[1]])
        batch = SequenceBatch({"value": values}, lengths, values[:, 0], lengths)
        encoded, state = self.model.encode(batch, state)
        outputs = self.model.decode(encoded, lengths)
        return (outputs[:, -1] if outputs.dim() == 3 else outputs), state

    def metric_direction(self) -> dict[str, str]:
        """Longer is better."""
        return {**super().metric_direction(), "free_run": "max"}
