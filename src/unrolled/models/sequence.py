"""The whole model: embedding, encoder, read-out and head, one after the other."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from unrolled.data.batch import SequenceBatch
from unrolled.models.head import Head


class SequenceModel(nn.Module):
    """From a batch to the outputs of the head.

    Args:
        embedding: Features to `[batch, time, input]`.
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
        """`[batch, output]`, or `[batch, time, output]` when every step is read out."""
        encoded, _ = self.encode(batch)
        return self.decode(encoded, batch.lengths)

    def encode(self, batch: SequenceBatch, state: Any = None) -> tuple[Tensor, Any]:
        """The encoder's outputs, `[batch, time, size]`, and its state after the last step.

        Args:
            batch: The sequences.
            state: Where to go on; the encoder's own start by default.
        """
        encoded: tuple[Tensor, Any] = self.encoder(
            self.embedding(batch.features), batch.lengths, state
        )
        return encoded

    def decode(self, encoded: Tensor, lengths: Tensor) -> Tensor:
        """The encoder's outputs, read out and through the head."""
        outputs: Tensor = self.head(self.readout(encoded, lengths))
        return outputs
