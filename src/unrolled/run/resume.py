"""Going on with a run: which one, and with what config."""

from __future__ import annotations

from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import yaml

from unrolled.errors import UserError
from unrolled.run.check import check
from unrolled.run.directory import LAST, RunDirectory, task_name
from unrolled.run.drift import MAY_DIFFER, drift, identities, judged_otherwise
from unrolled.run.old_runs import require_known_classes
from unrolled.run.overrides import CommandLine, changed, typed_values
from unrolled.run.store_folder import with_own_stores

LIMITS = ("max_steps", "max_epochs", "max_time")
"""Arguments of the trainer that say how far a run goes."""

MOST_SHOWN = 6
"""Differences of two configs that are shown."""


def resume(path: Path, config: dict[str, Any] | None, line: CommandLine) -> RunDirectory:
    """The run to go on with, its config changed where that is allowed.

    Args:
        path: A run directory.
        config: What was composed, where a whole experiment was typed beside `resume=`.
        line: What was typed; its values count where no experiment was.

    Raises:
        UserError: When there is nothing to go on from, or the config would compute something else.
    """
    run = RunDirectory.open(path)
    require_known_classes(run)
    with run.locked():
        status = run.status()
        stopped = status.get("state") == "interrupted" and status.get("steps")
        # One that ended before its first checkpoint begins again.
        if not run.can_go_on and (stopped or status.get("state") == "finished"):
            raise UserError(f"{path}: checkpoints/{LAST} is missing; there is nothing to resume")
        before = run.config()
        now = config if config is not None else _with_values(before, line)
        if config is None and "data.store_dir" not in line.values:
            now = with_own_stores(now, run)
        now = {**now, **{key: before.get(key) for key in ("run_dir", "resume", "name")}}
        other = [key for key in LIMITS if _limit(now, key) != _limit(before, key)]
        done = {"max_steps": status.get("steps"), "max_epochs": status.get("epochs")}
        for key in done.keys() & other:
            if 0 <= _limit(now, key) < (done[key] or 0):
                raise UserError(
                    f"trainer.{key}={_limit(now, key)}: {path} has done {done[key]} already; a run "
                    "can only be made longer"
                )
        bound = {"total_steps", "T_max"} & set(before.get("scheduler") or {})
        if bound and {"max_steps", "max_epochs"} & set(other):
            raise UserError(
                f"the scheduler's {bound.pop()} was fixed when the run began: a run of another "
                "length needs a new start, or scheduler=constant from the beginning"
            )
        if changed := drift(before, now):
            raise UserError(
                f"{path} can't go on with another experiment:",
                *changed[:MOST_SHOWN],
                *([f"and {len(changed) - MOST_SHOWN} more"] if len(changed) > MOST_SHOWN else []),
                f"a run may go on with other values of {', '.join(MAY_DIFFER[:-2])}",
            )
        if now != before:
            run.write("config.yaml", yaml.safe_dump(now, sort_keys=False))
            # Also where there is nothing more to train: the test is done again.
            if (other or judged_otherwise(before, now)) and status.get("state") == "finished":
                run.set_status(state="interrupted")
    return run


def find(config: dict[str, Any]) -> RunDirectory | None:
    """The latest run that computes what a config asks for; None where there is none.

    Args:
        config: Composed and checked. With `run_dir` it is that run or none.

    Raises:
        UserError: When another experiment is in `run_dir`; `resume` tells the difference.
    """
    if config.get("run_dir"):
        run = RunDirectory(Path(config["run_dir"]))
        return run if (run.path / "config.yaml").is_file() else None
    wanted = identities(config)
    found = [
        RunDirectory(status.parent)
        for status in Path("runs", task_name(config)).glob("*/status.json")
    ]
    # How long a run is to be is no part of its identity, but of what was asked for.
    same = [
        run
        for run in found
        if run.status().get("identity") in wanted and same_limits(run.config(), config)
    ]
    return max(same, key=lambda run: float(run.status().get("created", 0)), default=None)


def same_limits(config: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two configs let a run go equally far."""
    return all(_limit(config, key) == _limit(other, key) for key in LIMITS)


def _limit(config: dict[str, Any], key: str) -> Any:
    value = config["trainer"].get(key)
    return -1 if value is None else value


def _with_values(config: dict[str, Any], line: CommandLine) -> dict[str, Any]:
    """A run's config with the values that were typed beside `resume=`.

    Raises:
        UserError: For what a run can't go on with, and for values of the wrong type.
    """
    typed = {key: value for key, value in typed_values(line).items() if key != "resume"}
    if groups := [key for key in typed if isinstance(config.get(key), dict)]:
        raise UserError(
            f"resume goes on with the run's own config; {groups[0]}={line.values[groups[0]]} would "
            "choose another. Type the whole experiment beside resume=, or single values: "
            "trainer.max_steps=..."
        )
    checked = check(
        changed(config, typed),
        lambda key: "command line" if ".".join(key) in line.values else "",
        # Not what the run was allowed: its config may be another's by now.
        frozenset(line.allowed),
    )
    # Not all of what is checked: a default that is new since the run began is none of the run's.
    as_checked = {key: reduce(getitem, key.split("."), checked) for key in typed}
    return changed(config, as_checked)
