"""Heads over a catalogue of items, one of which comes next.

What `forward` gives is the vector as it is: the scores of a whole catalogue are made where they are
needed, for a few events at a time. Padding and unknown items are never recommended, nor drawn.

N events, V items with padding and unknown, H channels of an item.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.data.schema import UNKNOWN_ID
from unrolled.models.head import Head
from unrolled.models.product import affine
from unrolled.models.softmax_loss import CHUNK_BYTES, chunked_cross_entropy
from unrolled.models.types import Probability

FIRST_ITEM = UNKNOWN_ID + 1
"""The id of the first item that can be recommended."""
_SHORTEST = 1e-12
"""Length of the shortest vector that has a direction, as of `F.normalize`."""


class CatalogueHead(Head):
    """A score for every item: the product of the vector with the item's own vector.

    Args:
        input_size: Channels of the vector.
        num_classes: Ids of items, padding and unknown among them.
        item_embedding: The vectors of the items where they are a feature, for `tied`.
        class_counts: `[num_classes]`, how often each item is a target in training; None where it
            does not matter any more.
        tied: Score with the items' input vectors, which halves the parameters; a linear map comes
            before where the vector has another size. False learns vectors of their own. Either
            starts with a deviation of 1 / sqrt(H).
        scale: Scores are so many times the cosine of the angle between the two, which keeps
            popular items from being recommended for the length of their vectors (Gupta et al.
            2019, NISER); None takes the plain product.
        bias: Whether each item has a bias; it starts at the log of the item's share of the targets.
        dropout: Share of the vector's channels set to zero in training.

    Raises:
        ValueError: When there is no input vector to tie to, or the counts fit no catalogue.
    """

    class_counts: Tensor

    def __init__(
        self,
        input_size: PositiveInt,
        num_classes: PositiveInt,
        item_embedding: nn.Embedding | None = None,
        class_counts: Tensor | None = None,
        tied: bool = True,
        scale: PositiveFloat | None = 16.0,
        bias: bool = False,
        dropout: Probability = 0.0,
    ) -> None:
        if num_classes <= FIRST_ITEM:
            raise ValueError("there is no item in the catalogue")
        if tied and item_embedding is None:
            raise ValueError(
                "tied=true needs the target among the embedded features (embedding=event); "
                "use head.tied=false"
            )
        width = input_size
        if tied and item_embedding is not None:
            width = item_embedding.embedding_dim
        super().__init__(input_size, width, num_classes)
        if width == input_size:
            # Declared as a linear map by the heads that have no vectors of items.
            self.linear = nn.Identity()  # type: ignore[assignment]
        if tied and item_embedding is not None:
            self.items = item_embedding
        else:
            self.items = nn.Embedding(num_classes, width)
        with torch.no_grad():
            # Of length one: torch's own start is as long as a root of the size, and beside it an
            # update of a cosine's direction is small.
            nn.init.normal_(self.items.weight, std=width**-0.5)
            if self.items.padding_idx is not None:
                self.items.weight[self.items.padding_idx] = 0
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        counts = torch.ones(num_classes) if class_counts is None else class_counts
        if counts.shape != (num_classes,) or bool((counts < 0).any()):
            raise ValueError(
                f"class_counts has shape {tuple(counts.shape)}: it must be [{num_classes}], "
                "one count for each class and none below zero"
            )
        # An item that never was a target may become one.
        counts = counts.double().clamp(min=1)
        counts[:FIRST_ITEM] = 0
        self.register_buffer("class_counts", counts)
        start = (counts / counts.sum()).log().clamp(min=-100).float()
        self.bias = nn.Parameter(start) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """`[..., input_size]` as it is."""
        return x

    def vectors(self, x: Tensor) -> Tensor:
        """What the items' vectors are multiplied with, `[..., H]`."""
        v: Tensor = self.linear(self.dropout(x))
        return v if self.scale is None else self.scale * F.normalize(v, dim=-1)

    def item_vectors(self, ids: Tensor) -> Tensor:
        """The vectors of some items as they are scored with, `[..., H]`."""
        # Not weight[ids], whose gradient is summed one row after the other.
        return self._scored(F.embedding(ids, self.items.weight, sparse=self.items.sparse))

    def _scored(self, vectors: Tensor) -> Tensor:
        return vectors if self.scale is None else F.normalize(vectors, dim=-1)

    def all_scores(self) -> AllScores:
        """From vectors `[N, input_size]` to the scores of all items, `[N, V]`."""
        return AllScores(self)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """In training the head's own loss, in evaluation the exact cross-entropy; nats.

        Args:
            outputs: `[..., input_size]`.
            targets: `[...]`, ids of items; padding and unknown are none.
        """
        loss = self.training_loss if self.training else self.cross_entropy
        flat = outputs.reshape(-1, outputs.shape[-1])
        # In the items' own precision: the losses' gradients are written out for one precision, and
        # scores in half of it would tie.
        with torch.autocast(flat.device.type, enabled=False):
            vectors = self.vectors(flat.to(self.items.weight.dtype))
            return loss(vectors, targets.flatten()).view(targets.shape)

    @abstractmethod
    def training_loss(self, vectors_NH: Tensor, targets_N: Tensor) -> Tensor:
        """The loss of each event, `[N]`."""

    def cross_entropy(self, vectors_NH: Tensor, targets_N: Tensor) -> Tensor:
        """Of the softmax over all items, `[N]` in nats."""
        items = self._scored(self.items.weight[FIRST_ITEM:])
        bias = items.new_zeros(len(items)) if self.bias is None else self.bias[FIRST_ITEM:]
        return chunked_cross_entropy(vectors_NH, items, bias, targets_N - FIRST_ITEM)

    def predict(self, outputs: Tensor) -> Tensor:
        """The item with the largest score."""
        score = self.all_scores()
        flat = outputs.reshape(-1, outputs.shape[-1])
        size = max(1, CHUNK_BYTES // (flat.element_size() * self.num_classes))
        return torch.cat([score(part).argmax(-1) for part in torch.split(flat, size)]).view(
            outputs.shape[:-1]
        )

    def expectation(self, outputs: Tensor) -> Tensor:
        """The mean id under the softmax."""
        scores = self.all_scores()(outputs.reshape(-1, outputs.shape[-1]))
        ids = torch.arange(self.num_classes, device=scores.device, dtype=scores.dtype)
        return (scores.softmax(-1) @ ids).view(outputs.shape[:-1])


class AllScores:
    """The scores of all items, what they have in common computed once for many calls.

    A cosine's products are divided by the lengths of the items' vectors afterwards: a copy of the
    vectors with length one would take as much memory as the catalogue itself.

    Args:
        head: The head.
    """

    def __init__(self, head: CatalogueHead) -> None:
        self.vectors = head.vectors
        self.items = head.items.weight
        self.bias = head.bias
        self.length_V: Tensor | None = None
        if head.scale is not None:
            self.length_V = torch.linalg.vector_norm(self.items, dim=1).clamp_min(_SHORTEST)

    def __call__(self, x: Tensor) -> Tensor:
        """`[N, input_size]` to `[N, V]`; minus infinity for padding and unknown."""
        with torch.autocast(x.device.type, enabled=False):
            vectors = self.vectors(x.to(self.items.dtype))
            if self.length_V is None:
                scores = affine(vectors, self.items, self.bias)
            else:
                scores = affine(vectors, self.items).div_(self.length_V)
                if self.bias is not None:
                    scores += self.bias
        scores[:, :FIRST_ITEM] = -torch.inf
        return scores


class SoftmaxHead(CatalogueHead):
    """Softmax over all items, cross-entropy, with no more than a few events' logits in memory."""

    @property
    def whole_table(self) -> nn.Embedding:
        """The table that each training step uses as a whole."""
        return self.items

    def training_loss(self, vectors_NH: Tensor, targets_N: Tensor) -> Tensor:
        """The exact cross-entropy in nats."""
        return self.cross_entropy(vectors_NH, targets_N)
