"""Tables of which a training step touches only some rows, and what that asks of the training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import lightning
from torch import nn
from torch.optim import Optimizer

from unrolled.models.row_adam import ROWS, RowAdam
from unrolled.models.row_gradients import clip, unite_rows, use_row_gradients
from unrolled.models.sequence import SequenceModel


class RowTables:
    """The tables whose rows the optimizer updates one by one; none unless it is a `RowAdam`.

    Args:
        model: The model that has the tables.
        optimizer: The class of the optimizer, or a partial of it.
    """

    def __init__(self, model: SequenceModel, optimizer: Callable[..., Optimizer]) -> None:
        made = getattr(optimizer, "func", optimizer)
        by_row = isinstance(made, type) and issubclass(made, RowAdam)
        self._tables = model.row_tables() if by_row else []

    def __bool__(self) -> bool:
        return bool(self._tables)

    def choose_layout(self, trainer: lightning.Trainer) -> None:
        """Let the tables' gradients have only the rows of a step, where processes can add them."""
        # NCCL can't add up sparse tensors. RowAdam updates a whole gradient by the same rule.
        if trainer.strategy.root_device.type == "cpu" or trainer.world_size == 1:
            use_row_gradients(self._tables)

    def unite(self) -> None:
        """Let each row of a table's gradient stand once."""
        unite_rows(self._tables)

    def clip(self, optimizer: Optimizer, value: float, *, by_value: bool) -> None:
        """Clip all gradients of an optimizer, by their common norm or each value by itself."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        clip(gradients, value, by_value=by_value)

    def groups(self, parameters: Iterable[nn.Parameter]) -> Any:
        """The parameters for the optimizer: the tables are a group of their own."""
        if not self._tables:
            return parameters
        tables = {table.weight: None for table in self._tables}
        others = [p for p in parameters if p not in tables]
        return [{"params": others}, {"params": list(tables), ROWS: True}]
