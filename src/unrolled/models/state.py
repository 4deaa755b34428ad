"""The state that an encoder carries from one call to the next: a tensor, or a tuple of states."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

State: TypeAlias = "Tensor | tuple[State, ...]"
"""Of an encoder each tensor is `[layers, batch, ...]`, of a cell `[batch, ...]`."""


def map_state(function: Callable[..., Tensor], *states: State) -> State:
    """Apply a function to each tensor of a state, or to the matching tensors of several.

    Raises:
        ValueError: When the states are not built alike.
    """
    first = states[0]
    if isinstance(first, Tensor):
        if not all(isinstance(s, Tensor) for s in states):
            raise ValueError("the states are not built alike: a tensor stands beside a tuple")
        return function(*states)
    return tuple(map_state(function, *parts) for parts in zip(*states, strict=True))


def detach_state(state: State) -> State:
    """The same values, of which no gradient flows back: the end of truncated backpropagation."""
    return map_state(lambda s: s.detach(), state)


def select_rows(state: State, rows: Tensor) -> State:
    """The state of some sequences of an encoder's batch, in the order of `rows`."""
    return map_state(lambda s: s.index_select(1, rows), state)


def join_rows(states: list[State]) -> State:
    """The states of several batches of an encoder as one, their rows one after the other.

    What one batch has fewer of than another, as an encoder that looks back keeps fewer steps of
    short sequences, is filled up with zeros before it: as if these were not real.
    """

    def join(*parts: Tensor) -> Tensor:
        sizes = [max(sizes) for sizes in zip(*(part.shape[2:] for part in parts), strict=True)]
        filled = []
        for part in parts:
            before: list[int] = []
            # `pad` counts from the last dimension on.
            for size, own in zip(reversed(sizes), reversed(part.shape[2:]), strict=True):
                before += [size - own, 0]
            filled.append(functional.pad(part, before))
        return torch.cat(filled, 1)

    return states[0] if len(states) == 1 else map_state(join, *states)


def take_up(
    state: State, rows: Tensor, start: Callable[[int, Tensor], State] | None, like: Tensor
) -> State | None:
    """The state that a batch of a stream begins with.

    Args:
        state: Of an encoder, after the batch before.
        rows: `[batch]` int64 on the CPU; the row of the batch before that each goes on with, -1
            for none.
        start: The encoder's state before the first step, for so many rows; zeros by default.
        like: Has the dtype and device of the state at the start.

    Returns:
        None when all start.
    """
    if int(rows.max()) < 0:
        return None
    if torch.equal(rows, torch.arange(num_rows(state))):
        return state
    fresh = map_state(lambda s: torch.zeros_like(s[:, :1]), state)
    if start is not None:
        fresh = start(1, like)
    # The row after the last one is the start.
    places = rows.where(rows >= 0, num_rows(state)).to(like.device, non_blocking=True)
    return select_rows(map_state(lambda s, f: torch.cat([s, f.to(s)], 1), state, fresh), places)


def num_rows(state: State) -> int:
    """How many sequences an encoder's state has."""
    while not isinstance(state, Tensor):
        state = state[0]
    return state.shape[1]


def stack_layers(states: list[State]) -> State:
    """The states of several cells, `[batch, ...]`, as one of an encoder, `[layers, batch, ...]`."""
    return map_state(lambda *layers: torch.stack(layers), *states)


def split_layers(state: State, layers: int) -> list[State]:
    """The opposite of `stack_layers`."""
    return [map_state(lambda s, k=k: s[k], state) for k in range(layers)]
