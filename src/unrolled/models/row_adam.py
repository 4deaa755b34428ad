"""Adam for models with large tables of vectors, of which a step uses a few rows.

Plain Adam reads and writes the whole table and two arrays of its size at every step: with a million
items of 100 channels that is 2 GB a step, and 1.2 GB to keep.

V rows of a table, H channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor
from torch.optim import Adam

Beta = Annotated[float, Field(ge=0, lt=1)]

ROWS = "rows"
"""Key of a parameter group that holds tables, whose rows are updated one by one."""


class RowAdam(Adam):
    """Adam (Kingma & Ba 2015), with one second moment for each row of a table and no first one.

    For a row w with the gradient g of H channels, at step t:

        v = beta2 v + (1 - beta2) |g|^2 / H;  w = w - lr g / (sqrt(v / (1 - beta2^t)) + eps)

    A row without a gradient does not move, and its v is only multiplied by beta2: that is made up
    for when the row is used again. Touching only the rows that a step uses is therefore exactly
    the rule for the whole table, not an approximation as with `torch.optim.SparseAdam`, whose
    moments stand still while a row is not used. Without a first moment nothing is owed to a row
    after the step that used it. One second moment a row is that of row-wise Adagrad and of
    "partial row-wise Adam" in FBGEMM, which trains the tables of recommenders.

    Parameters of all other groups are updated by `torch.optim.Adam`.

    Args:
        params: Parameter groups; those with `rows: True` hold tables, `[V, H]`.
        lr: Learning rate.
        betas: Decay of Adam's two moments; rows use the second.
        eps: Added to the root of the second moment.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: NonNegativeFloat = 1e-3,
        betas: tuple[Beta, Beta] = (0.9, 0.999),
        eps: NonNegativeFloat = 1e-8,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        tables = [
            (group, table, table.grad)
            for group in self.param_groups
            if group.get(ROWS)
            for table in group["params"]
            if table.grad is not None
        ]
        # Adam passes over parameters that have no gradient.
        for _, table, _ in tables:
            table.grad = None
        super().step()
        for group, table, gradient in tables:
            self._update_rows(table, gradient, group["lr"], group["betas"][1], group["eps"])
            table.grad = gradient
        return loss

    def _update_rows(
        self, table_VH: Tensor, gradient: Tensor, lr: float, beta2: float, eps: float
    ) -> None:
        state = self.state[table_VH]
        if not state:
            state["step"] = torch.tensor(0.0)
            # As floating point, to which torch converts what it loads: exact up to 2^24 steps.
            state["last_used"] = table_VH.new_zeros(len(table_VH))
            state["square"] = table_VH.new_zeros(len(table_VH))
        state["step"] += 1
        step = float(state["step"])
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            rows, values_RH = gradient.indices()[0], gradient.values()
        else:
            rows, values_RH = torch.arange(len(table_VH), device=table_VH.device), gradient
        decay_R = beta2 ** (step - state["last_used"][rows])
        square_R = state["square"][rows] * decay_R + (1 - beta2) * values_RH.square().mean(1)
        state["square"][rows] = square_R
        state["last_used"][rows] = step
        root_R = (square_R / (1 - beta2**step)).sqrt_().add_(eps)
        table_VH.index_add_(0, rows, values_RH / root_R.unsqueeze(1), alpha=-lr)
