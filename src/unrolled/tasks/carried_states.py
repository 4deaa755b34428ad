"""What a model carries along the streams of a run, and how another number of processes takes it up.

Each process has streams of its own, and the rows of a batch stand in an order of their own. What
says which row is which is the sequence that it has read: a sequence is in one row of a batch, over
all processes. So the rows of a checkpoint are dealt anew by the sequences that the next batch goes
on with.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from unrolled.data.batch import SequenceBatch
from unrolled.data.processes import gather, num_processes, rank
from unrolled.errors import UserError
from unrolled.models.state import State, join_rows


class CarriedStates:
    """The state after the last batch, of the stream that trains and of the one that is judged."""

    def __init__(self) -> None:
        self._states: dict[bool, State] = {}
        self._sequences: dict[bool, Tensor] = {}
        # Whether the rows are those of other processes' batches.
        self._dealt_anew = False

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, training: bool) -> State:
        return self._states[training]

    def take(self, batch: SequenceBatch, training: bool) -> State | None:
        """The state that a batch of a stream goes on with; None before the first.

        After a resume with another number of processes, `continues` of the first batch is changed
        to count the rows of this state.

        Raises:
            UserError: When the batch goes on with a sequence that was in none of the rows.
        """
        state = self._states.pop(training, None)
        if state is not None and training and self._dealt_anew:
            self._dealt_anew = False
            assert batch.continues is not None
            batch.continues = _rows(self._sequences[training], batch)
        return state

    def keep(self, batch: SequenceBatch, training: bool, state: State) -> None:
        """Keep the state after a batch; no gradient flows back through it."""
        self._states[training] = tree_map(lambda s: s.detach(), state)
        self._sequences[training] = batch.ids

    def to(self, device: torch.device) -> None:
        """Move the states to where the model is by now."""
        self._states = tree_map(lambda s: s.to(device), self._states)

    def forget_nan(self) -> None:
        """Put zero in the place of what is not finite."""
        self._states = tree_map(lambda s: s.nan_to_num(0.0, 0.0, 0.0), self._states)

    def state_dict(self) -> list[dict[str, Any] | None]:
        """The state that trains, with its sequences, of all processes; None where there is none.

        All processes have to call it.
        """
        mine = None
        if True in self._states:
            state = tree_map(lambda s: s.cpu(), self._states[True])
            mine = {"state": state, "sequences": self._sequences[True].cpu()}
        return gather(mine)

    def load_state_dict(self, saved: list[dict[str, Any] | None]) -> None:
        """Go on with what `state_dict` gave, on as many processes or on another number."""
        parts = [part for part in saved if part is not None]
        if not parts:
            return
        if len(parts) == num_processes():
            parts = [parts[rank()]]
        else:
            self._dealt_anew = True
        self._states[True] = join_rows([part["state"] for part in parts])
        self._sequences[True] = torch.cat([part["sequences"] for part in parts])


def _rows(sequences: Tensor, batch: SequenceBatch) -> Tensor:
    """In which row each row's sequence was, `[batch]` int64 on the CPU; -1 where one starts.

    Args:
        sequences: `[row]`, the sequences of the state.
        batch: The next batch.
    """
    assert batch.continues is not None
    goes_on = batch.continues >= 0
    found = batch.ids.cpu().unsqueeze(1) == sequences.cpu()
    known = found.any(1)
    if not bool(known[goes_on].all()):
        missing = int(batch.ids.cpu()[goes_on & ~known][0])
        raise UserError(
            f"the checkpoint has no state of sequence {missing}, with which the next batch goes "
            "on: it is of other data, or of another place in them"
        )
    return found.long().argmax(1).where(goes_on, -1)
