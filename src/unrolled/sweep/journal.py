"""The journal of a sweep after a disk has damaged it: what is whole goes on, the rest is told.

Optuna replays the journal line by line and gives the trials their numbers by counting, so that a
line can't simply be cut out. A damaged one is replaced: by a record that begins a trial where later
lines speak of a trial that never began, else by a record that changes nothing. The run directories
hold what trials have computed: one whose end is lost is taken up again and is found finished.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from optuna.storages.journal._storage import JournalOperation as Operation

from unrolled.errors import UserError

_OF_STUDY = {Operation.CREATE_TRIAL, Operation.SET_STUDY_USER_ATTR, Operation.SET_STUDY_SYSTEM_ATTR}
_OF_TRIAL = {
    Operation.SET_TRIAL_PARAM: "a parameter of trial {}, for the sampler",
    Operation.SET_TRIAL_STATE_VALUES: "the end of trial {}, which is taken up from its directory",
    Operation.SET_TRIAL_INTERMEDIATE_VALUE: "a value in the history of trial {}",
    Operation.SET_TRIAL_USER_ATTR: "a note on trial {}; without its values it does not count",
    Operation.SET_TRIAL_SYSTEM_ATTR: "a note of the sampler on trial {}",
}
_COPY = ".damaged"


@dataclass
class _Scan:
    """What the lines of a journal are.

    Args:
        lines: As they are in the file, each with its end.
        damaged: Places of those that are no records.
        studies: The damaged places that began the study.
        trials: The damaged places that began a trial.
        whole: Number of records.
    """

    lines: list[bytes]
    damaged: list[int] = field(default_factory=list)
    studies: set[int] = field(default_factory=set)
    trials: set[int] = field(default_factory=set)
    whole: int = 0


def mend(
    path: Path,
    study: str,
    goal: Literal["minimize", "maximize"],
    alone: Callable[[], AbstractContextManager[Any]],
) -> list[str]:
    """Replace damaged lines of a journal, after a copy of it was made.

    Args:
        path: The journal; nothing happens where there is none, or nothing is wrong.
        study: Name of the sweep's study.
        goal: Direction of the sweep's metric.
        alone: Within, nobody else writes.

    Returns:
        A message for each line.

    Raises:
        UserError: If the file is no journal, or too much of it is lost.
    """
    if not path.is_file() or not _scan(path).damaged:
        return []
    with alone():
        scan = _scan(path)
        shutil.copyfile(path, path.with_suffix(_COPY))
        told = []
        for place in scan.damaged:
            old = scan.lines[place]
            scan.lines[place] = _instead(place, scan, study, goal, len(old))
            told.append(
                f"{path}:{place + 1}: damaged; lost: {_lost(old, place, scan)}; the sweep goes on "
                f"with the rest (a copy is {path.with_suffix(_COPY).name})"
            )
        mended = path.with_suffix(".mended")
        mended.write_bytes(b"".join(scan.lines))
        mended.replace(path)
    return told


def _scan(path: Path) -> _Scan:
    # What follows the last newline is half a line of a process that was killed: whoever writes next
    # takes it back.
    lines = [line + b"\n" for line in path.read_bytes().split(b"\n")[:-1]]
    scan = _Scan(lines)
    studies = trials = 0
    for place, line in enumerate(lines):
        record = _record(line)
        if record is None:
            scan.damaged.append(place)
            continue
        scan.whole += 1
        operation = record["op_code"]
        unclear = [p for p in scan.damaged if p not in scan.trials | scan.studies]
        if operation == Operation.CREATE_STUDY:
            studies += 1
        elif not studies:
            scan.studies.update(_take(path, unclear[:1], 1))
            studies, unclear = 1, unclear[1:]
        if operation == Operation.CREATE_TRIAL:
            trials += 1
        elif operation in _OF_TRIAL and (missing := record["trial_id"] + 1 - trials) > 0:
            scan.trials.update(_take(path, unclear, missing))
            trials += missing
    if lines and not scan.whole:
        raise _too_much(path, f"none of its {len(lines)} lines is a record of a sweep")
    return scan


def _take(path: Path, unclear: list[int], number: int) -> list[int]:
    if len(unclear) < number:
        raise _too_much(path, "it speaks of trials whose beginning is nowhere in it")
    return unclear[-number:]


def _too_much(path: Path, why: str) -> UserError:
    return UserError(
        f"{path}: can't be read: {why}. Move it away: the same command then begins a new ledger, "
        "and takes up the run directories that are here as their points come again"
    )


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or record.get("op_code") not in list(Operation):
        return None
    needed = {"worker_id", *({"trial_id"} if record["op_code"] in _OF_TRIAL else ())}
    needed |= {"study_id"} if record["op_code"] in _OF_STUDY else set()
    return record if needed <= set(record) else None


def _instead(place: int, scan: _Scan, study: str, goal: str, length: int) -> bytes:
    record: dict[str, Any] = {"worker_id": "mended"}
    if place in scan.studies:
        directions = [1 if goal == "minimize" else 2]
        record |= {"op_code": 0, "study_name": study, "directions": directions}
    elif place in scan.trials:
        record |= {"op_code": int(Operation.CREATE_TRIAL), "study_id": 0, "datetime_start": None}
    else:
        record |= {"op_code": int(Operation.SET_STUDY_USER_ATTR), "study_id": 0,
                   "user_attr": {"damaged": place + 1}}  # fmt: skip
    text = json.dumps(record, separators=(",", ":")).encode()
    # As long as the old one, so that others who know their place in the file still do.
    return text.ljust(length - 1) + b"\n"


def _lost(line: bytes, place: int, scan: _Scan) -> str:
    if place in scan.studies:
        return "the name of the sweep, which its folder has too"
    if place in scan.trials:
        return "when a trial began"
    operation = re.search(rb'"op_code": ?(\d+)', line)
    trial = re.search(rb'"trial_id": ?(\d+)', line)
    for known, words in _OF_TRIAL.items():
        if operation and trial and int(operation[1]) == known:
            return words.format(int(trial[1]))
    return "one entry, which can't be told any more"
