"""The whole model: embedding, encoder, read-out and head, one after the other.

A batch of packed steps stays packed as long as it can: encoders and read-outs that have a method
`packed(x, lengths, ...)`, like `forward` for steps `[N, ...]` in the order of torch's
`PackedSequence`, are handed them as they are. All others get them padded, here and nowhere else.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from unrolled.data.batch import SequenceBatch, pack_steps, pad_steps
from unrolled.models.head import Head
from unrolled.models.state import take_up


class SequenceModel(nn.Module):
    """From a batch to the outputs of the head.

    Args:
        embedding: Features to `[batch, time, input]`, each step by itself.
        encoder: `(x, lengths, state=None) -> (outputs, state)`.
        readout: `(outputs, lengths) -> [batch, size]`, or `[batch, time, size]` for every step.
        head: `[..., size] -> [..., output]`.
    """

    def __init__(
        self, embedding: nn.Module, encoder: nn.Module, readout: nn.Module, head: Head
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.encoder = encoder
        self.readout = readout
        self.head = head

    def forward(self, batch: SequenceBatch) -> Tensor:
        """`[batch, output]`, or for every step `[batch, time, output]`, packed `[N, output]`."""
        encoded, _ = self.encode(batch)
        return self.decode(encoded, batch.lengths, batch.packed)

    def encode(self, batch: SequenceBatch, state: Any = None) -> tuple[Tensor, Any]:
        """The encoder's outputs, `[batch, time, size]` or packed `[N, size]`, and its state.

        Args:
            batch: The sequences.
            state: Where to go on; the encoder's own start by default. In a stream it is the state
                after the batch before, and each row takes up that of the row which it continues.
        """
        encoder: Any = self.encoder
        lengths = batch.lengths
        if batch.packed:
            # An embedding looks at each step alone: all together they are one long sequence.
            whole = {name: values.unsqueeze(0) for name, values in batch.features.items()}
            x = self.embedding(whole).squeeze(0)
        else:
            x = self.embedding(batch.features)
        if batch.continues is not None and state is not None:
            state = take_up(state, batch.continues, getattr(encoder, "start", None), x)
        if not batch.packed:
            outputs, state = encoder(x, lengths, state)
        elif hasattr(encoder, "packed"):
            outputs, state = encoder.packed(x, lengths, state)
        else:
            outputs, state = encoder(pad_steps(x, lengths), lengths, state)
            outputs = pack_steps(outputs, lengths)
        return outputs, state

    def row_tables(self) -> list[nn.Embedding]:
        """The tables of vectors of which a training step uses a few rows."""
        whole = getattr(self.head, "whole_table", None)
        tables = [m for m in self.modules() if isinstance(m, nn.Embedding)]
        return [table for table in tables if table is not whole]

    def decode(self, encoded: Tensor, lengths: Tensor, packed: bool = False) -> Tensor:
        """The encoder's outputs, read out and through the head."""
        readout: Any = self.readout
        if not packed:
            read = readout(encoded, lengths)
        elif hasattr(readout, "packed"):
            read = readout.packed(encoded, lengths)
        else:
            read = readout(pad_steps(encoded, lengths), lengths)
        outputs: Tensor = self.head(read)
        return outputs
