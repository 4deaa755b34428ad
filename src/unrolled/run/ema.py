"""The moving average of the weights, which is what is judged and kept."""

from __future__ import annotations

from typing import Annotated, Any

import lightning
from lightning.pytorch.callbacks import EMAWeightAveraging
from pydantic import Field, NonNegativeInt, PositiveInt


class EMA(EMAWeightAveraging):
    """Lightning's exponential moving average of the weights.

    Validation, best.ckpt and the test use the average; a checkpoint has the weights that are
    trained beside it, so that a run goes on exactly.

    Unlike Lightning's own, buffers are taken over as they are: the average of a whole number 5 with
    itself is 4. There are no updates at the end of an epoch: Lightning's checkpoint does not say
    when there was one.

    Args:
        decay: Part of the average that stays at each update, in [0, 1).
        every_n_steps: Steps between two updates.
        start_step: Steps before the first update; until then the average is the start.
    """

    def __init__(
        self,
        decay: Annotated[float, Field(ge=0, lt=1)] = 0.999,
        every_n_steps: PositiveInt = 1,
        start_step: NonNegativeInt = 0,
    ) -> None:
        super().__init__(
            use_buffers=False,
            decay=decay,
            update_every_n_steps=every_n_steps,
            update_starting_at_step=start_step,
        )

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Take up the average and the weights; outside of training the average is all there is."""
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
