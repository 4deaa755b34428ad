"""The whole model: embedding, encoder, read-out and head, one after the other."""

from __future__ import annotations

from torch import Tensor, nn

from unrolled.data.batch import SequenceBatch
from unrolled.models.head import Head


class SequenceModel(nn.Module):
    """From a batch to the outputs of the head, one row a sequence.

    Args:
        embedding: Features to `[batch, time, input]`.
        encoder: `(x, lengths, state=None) -> (outputs, state)`.
        readout: `(outputs, lengths) -> [batch, size]`.
        head: `[batch, size] -> [batch, output]`.
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
        """`[batch, output]`."""
        outputs, _ = self.encoder(self.embedding(batch.features), batch.lengths)
        result: Tensor = self.head(self.readout(outputs, batch.lengths))
        return result
