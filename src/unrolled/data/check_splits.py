"""Splits that can't be used are refused; odd ones are told."""

from __future__ import annotations

import numpy as np

from unrolled.data.label_log import SPLITS, Bytes
from unrolled.data.log import LogColumns
from unrolled.data.sequences import Sequences
from unrolled.data.split_log import days_begin
from unrolled.data.times import as_date
from unrolled.errors import UserError

FEW = 10
"""Fewer sequences than this, in a split or of a class in it, are told."""
SPANNING_TEST = 0.2
"""Test sequences that begin before the test's days are told from this share on."""
SPANNING_TRAIN = 0.05
"""Training sequences that go on after the next part begins are told from this share on."""


def check_splits(
    found: Sequences, split: Bytes, label: Bytes | None, columns: LogColumns, where: str
) -> None:
    """Refuse splits without a sequence, and labels of one class.

    Args:
        found: The sequences.
        split: `[sequence]`, an index of `SPLITS`, or -1.
        label: `[sequence]`; None where sequences have none.
        columns: The meaning of the columns.
        where: Name of the log in messages.

    Raises:
        UserError: With everything that was found.
    """
    name = f"column '{columns.label}'" if columns.label else f"event '{columns.target_event}'"
    problems = []
    for index, word in enumerate(SPLITS):
        inside = split == index
        total = int(inside.sum())
        if total == 0 and not _may_be_empty(columns, word):
            reason = _why_few(found, split, columns, word)
            problems.append(f"{where}: the split '{word}' has no sequence: {reason}")
        elif total and label is not None and (positive := int(label[inside].sum())) in (0, total):
            problems.append(
                f"{where}: the split '{word}' has one class only: all of its {total:,} sequences "
                f"have label {positive // total} ({name}); there is nothing to learn or to judge"
            )
    if problems:
        raise UserError(*problems)


def odd_splits(
    found: Sequences, split: Bytes, label: Bytes | None, columns: LogColumns
) -> list[str]:
    """Messages about splits that can be used but hardly mean what was wanted.

    Args:
        found: The sequences.
        split: `[sequence]`, an index of `SPLITS`, or -1.
        label: `[sequence]`; None where sequences have none.
        columns: The meaning of the columns.
    """
    odd = []
    counts = [int((split == index).sum()) for index in range(len(SPLITS))]
    small = [index for index, count in enumerate(counts) if 0 < count < FEW]
    if small:
        shown = ", ".join(f"{SPLITS[index]} {counts[index]:,}" for index in small)
        reason = ""
        if columns.test_days is not None:
            smallest = min(small, key=counts.__getitem__)
            reason = f". {_why_few(found, split, columns, SPLITS[smallest])}"
        odd.append(f"few sequences: {shown}; a metric over so few is luck{reason}")
    for index, word in enumerate(SPLITS):
        inside, total = split == index, counts[index]
        if total >= FEW and label is not None:
            positive = int(label[inside].sum())
            fewer, which = min((positive, 1), (total - positive, 0))
            if fewer < FEW:
                odd.append(
                    f"the split '{word}' has {fewer} of {total:,} sequences with label {which}: "
                    "AUROC and average precision over so few are luck; give it more sequences"
                )
        if word != "train" and total > counts[0]:
            odd.append(f"the split '{word}' has {total:,} sequences, training only {counts[0]:,}")
    if columns.split is None and columns.split_by == "time":
        odd += _spanning(found, split, columns)
    return odd


def _spanning(found: Sequences, split: Bytes, columns: LogColumns) -> list[str]:
    """Whether many sequences lie on both sides of the time that divides the parts."""
    instead = (
        "ask about a date: one row a user with the date (data.source.asked_at) and a label of "
    )
    instead += "what happens after it (data.source.labels)"
    if columns.session_gap is None:
        instead = f"cut whole histories of users by data.source.session_gap, or {instead}"
    if columns.test_days is not None:
        if columns.asked_at is not None:
            return []  # They end when they are asked about, not when a user stops coming.
        _, begin = days_begin(found, columns)
        test = split == 2
        spanning, total = int((found.begins[test] < begin).sum()), int(test.sum())
        if total < FEW or spanning < SPANNING_TEST * total:
            return []
        return [
            f"{spanning:,} of {total:,} test sequences begin before the test's days do "
            f"({as_date(begin)}), and training has only those that ended earlier: of users, those "
            f"who stopped coming. Better {instead}"
        ]
    held_out, train = split > 0, split == 0
    if not held_out.any():
        return []
    begin = float(found.begins[held_out].min())
    spanning, total = int((found.ends[train] >= begin).sum()), int(train.sum())
    if total < FEW or spanning < SPANNING_TRAIN * total:
        return []
    return [
        f"{spanning:,} of {total:,} training sequences go on after {as_date(begin)}, when the "
        "first of validation or test begins: fractions go by the first event of each, and training "
        f"sees what happens later. Split by the last event with data.source.test_days; or {instead}"
    ]


def _why_few(found: Sequences, split: Bytes, columns: LogColumns, part: str) -> str:
    """Why a part has few sequences or none, and what can be done."""
    counts = ", ".join(f"{word} {int((split == k).sum()):,}" for k, word in enumerate(SPLITS))
    option = "val_fraction" if part == "val" else "test_fraction"
    share = f"data.source.{option}={getattr(columns, option):g}"
    if columns.split is not None:
        by = f"column '{columns.split}' gives {counts}"
        return by if part != "val" else f"{by}, and {share} is a share of the training sequences"
    if columns.split_by == "user":
        return f"the hash of the users and {share} give {counts}"
    if columns.test_days is None:
        return f"{share} gives {counts}"
    val_from, test_from = days_begin(found, columns)
    train_until = test_from if val_from is None else val_from
    option, takes = {
        "train": ("test_days", f"that end before {as_date(train_until)}"),
        "val": ("val_days", f"that end from {as_date(train_until)} to before {as_date(test_from)}"),
        "test": ("test_days", f"that end at {as_date(test_from)} or later"),
    }[part]
    if part == "val" and val_from is None:
        option, takes = "val_fraction", f"that end before {as_date(test_from)}, its share of them"
    alive = np.flatnonzero(found.alive)
    last = alive[np.argsort(found.ends[alive])[-2:]][::-1]
    shown = [f"{found.id_of(k)!r} at {as_date(found.ends[k])}" for k in last]
    return (
        f"data.source.{option}={getattr(columns, option):g} gives '{part}' those {takes}. The last "
        f"sequences to end are {' and '.join(shown)}. If a time is wrong leave that sequence out "
        "of the log, else take other days"
    )


def _may_be_empty(columns: LogColumns, split: str) -> bool:
    if split == "val":
        return columns.val_fraction == 0 and columns.val_days is None
    in_fractions = columns.split is None and columns.test_days is None
    return split == "test" and in_fractions and columns.test_fraction == 0
