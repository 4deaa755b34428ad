"""The machines of a run beside the first: they join what that one has made."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from unrolled.errors import UserError
from unrolled.run.directory import RunDirectory, config_hash
from unrolled.run.launch import launch, prepare_data
from unrolled.run.machines import SECONDS_TO_MEET
from unrolled.run.resume import same_limits
from unrolled.terminal import say


def join(config: dict[str, Any], path: Path, *, goes_on: bool = False) -> int:
    """Work on a run that the first of its machines makes.

    Args:
        config: Composed here, to be the same as the run's.
        path: The run directory, which all machines see.
        goes_on: Whether the run may be there already. Then the first machine judges whether it can
            go on with this config.

    Returns:
        As `launch`.

    Raises:
        UserError: When the run does not come, is an old one, or has another config.
    """
    say(f"waiting for the first machine to make {path}")
    run = RunDirectory(path)
    deadline = time.monotonic() + SECONDS_TO_MEET
    while not run.status().get("state"):
        if time.monotonic() > deadline:
            raise UserError(
                f"run_dir={path}: the first machine has not made it within "
                f"{SECONDS_TO_MEET // 60} minutes; do all machines see the same folder?"
            )
        time.sleep(0.2)
    if goes_on and run.status()["state"] == "finished" and same_limits(run.config(), config):
        # The first machine shows the result, and starts nothing.
        return 0
    if not goes_on:
        if run.status()["state"] not in ("created", "running"):
            raise UserError(f"run_dir={path} exists already; name another folder")
        require_same(run.config(), config)
    # Where the machines have no disk in common, each prepares its own data.
    prepare_data(config)
    code = launch(run)
    if code:
        say(f"{path}: the first machine tells why the run ended", stderr=True)
    return code


def require_same(config: dict[str, Any], other: dict[str, Any]) -> None:
    """Refuse to work on a run that would differ from machine to machine.

    Args:
        config: Of the run.
        other: Composed on this machine.

    Raises:
        UserError: With the values that differ.
    """
    if config_hash(config) == config_hash(other):
        return
    first, own = flat(config), flat(other)
    keys = [k for k in first | own if k != "run_dir" and first.get(k) != own.get(k)]
    raise UserError(
        f"this machine composed another config ({config_hash(other)[:12]}) than the first one "
        f"({config_hash(config)[:12]}):",
        *(f"{k}: {own.get(k, 'missing')} here, {first.get(k, 'missing')} there" for k in keys),
    )


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """The leaves of a config by their dotted keys."""
    if isinstance(value, dict) and value:
        parts = [flat(v, f"{key}.{k}" if key else str(k)) for k, v in value.items()]
        return {k: v for part in parts for k, v in part.items()}
    return {key: value}
