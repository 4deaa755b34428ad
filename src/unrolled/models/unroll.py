"""Unroll any cell over time: whole sequences, or step by step.

A `Cell` is one step of a recurrent network: `(x_t, state) -> (output, state)`. `Unroll` makes an
encoder of one, with layers, both directions, carried state and truncated backpropagation.

Element-Research's modules, which the tutorials use, are these here:

| theirs | here |
| --- | --- |
| `Recurrent(start, input, feedback, transfer)` | `cells.elman.ElmanCell`; encoder `Elman` |
| `Recurrence(module, size)`: a module `{x, h} -> h` | `compose.Recurrence(module, size)` |
| `Recursor(module)`: composite modules a step at a time | `compose.Chain(module, ...)` |
| `Sequencer(module)`: a module over all steps | `Unroll([cell])` |
| `Sequencer:remember('both')`, `forget()` | pass the state of the last call, or None |
| `rho`, steps of backpropagation | `bptt=` |
| `BiSequencer`, `BiSequencerLM` | `bidirectional=True`, `bidirectional.LanguageModelShift` |

Variable lengths are treated in three ways; padding is never read in any of them:

* hold: a sequence that has ended keeps its state, and its outputs are zero from there on. Every
  encoder does this for steps past `lengths`.
* reset: an all-zero step *inside* the length gives the output zero and lets the sequence start
  afresh at the next step (Element-Research's MaskZero): `reset.Reset` around any encoder.
* select: only the output at the last real step counts: the read-out `last`.

B batch, T time, I input size, H hidden size, N real steps of the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.models.bidirectional import NO_STEP, merge_directions, merged_size
from unrolled.models.lengths import check_packed_lengths
from unrolled.models.packing import Packing
from unrolled.models.state import (
    State,
    detach_state,
    map_state,
    select_rows,
    split_layers,
    stack_layers,
)

Projected: TypeAlias = Tensor | tuple[Tensor, ...]


class Cell(nn.Module, ABC):
    """One step of a recurrent network; a subclass gives `start` and `forward`.

    Every tensor of its state has the sequences at dimension 0. Sequences must not meet in `forward`
    (but for the statistics of batch normalisation): as they end, rows leave the batch.

    Args:
        output_size: Channels of the output.
    """

    def __init__(self, output_size: int) -> None:
        super().__init__()
        self.output_size = output_size

    @abstractmethod
    def start(self, batch_size: int, like: Tensor) -> State:
        """The state before the first step, with the dtype and device of `like`."""

    def project(self, x: Tensor) -> Projected:
        """What depends on the input alone, for all steps at once: `[N, input]` to `[N, ...]`."""
        return x

    def open(self, state: State) -> State:
        """What `forward` works on during one pass, from the state; may add masks of dropout."""
        return state

    def close(self, state: State) -> State:
        """The opposite of `open`."""
        return state

    @abstractmethod
    def forward(self, x: Any, state: Any) -> tuple[Tensor, State]:
        """One step: what `project` gave for it, `[batch, ...]`, to the output and the new state."""


def unroll(
    cell: Cell, x: Tensor, sizes: list[int], state: State, bptt: int | None = None
) -> tuple[Tensor, State]:
    """A cell over packed sequences.

    Args:
        cell: The cell.
        x: `[N, input]`, the rows of step 0 first; see `packing`.
        sizes: Sequences that have each step; never more than at the step before.
        state: Of all sequences, before step 0.
        bptt: Gradients flow back over at most so many steps; None over all.

    Returns:
        `[N, output]` and each sequence's state after its last step.
    """
    projected = cell.project(x)
    if isinstance(projected, Tensor):
        steps: Sequence[Any] = projected.split_with_sizes(sizes)
    else:
        steps = list(zip(*(p.split_with_sizes(sizes) for p in projected), strict=True))
    state = cell.open(state)
    outputs: list[Tensor] = []
    ended: list[State] = []
    rows = sizes[0]
    for t, x_t in enumerate(steps):
        size = sizes[t]
        if size < rows:
            ended.append(map_state(lambda s, size=size: s[size:], state))
            state = map_state(lambda s, size=size: s[:size], state)
            rows = size
        if bptt is not None and t and t % bptt == 0:
            state = detach_state(state)
        output, state = cell(x_t, state)
        outputs.append(output)
    if ended:
        state = map_state(lambda *parts: torch.cat(parts), state, *reversed(ended))
    return torch.cat(outputs), cell.close(state)


class Unroll(nn.Module):
    """An encoder from cells; the named encoders in `cells` are made by it.

    Args:
        cells: Layer by layer; of a bidirectional encoder a forward and a backward one each.
        bidirectional: Read each sequence in both directions.
        merge: How the directions of the last layer are put together: `concat`, `sum`, `mean`.
            Between layers they always stand side by side.
        dropout: Between layers, share of the units set to zero in training.
        input_dropout: Of each layer's input, with one mask a sequence, held over its steps.
        bptt: Gradients flow back over at most so many steps; None over all.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        bidirectional: bool = False,
        merge: str = "concat",
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        bptt: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        self.cells = nn.ModuleList(cells)
        self.directions = 2 if bidirectional else 1
        if not cells or len(cells) % self.directions:
            raise ValueError(f"{len(cells)} cells make no layers of {self.directions} directions")
        self.merge = merge
        self.dropout = dropout
        self.input_dropout = input_dropout
        self.bptt = bptt
        self.causal = not bidirectional
        self.output_size = merged_size(cells[-1].output_size, bidirectional, merge)

    def start(self, batch_size: int, like: Tensor) -> State:
        """The state before the first step, `[layers, batch, ...]`, dtype and device of `like`."""
        return stack_layers([cell.start(batch_size, like) for cell in self._cells()])

    def forward(
        self, x_BTI: Tensor, lengths: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Encode whole sequences.

        Args:
            x_BTI: `[batch, time, input]`.
            lengths: `[batch]`, int64, on the CPU, 1 .. time.
            state: Where to go on; the cells' start by default.

        Returns:
            `[batch, time, output_size]`, zero past the lengths, and the state after the last real
            step.
        """
        packing = Packing(lengths, x_BTI.shape[0], x_BTI.shape[1], x_BTI.device)
        if state is not None and packing.order is not None:
            state = select_rows(state, packing.order)
        x, state = self._layers(packing.pack(x_BTI), packing, state)
        if packing.order is not None:
            state = select_rows(state, packing.inverse)
        return packing.unpack(x), state

    def packed(
        self, x_NI: Tensor, lengths: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Encode packed sequences: `[N, input]` to `[N, output_size]` and the state.

        Args:
            x_NI: In the order of torch's `PackedSequence`.
            lengths: `[batch]`, int64, on the CPU, longest first.
            state: Where to go on; the cells' start by default.
        """
        longest = check_packed_lengths(lengths, len(x_NI))
        packing = Packing(lengths, len(lengths), longest, x_NI.device)
        return self._layers(x_NI, packing, state)

    def _layers(self, x: Tensor, packing: Packing, state: State | None) -> tuple[Tensor, State]:
        """All layers over packed steps; states in the order of the packing."""
        starts = self._states(state, packing.batch, x)
        finals: list[State] = []
        layers = len(self.cells) // self.directions
        cells = iter(zip(self._cells(), starts, strict=True))
        for layer in range(layers):
            if layer and self.dropout:
                x = F.dropout(x, self.dropout, self.training)
            directions: list[Tensor] = []
            for backward in range(self.directions):
                cell, start = next(cells)
                entering = self._mask_inputs(packing.reverse(x) if backward else x, packing)
                output, final = unroll(cell, entering, packing.sizes, start, self.bptt)
                directions.append(packing.reverse(output) if backward else output)
                finals.append(final)
            if self.directions == 1:
                x = directions[0]
            else:
                merge = self.merge if layer == layers - 1 else "concat"
                x = merge_directions(directions[0], directions[1], merge)
        return x, stack_layers(finals)

    def step(self, x_BI: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One step: `[batch, input]` to `[batch, output_size]` and the new state.

        Masks that a pass over a sequence would hold are drawn anew at each call in training.

        Raises:
            ValueError: For a bidirectional encoder, which needs the future.
        """
        if self.directions == 2:
            raise ValueError(NO_STEP)
        finals: list[State] = []
        x = x_BI
        starts = self._states(state, len(x_BI), x_BI)
        for k, (cell, before) in enumerate(zip(self._cells(), starts, strict=True)):
            if k and self.dropout:
                x = F.dropout(x, self.dropout, self.training)
            if self.input_dropout:
                x = F.dropout(x, self.input_dropout, self.training)
            x, after = cell(cell.project(x), cell.open(before))
            finals.append(cell.close(after))
        return x, stack_layers(finals)

    def _cells(self) -> list[Cell]:
        return [cell for cell in self.cells if isinstance(cell, Cell)]

    def _states(self, state: State | None, batch_size: int, x: Tensor) -> list[State]:
        if state is not None:
            return split_layers(state, len(self.cells))
        # Inputs may be indices; the state then is of the weights' kind.
        like = x if x.is_floating_point() else next(self.parameters())
        return [cell.start(batch_size, like) for cell in self._cells()]

    def _mask_inputs(self, x: Tensor, packing: Packing) -> Tensor:
        if not (self.input_dropout and self.training):
            return x
        mask = F.dropout(x.new_ones(packing.batch, x.shape[-1]), self.input_dropout)
        return x * packing.per_sequence(mask)


def layered(
    make: Callable[[int], Cell], input_size: int, num_layers: int, bidirectional: bool
) -> list[Cell]:
    """Cells for `Unroll`, each layer as wide at its input as the one below at its output.

    Args:
        make: From the input size to a cell.
        input_size: Of the first layer.
        num_layers: Layers on top of each other.
        bidirectional: Two cells for each layer.
    """
    directions = 2 if bidirectional else 1
    cells: list[Cell] = []
    for _ in range(num_layers):
        size = directions * cells[-1].output_size if cells else input_size
        cells += [make(size) for _ in range(directions)]
    return cells
