"""Cells made of other modules: any module as a cell, several in a row, a learned start state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unrolled.models.state import State, map_state
from unrolled.models.unroll import Cell, Projected


class Recurrence(Cell):
    """Any module `(x_t, h) -> h` as a cell; the output of a step is the state for the next.

    The inputs may be vectors, `[batch, input]`, or indices, `[batch]`.

    Args:
        module: The module.
        size: Channels of `h`, zeros before the first step.
    """

    def __init__(self, module: nn.Module, size: int) -> None:
        super().__init__(size)
        self.module = module

    def start(self, batch_size: int, like: Tensor) -> State:
        """Zeros."""
        return like.new_zeros(batch_size, self.output_size)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, State]:
        """One step."""
        h = self.module(x, state)
        return h, h


class Chain(Cell):
    """Cells and plain modules in a row, again a cell; chains may stand in chains.

    Plain modules have to treat each row alone, as `nn.Linear` and `nn.Tanh` do: those before the
    first cell run once over the rows of all steps.

    Args:
        modules: At least one of them a cell.
        output_size: Channels of the last module's output; by default those of the last cell.
    """

    def __init__(self, *modules: nn.Module, output_size: int | None = None) -> None:
        cells = [m for m in modules if isinstance(m, Cell)]
        if not cells:
            raise ValueError("a chain without a cell has no state: use nn.Sequential")
        super().__init__(cells[-1].output_size if output_size is None else output_size)
        self.parts = nn.ModuleList(modules)
        self.first = next(k for k, m in enumerate(modules) if isinstance(m, Cell))

    def start(self, batch_size: int, like: Tensor) -> State:
        """The states of the cells."""
        return tuple(cell.start(batch_size, like) for cell in self._cells())

    def project(self, x: Tensor) -> Projected:
        """Through the modules before the first cell, and its projection."""
        for part in list(self.parts)[: self.first]:
            x = part(x)
        return self._cells()[0].project(x)

    def open(self, state: State) -> State:
        """Of each cell."""
        return tuple(c.open(s) for c, s in zip(self._cells(), state, strict=True))

    def close(self, state: State) -> State:
        """Of each cell."""
        return tuple(c.close(s) for c, s in zip(self._cells(), state, strict=True))

    def forward(self, x: Any, state: Any) -> tuple[Tensor, State]:
        """One step through all of them."""
        before = iter(state)
        after: list[State] = []
        for part in list(self.parts)[self.first :]:
            if isinstance(part, Cell):
                x, new = part(part.project(x) if after else x, next(before))
                after.append(new)
            else:
                x = part(x)
        return x, tuple(after)

    def _cells(self) -> list[Cell]:
        return [m for m in self.parts if isinstance(m, Cell)]


class LearnedStart(Cell):
    """A cell whose state before the first step is learned instead of zero.

    Args:
        cell: The cell; counters in its state, which are integers, are not learned.
    """

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell.output_size)
        self.cell = cell
        self.values = nn.ParameterList()

        def add(value: Tensor) -> Tensor:
            if value.is_floating_point():
                self.values.append(nn.Parameter(value.clone()))
            return value

        map_state(add, cell.start(1, torch.empty(0)))

    def start(self, batch_size: int, like: Tensor) -> State:
        """The learned values for each sequence."""
        values = iter(self.values)

        def expand(value: Tensor) -> Tensor:
            if not value.is_floating_point():
                return value
            expanded: Tensor = next(values).expand(batch_size, *value.shape[1:]).to(value)
            return expanded

        return map_state(expand, self.cell.start(batch_size, like))

    def project(self, x: Tensor) -> Projected:
        """The cell's."""
        return self.cell.project(x)

    def open(self, state: State) -> State:
        """The cell's."""
        return self.cell.open(state)

    def close(self, state: State) -> State:
        """The cell's."""
        return self.cell.close(state)

    def forward(self, x: Any, state: Any) -> tuple[Tensor, State]:
        """The cell's step."""
        output, state = self.cell(x, state)
        return output, state
