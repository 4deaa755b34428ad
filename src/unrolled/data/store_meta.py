"""What `store.json` has to say, so that nothing that reads a store has to doubt it.

Its checksum proves that it is as it was written, not that it was written here: a store can come
from elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, model_validator

from unrolled.data.log import LogColumns

SPLITS = ("train", "val", "test")


class _Part(BaseModel):
    """A part of the file; what is told to the user only is not looked at."""

    model_config = ConfigDict(strict=True, extra="allow")


class Categorical(_Part):
    """A column of ids."""

    kind: Literal["categorical"]
    name: str
    num_ids: Annotated[int, Field(ge=2, lt=2**31)]


class Numeric(_Part):
    """A column of numbers."""

    kind: Literal["numeric"]
    name: str
    size: Literal[1]


class SchemaPart(_Part):
    """The features and the target."""

    features: list[Annotated[Categorical | Numeric, Field(discriminator="kind")]]
    num_classes: Literal[2] | None
    per_step: Literal[False]
    target_mean: FiniteFloat
    target_std: Annotated[FiniteFloat, Field(gt=0)]
    target_feature: None


class Scale(_Part):
    """What standardises a column."""

    mean: FiniteFloat
    std: Annotated[FiniteFloat, Field(gt=0)]


class Ranks(_Part):
    """The quantiles by which a column is ranked."""

    quantiles: Annotated[list[FiniteFloat], Field(min_length=2, max_length=2**16)]


class Count(_Part):
    """The size of a split."""

    sequences: NonNegativeInt
    events: NonNegativeInt
    positive: NonNegativeInt

    @model_validator(mode="after")
    def _agrees(self) -> Count:
        if not self.positive <= self.sequences <= self.events:
            raise ValueError(
                f"{self.positive:,} positive of {self.sequences:,} sequences of {self.events:,} "
                "events can't be"
            )
        return self


class Account(_Part):
    """What was read; the rest of it is only told."""

    backward: NonNegativeInt


class StoreMeta(_Part):
    """The whole file."""

    fingerprint: str
    description: LogColumns
    time_unit: str | None
    feature_schema: SchemaPart = Field(alias="schema")
    statistics: dict[str, Scale | Ranks]
    counts: dict[Literal["train", "val", "test"], Count]
    read: Account
    sizes: dict[str, NonNegativeInt]
    checksums: dict[str, str]

    @model_validator(mode="after")
    def _agrees(self) -> StoreMeta:
        features = self.feature_schema.features
        kinds = [(f.name, f.kind) for f in features]
        described = [
            (name, "categorical" if kind == "categorical" else "numeric")
            for name, kind in self.description.features.items()
        ]
        numeric = [f.name for f in features if isinstance(f, Numeric)]
        files = {f"{split}-00000.arrow" for split in SPLITS}
        files |= {str(vocabulary_file(f.name)) for f in features if isinstance(f, Categorical)}
        for name, agree in {
            "schema.features": kinds == described,
            "statistics": list(self.statistics) == numeric,
            "counts": set(self.counts) == set(SPLITS),
            "sizes": set(self.sizes) == set(self.checksums) == files,
            # An offset of 8 bytes for each sequence.
            "counts.sequences": all(
                8 * count.sequences <= self.sizes.get(f"{split}-00000.arrow", 0)
                for split, count in self.counts.items()
            ),
        }.items():
            if not agree:
                raise ValueError(f"{name} does not go with the rest of the file")
        return self


def vocabulary_file(column: str) -> Path:
    """The file of a column's vocabulary in a store; the column's name may hold a slash."""
    return Path("vocab", f"{quote(column, safe=' ')}.parquet")
