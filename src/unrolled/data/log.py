"""The description of an event log: which column is what. Described, not coded.

This module imports neither torch nor DuckDB: a description is checked before anything is loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from unrolled.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

RESERVED = ("id", "label", "event_time")
"""The store's own columns."""

Fraction = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class LogColumns:
    """What the columns of an event log mean.

    Args:
        sequence: Column that names the sequence (the session) of an event.
        order: Column by which the events of a sequence are ordered.
        time: Column with the time of an event, a timestamp or seconds; None where there is none.
        event_type: Column with the type of an event; needed by `target_event` alone.
        item: Column with the item of an event, a categorical feature too; what `task=next_item`
            asks for.
        categorical: Columns that become ids, from vocabularies of the training sequences.
        numeric: Columns that become numbers, and how: `standard` takes off the training mean and
            divides by the training deviation; `log` takes log(1 + x) first, for amounts and
            durations.
        gap: Add the feature `gap`: seconds since the previous event of the sequence, as `log`.
        gap_unit: Seconds that count as one in that logarithm, `log(1 + gap / gap_unit)`; shorter
            gaps look much alike to a model. Below 1 where most gaps are.
        label: Column with the label of a sequence, 0 or 1, in the log or in the label table.
        target_event: Without a label column: a sequence is labelled 1 when it has an event of this
            type, and its input ends before the first of them.
        split: Column that says `train`, `val` (also `dev`, `valid`, `validation`) or `test` for a
            sequence.
        val_fraction: Without a split column: the share of sequences to validate on; the sequences
            are split by the time of their first event. With one that has no `val`: the share of
            the training sequences, the last ones.
        test_fraction: Without a split column: the share of sequences, the last ones, to test on.
        min_length: Shorter sequences are left out.
        max_length: Of a longer sequence only the last `max_length` events are kept.
    """

    sequence: str
    order: str
    time: str | None = None
    event_type: str | None = None
    item: str | None = None
    categorical: Sequence[str] = ()
    numeric: Mapping[str, Literal["standard", "log"]] = field(default_factory=dict)
    gap: bool = False
    gap_unit: Annotated[float, Field(gt=0)] = 1.0
    label: str | None = None
    target_event: str | None = None
    split: str | None = None
    val_fraction: Fraction = 0.1
    test_fraction: Fraction = 0.1
    min_length: Annotated[int, Field(ge=1)] = 1
    max_length: Annotated[int, Field(ge=1)] | None = None

    @property
    def categories(self) -> list[str]:
        """All columns that become ids, the item first."""
        return [*([self.item] if self.item is not None else []), *self.categorical]

    @property
    def labelled(self) -> bool:
        """Whether sequences have a label."""
        return self.label is not None or self.target_event is not None

    def problems(self) -> list[str]:
        """What can't be right about the description, whatever the file holds."""
        found = []
        if self.label is not None and self.target_event is not None:
            found.append("give either label (a column) or target_event (an event type), not both")
        if self.target_event is not None and self.event_type is None:
            found.append("target_event needs event_type, the column that holds it")
        if self.gap and self.time is None:
            found.append("gap needs time, the column it is computed from")
        if self.split is None and self.time is None:
            found.append("a split by time needs time; or give split, a column")
        if self.val_fraction + self.test_fraction >= 1:
            found.append("val_fraction and test_fraction leave nothing to train on")
        if not (self.categories or self.numeric or self.gap):
            found.append("there is no feature: give item, categorical, numeric or gap")
        of_sequence = {"label": self.label, "split": self.split, "sequence": self.sequence}
        for key, column in of_sequence.items():
            if column is not None and column in {*self.categories, *self.numeric}:
                found.append(f"'{column}' is the {key}; as a feature it would give the answer away")
        both = set(self.categories) & set(self.numeric)
        if both:
            found.append(f"categorical and numeric both name {', '.join(sorted(both))}")
        features = [*self.categories, *self.numeric]
        twice = {name for name in self.categories if self.categories.count(name) > 1}
        if twice:
            found.append(f"item and categorical name {', '.join(sorted(twice))} more than once")
        if self.gap and "gap" in features:
            found.append("gap adds a feature of that name, which a column has already")
        reserved = sorted({name for name in features if name.lower() in RESERVED})
        if reserved:
            found.append(f"a feature can't be called {', '.join(reserved)}: the store's own column")
        if self.max_length is not None and self.max_length < self.min_length:
            found.append(f"max_length={self.max_length} is below min_length={self.min_length}")
        return found


@dataclass(frozen=True, kw_only=True)
class EventLog(LogColumns):
    """An event log in files: one row an event.

    Args:
        path: Parquet or CSV, one file or a glob.
        labels: Table of labels (and splits), one row a sequence, with the sequence column; None
            where label and split are columns of the log itself.
    """

    path: Path
    labels: Path | None = None

    def columns(self) -> LogColumns:
        """The description without the files."""
        names = LogColumns.__dataclass_fields__
        return LogColumns(**{name: getattr(self, name) for name in names})

    def fingerprint(self) -> str:
        """A hash of the description and of the bytes of the files.

        Raises:
            UserError: When a file is missing or can't be read.
        """
        digest = hashlib.sha256(description_json(self.columns()).encode())
        for pattern in filter(None, (self.path, self.labels)):
            for file in matching_files(Path(pattern)):
                try:
                    with file.open("rb") as stream:
                        digest.update(hashlib.file_digest(stream, "sha256").digest())
                except OSError as error:
                    raise UserError(f"{file}: can't be read: {error.strerror}") from error
        return digest.hexdigest()

    def tables(self) -> dict[str, Path | pa.Table | None]:
        """The events and the labels, as files."""
        return {
            "events": Path(self.path),
            "labels": None if self.labels is None else Path(self.labels),
        }


def description_json(columns: LogColumns) -> str:
    """The description as canonical JSON: equal descriptions give equal text."""
    return json.dumps(asdict(columns), sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value)


def matching_files(pattern: Path) -> list[Path]:
    """The file `pattern`, or else the files that it matches as a glob, in order.

    Raises:
        UserError: When there is none.
    """
    if pattern.is_file():
        return [pattern]
    if pattern.is_dir():
        raise UserError(f"{pattern}: is a folder; give a file or a glob, for example *.parquet")
    files = sorted(file for file in pattern.parent.glob(pattern.name) if file.is_file())
    if not files:
        raise UserError(missing_file_message(pattern))
    return files


def missing_file_message(path: Path) -> str:
    """What to say when a data file is not there."""
    hint = ""
    if "UNROLLED_DATA-is-not-set" in str(path):
        return (
            f"{path}: this data set is found through the environment variable UNROLLED_DATA, "
            "which is not set; set it to the folder that holds the data sets"
        )
    if not path.parent.exists():
        hint = f"; there is no folder {path.parent}"
    return f"{path}: no such file{hint}"
