"""The description of an event log: which column is what. Described, not coded.

This module imports neither torch nor DuckDB: a description is checked before anything is loaded.

What is left out, in this order:

1. events without a sequence (or user), and those of other types than `keep_types`;
2. with `user` and `session_gap`, the rest is cut into sessions;
3. exact copies of an event, with `duplicates: drop`;
4. events at or after the first `target_event` of a sequence, or the moment `asked_at`;
5. sequences with fewer than `min_length` events;
6. events of an item that `min_support` events have not; then 5 again;
7. all but the last `max_length` events of a sequence;
8. the sequences are split;
9. with `training_items_only`, events of validation and test whose item training has not; then 5
   again.

This is how the data sets of the session-based literature are made (Hidasi et al., ICLR 2016).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field

from unrolled.data.check_description import description_problems
from unrolled.data.files import Digests, LogFiles, LogQuery, TextFormat, matching_files

if TYPE_CHECKING:
    import pyarrow as pa

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
EventType: TypeAlias = str | int | float | bool
"""The type of an event as a config names it; it is compared with the log's by value."""
Table: TypeAlias = "Path | LogFiles | LogQuery | pa.Table | pa.RecordBatchReader"
"""Where rows come from: files, a query, or Arrow data that a generator made."""


@dataclass(frozen=True, kw_only=True)
class LogColumns:
    """What the columns of an event log mean.

    Args:
        sequence: Column that names the sequence (the session) of an event; or give `user`.
        user: Column that names the user, whose history is the sequence, or is cut into sessions by
            `session_gap`.
        session_gap: Minutes without an event of the user after which the next begins a session.
        time: Column with the time of an event, a timestamp or a number; None where there is none.
            A timestamp without a zone is one of `time_zone`.
        time_unit: Unit of numeric times, or the format of times that are digits or text, as
            in Python's strptime: `%d.%m.%Y %H:%M`. `auto` goes by a number's size: below 1e11
            seconds (the year 5138), then milliseconds, from 1e14 microseconds, from 1e17
            nanoseconds; a column that falls into two of them is an error. Digits that all are
            dates, from year to day or to the second (20230115093000), are read as such.
        time_zone: Zone of the times that name none, for example Europe/Berlin. Of the hour that
            autumn has twice the second is meant.
        order: Column by which the events of a sequence are ordered; None takes the time. Events
            that are equal in it stay in the order of the file's rows.
        event_type: Column with the type of an event; needed by `target_event` and `keep_types`.
        keep_types: Events of other types are left out; none leaves out nothing.
        item: Column with the item of an event, a categorical feature too; what `task=next_item`
            asks for.
        categorical: Columns that become ids, from vocabularies of the training sequences.
        numeric: Columns that become numbers, and how, by statistics of the training sequences:
            `standard` takes off the mean and divides by the deviation; `log` takes log(1 + x)
            first, for amounts and durations; `quantile` takes the rank among the training values,
            scaled to mean 0 and deviation 1, for anything with a long tail.
        decimal: Sign before the fraction of a number that is written as text.
        gap: Add the feature `gap`: seconds since the previous event of the sequence, as `log`.
            None adds it where there is a time.
        gap_unit: Seconds that count as one in that logarithm, `log(1 + gap / gap_unit)`; shorter
            gaps look much alike to a model. Below 1 where most gaps are. The same for `age`.
        hour_of_week: Add the categorical feature `hour_of_week`: 0 to 167, from Monday 0:00 UTC.
        duplicates: What to do with an event that is equal to another of its sequence in order and
            in all columns that are used: `keep` it, `drop` it, or refuse such a log as an `error`.
        label: Column with the label of a sequence, 0 or 1 (or true and false, yes and no, t and f,
            y and n), in the log or in the label table.
        target_event: Without a label column: a sequence is labelled 1 when it has an event of this
            type, and its input ends before the first of them. Types are compared by value: 2 is
            2.0.
        asked_at: Column with the moment at which the label is asked, one value a sequence, written
            as a time can be; in the label table if there is one, else in the log. It adds the
            feature `age`: seconds from an event to that moment, as `log`; at the last event, how
            long nothing has happened. Events at or after the moment are left out.
        split: Column that says `train`, `val` (also `dev`, `valid`, `validation`) or `test` for a
            sequence.
        split_by: Without a split column: `time` of the sequence's first event, or `user`, by a
            hash of the user (of the sequence, where there is no user). By `time` a training
            sequence can go on after the first test sequence begins; `test_days` divides by the end.
        val_fraction: Without a split column: the share of sequences to validate on. With one that
            has no `val`: the share of the training sequences, the last ones. 0 for none.
        test_fraction: Without a split column: the share of sequences, the last ones, to test on.
        val_days: In the place of `val_fraction`: the days before the test's.
        test_days: In the place of `test_fraction`: a sequence is tested on when it ends in the last
            so many days of the log, counted back from the last event of the sequences that the
            filters keep; both ends of the days belong to them. A sequence with a target event ends
            at that event, one with `asked_at` at that moment. Where all sequences end at midnight
            the days are whole dates.
        min_length: Shorter sequences are left out.
        min_support: Events of items with fewer events than this are left out.
        training_items_only: Leave out events of validation and test whose item no training
            sequence has; otherwise they are kept, as the unknown item.
        max_length: Of a longer sequence only the last `max_length` events are kept.
    """

    sequence: str | None = None
    user: str | None = None
    session_gap: Positive | None = None
    time: str | None = None
    time_unit: str = "auto"
    time_zone: str = "UTC"
    order: str | None = None
    event_type: str | None = None
    keep_types: Sequence[EventType] = ()
    item: str | None = None
    categorical: Sequence[str] = ()
    numeric: Mapping[str, Literal["standard", "log", "quantile"]] = field(default_factory=dict)
    decimal: Literal[".", ","] = "."
    gap: bool | None = False
    gap_unit: Annotated[float, Field(gt=0)] = 1.0
    hour_of_week: bool = False
    duplicates: Literal["keep", "drop", "error"] = "keep"
    label: str | None = None
    target_event: EventType | None = None
    asked_at: str | None = None
    split: str | None = None
    split_by: Literal["time", "user"] = "time"
    val_fraction: Fraction = 0.1
    test_fraction: Fraction = 0.1
    val_days: Positive | None = None
    test_days: Positive | None = None
    min_length: Annotated[int, Field(ge=1)] = 1
    min_support: Annotated[int, Field(ge=1)] = 1
    training_items_only: bool = False
    max_length: Annotated[int, Field(ge=1)] | None = None

    def __post_init__(self) -> None:
        if self.gap is None:
            object.__setattr__(self, "gap", self.time is not None)

    @property
    def key(self) -> str:
        """The column that names the sequence or the user."""
        key = self.sequence if self.sequence is not None else self.user
        assert key is not None
        return key

    @property
    def key_option(self) -> str:
        """The config key of that column."""
        return "sequence" if self.sequence is not None else "user"

    @property
    def own_order(self) -> str | None:
        """The column of the order, where it is another than the time."""
        return None if self.order == self.time else self.order

    @property
    def used_type(self) -> str | None:
        """The column of the event types, where the preparation itself looks at them."""
        asked = self.target_event is not None or self.keep_types or self.duplicates != "keep"
        return self.event_type if asked else None

    @property
    def compared_type(self) -> str | None:
        """The same where it is no feature, by which copies of an event would be told apart."""
        return None if self.used_type in self.categories else self.used_type

    @property
    def categories(self) -> list[str]:
        """All columns that become ids, the item first."""
        return [*([self.item] if self.item is not None else []), *self.categorical]

    @property
    def labelled(self) -> bool:
        """Whether sequences have a label."""
        return self.label is not None or self.target_event is not None

    @property
    def features(self) -> dict[str, str]:
        """The features in the order of the store, each with its kind or transform."""
        return {
            **dict.fromkeys(self.categories, "categorical"),
            **({"hour_of_week": "categorical"} if self.hour_of_week else {}),
            **self.numeric,
            **({"gap": "log"} if self.gap else {}),
            **({"age": "log"} if self.asked_at is not None else {}),
        }

    def problems(self) -> list[str]:
        """What can't be right about the description, whatever the file holds."""
        return description_problems(self)


