"""Parallel streams cut into windows, for models that carry their state along.

Long sequences side by side are read `bptt` steps at a time; row i of a batch goes on where row i of
the batch before stopped (truncated backpropagation through time, Williams & Peng 1990).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from unrolled.data.batch import SequenceBatch
from unrolled.data.batching import Source


class StreamLoader:
    """Windows of all streams at once, from the first step to the last.

    Args:
        source: Its sequences are the streams, all of one length.
        bptt: Steps of a window; the last may have fewer.
        rank: This process; it has every `num_ranks`-th stream.
        num_ranks: Number of processes.
    """

    def __init__(self, source: Source, bptt: int, *, rank: int = 0, num_ranks: int = 1) -> None:
        self.source = source
        self.bptt = bptt
        self.streams = torch.arange(len(source))[rank::num_ranks]
        self.weight = len(self.streams) * num_ranks / max(len(source), 1)
        self.num_batches = -(-source.targets().shape[1] // bptt) if len(source) else 0
        self.epoch = -1
        self.next_batch = 0
        self._resumed = False

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[SequenceBatch]:
        if not self._resumed:
            self.epoch, self.next_batch = self.epoch + 1, 0
        self._resumed = False
        whole = self.source.gather(self.streams)
        while self.next_batch < self.num_batches:
            k = self.next_batch
            self.next_batch += 1
            window = slice(k * self.bptt, (k + 1) * self.bptt)
            targets = whole.targets[:, window]
            yield SequenceBatch(
                {name: values[:, window] for name, values in whole.features.items()},
                torch.full_like(whole.lengths, targets.shape[1]),
                targets,
                whole.ids,
                self.weight,
                continues=k > 0,
            )

    def state_dict(self) -> dict[str, int]:
        """The position: epoch and next window."""
        if self.next_batch == self.num_batches or self.epoch < 0:
            return {"epoch": self.epoch + 1, "next_batch": 0}
        return {"epoch": self.epoch, "next_batch": self.next_batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next iteration go on at the position that `state_dict` gave."""
        self.epoch, self.next_batch = state["epoch"], state["next_batch"]
        self._resumed = True
