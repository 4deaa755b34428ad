"""From a batch's features to the encoder's input: `[batch, time, output_size]`."""

from __future__ import annotations

from typing import Literal, cast

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.data.schema import PADDING_ID, Categorical, Schema
from unrolled.models.types import Probability


def _as_channels(values: Tensor) -> Tensor:
    # A numeric feature is one channel [batch, time] or several [batch, time, feature].
    return values.unsqueeze(-1) if values.dim() == 2 else values


class DenseEmbedding(nn.Module):
    """Numeric features as they are and categorical ones one-hot, side by side.

    Args:
        schema: The features.
        size: Channels of a learned linear map on top; None goes without one.
        dropout: Share of the channels set to zero in training.
    """

    def __init__(
        self, schema: Schema, size: PositiveInt | None = None, dropout: Probability = 0.0
    ) -> None:
        super().__init__()
        self.features = schema.features
        width = sum(f.num_ids if isinstance(f, Categorical) else f.size for f in schema.features)
        self.project = nn.Identity() if size is None else nn.Linear(width, size)
        self.dropout = nn.Dropout(dropout)
        self.output_size = width if size is None else size

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Features `[batch, time]` each, to `[batch, time, output_size]`."""
        channels = [
            F.one_hot(features[f.name].long(), f.num_ids).float()
            if isinstance(f, Categorical)
            else _as_channels(features[f.name])
            for f in self.features
        ]
        x = self.project(channels[0] if len(channels) == 1 else torch.cat(channels, -1))
        dropped: Tensor = self.dropout(x)
        return dropped


class EventEmbedding(nn.Module):
    """A learned vector for every id of a categorical feature, numeric features beside them.

    Args:
        schema: The features.
        size: Channels for each categorical feature; `auto` takes
            `min(64, round(1.6 * num_ids ** 0.56))`, fastai's rule of thumb.
        dropout: Share of the channels set to zero in training.
        std: Deviation of the vectors' channels at the start; torch's own is 1. Beside a feature
            that starts small, others that start large are all that an encoder hears.
    """

    def __init__(
        self,
        schema: Schema,
        size: PositiveInt | Literal["auto"] = "auto",
        dropout: Probability = 0.0,
        std: PositiveFloat = 1.0,
    ) -> None:
        super().__init__()
        self.features = schema.features
        # By position: a column may be called `type` or `event.type`, a module may not.
        self.tables = nn.ModuleList()
        self.output_size = 0
        for f in schema.features:
            if isinstance(f, Categorical):
                width = min(64, round(1.6 * f.num_ids**0.56)) if size == "auto" else size
                self.tables.append(nn.Embedding(f.num_ids, width, padding_idx=PADDING_ID))
                self.output_size += width
            else:
                self.output_size += f.size
        with torch.no_grad():
            for table in self.tables:
                cast(nn.Embedding, table).weight.mul_(std)
        self.dropout = nn.Dropout(dropout)

    def table(self, feature: str) -> nn.Embedding:
        """The vectors of a categorical feature, for a head that scores with them."""
        names = [f.name for f in self.features if isinstance(f, Categorical)]
        table = self.tables[names.index(feature)]
        assert isinstance(table, nn.Embedding)
        return table

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Features `[batch, time]` each, to `[batch, time, output_size]`."""
        tables = iter(self.tables)
        channels = [
            next(tables)(features[f.name])
            if isinstance(f, Categorical)
            else _as_channels(features[f.name])
            for f in self.features
        ]
        x: Tensor = self.dropout(channels[0] if len(channels) == 1 else torch.cat(channels, -1))
        return x