@dataclass(frozen=True, kw_only=True)
class EventLog(LogColumns):
    """An event log in files, or what a query gives or makes of them: one row an event.

    Args:
        path: Parquet, CSV or Arrow, one file or a glob. Several files are joined by the names of
            their columns.
        query: A query in DuckDB's SQL, over whatever its connectors read; it runs at every start,
            to see whether its result is still the same. With `path` it reads those files as the
            table `log`, and new data in their place; without, it names its files itself.
        names: Names of the columns of a CSV without a header line.
        separator: Separator of a CSV, if its first line does not show it.
        quote: Sign around a CSV's values that hold the separator; empty for none.
        encoding: Encoding of a CSV, for example latin-1, cp1252 or utf-16.
        nulls: Texts that stand for a missing value, in any column and format, beside the empty one.
        labels: Table of labels (and splits), one row a sequence, with the sequence column; None
            where label and split are columns of the log itself.
    """

    path: Path | None = None
    query: str | None = None
    names: Sequence[str] | None = None
    separator: str | None = None
    quote: str = '"'
    encoding: str = "utf-8"
    nulls: Sequence[str] = ()
    labels: Path | None = None

    def columns(self) -> LogColumns:
        """The description without the files."""
        names = LogColumns.__dataclass_fields__
        return LogColumns(**{name: getattr(self, name) for name in names})

    def problems(self) -> list[str]:
        """What can't be right about description and files, before a file is opened."""
        found = []
        if self.path is None and self.query is None:
            found.append("give path, the files of the log, or query, or both")
        if self.path is not None and self.query is not None and not self.query_reads_log:
            found.append(
                "the query does not read the table log, which stands for the files of path; write "
                "FROM log, or give one of the two"
            )
        if self.path is None and self.query is not None and self.query_reads_log:
            found.append(
                "the query reads the table log, which stands for the files of path: give it"
            )
        if len(self.quote) > 1:
            found.append("quote is one sign, or empty for none")
        if self.labels is not None and self.sequence is None:
            found.append("labels, a table by sequence, needs sequence, the column that names it")
        return found + description_problems(self)

    def fingerprint(self, digests: Digests | None = None) -> str:
        """A hash of the description and of the bytes of the files.

        Args:
            digests: Hashes of files that are known already.

        Raises:
            UserError: When a file is missing or can't be read.
        """
        digests = Digests() if digests is None else digests
        digest = hashlib.sha256(description_json(self.columns()).encode())
        text = self._text
        if self.names is not None or self.separator is not None:
            names = None if self.names is None else list(self.names)
            digest.update(json.dumps([names, self.separator]).encode())
        if text != TextFormat(text.names, text.separator) or self.nulls:
            more = [text.quote, text.encoding, *self.nulls]
            digest.update(json.dumps(more).encode())
        if self.query is not None and (self.path is None or self.query_reads_log):
            from unrolled.data.queries import query_digest

            files = None if self.path is None else self.files(Path(self.path))
            digest.update(query_digest(self.query, files).encode())
        for pattern in filter(None, (self.path, self.labels)):
            for file in matching_files(Path(pattern)):
                digest.update(bytes.fromhex(digests.of(file)))
        return digest.hexdigest()

    def tables(self) -> dict[str, Table | None]:
        """The events and the labels, as files."""
        labels = None if self.labels is None else LogFiles(Path(self.labels))
        if self.path is None:
            assert self.query is not None
            return {"events": LogQuery(self.query), "labels": labels}
        return {"events": self.other(Path(self.path)), "labels": labels}

    def other(self, path: Path) -> LogFiles | LogQuery:
        """Other files, read instead of this log.

        A query that reads the table `log` is applied to them. In the place of any other query they
        stand for its result.
        """
        files = self.files(path)
        if self.query is not None and self.query_reads_log:
            return LogQuery(self.query, files)
        return files

    def files(self, path: Path) -> LogFiles:
        """Other files that are written like this log's."""
        return LogFiles(path, self._text, tuple(self.nulls))

    @property
    def _text(self) -> TextFormat:
        names = None if self.names is None else tuple(self.names)
        return TextFormat(names, self.separator, self.quote, self.encoding)

    @property
    def query_reads_log(self) -> bool:
        """Whether the query reads the table `log`, and so can be applied to other files."""
        from unrolled.data.queries import reads_log

        assert self.query is not None
        return reads_log(self.query)


_LATER = ("decimal", "time_zone", "asked_at")
"""Options that came later; stores of descriptions without them are still found."""


def description_json(columns: LogColumns) -> str:
    """The description as canonical JSON: equal descriptions give equal text."""
    described = asdict(columns)
    for name in _LATER:
        if described[name] == getattr(LogColumns, name):
            del described[name]
    return json.dumps(described, sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value)
