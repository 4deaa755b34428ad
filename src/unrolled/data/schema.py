"""What a sequence's columns mean: the contract between data, models and tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

PADDING_ID = 0
UNKNOWN_ID = 1


@dataclass(frozen=True)
class Categorical:
    """A column of ids: 0 is padding, 1 is unknown, values seen in training follow.

    Args:
        name: The column.
        num_ids: Number of ids, padding and unknown included.
    """

    name: str
    num_ids: int


@dataclass(frozen=True)
class Numeric:
    """A column of real values, already on the scale that the model sees; 0 where padded.

    Args:
        name: The column.
        size: Channels: 1 for `[batch, time]`, more for `[batch, time, size]`.
    """

    name: str
    size: int = 1


@dataclass(frozen=True)
class Schema:
    """The features of a batch and its target.

    Args:
        features: The columns of `SequenceBatch.features`, in the order the model sees them.
        num_classes: The target is an integer in 0 .. num_classes - 1; None for a real number.
        per_step: Whether every step has a target, `[batch, time]`, or every sequence, `[batch]`.
        target_mean: Mean of the training targets, where they are real numbers.
        target_std: Their standard deviation.
        target_feature: The categorical feature whose next value is the target; None where it is
            no feature.
    """

    features: tuple[Categorical | Numeric, ...]
    num_classes: int | None
    per_step: bool = False
    target_mean: float = 0.0
    target_std: float = 1.0
    target_feature: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it back."""
        kinds = {Categorical: "categorical", Numeric: "numeric"}
        return {
            "features": [{"kind": kinds[type(f)], **asdict(f)} for f in self.features],
            "num_classes": self.num_classes,
            "per_step": self.per_step,
            "target_mean": self.target_mean,
            "target_std": self.target_std,
            "target_feature": self.target_feature,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Schema:
        """The schema that `to_dict` wrote."""
        kinds = {"categorical": Categorical, "numeric": Numeric}
        features = tuple(
            kinds[f["kind"]](**{k: v for k, v in f.items() if k != "kind"})
            for f in data["features"]
        )
        return cls(**{**data, "features": features})
