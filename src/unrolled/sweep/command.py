"""What `unrolled sweep` and `unrolled check FILE` do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unrolled.errors import UserError, did_you_mean
from unrolled.sweep.check import check_sweep, num_corners
from unrolled.sweep.engine import Engine, show_status
from unrolled.sweep.folder import SWEEPS, SweepFolder, open_sweep
from unrolled.sweep.space import find_sweep_file, read_sweep

SAMPLERS = ("tpe", "gp")


def run_sweep(
    file: Path,
    workers: int,
    trials: int | None,
    name: str | None,
    extra: list[str],
    *,
    status: bool = False,
    retry_failed: bool = False,
    **options: Any,
) -> int:
    """Run a sweep, go on with it, join it, or show how far it is.

    Args:
        file: The sweep file.
        workers: Processes.
        trials: See `open_sweep`.
        name: See `open_sweep`.
        extra: See `Plan`.
        status: Only show.
        retry_failed: Let failed trials run again.
        **options: Of `Plan`.

    Returns:
        The exit code.

    Raises:
        UserError: When the sweep can't be run.
    """
    if options.get("sampler") not in (None, *SAMPLERS):
        sampler = options["sampler"]
        raise UserError(f"--sampler {sampler}: {did_you_mean(sampler, SAMPLERS)}")
    if status:
        show_status(SweepFolder(SWEEPS / (name or read_sweep(find_sweep_file(file)).name)))
        return 0
    engine = Engine(open_sweep(file, name, trials, extra, workers=workers, **options), workers)
    if retry_failed:
        engine.retry_failed()
    return engine.run()


def check_file(arguments: list[str]) -> str:
    """Compose the corners of a sweep file's space; what to tell.

    Args:
        arguments: The file, and flags of train.py: --config-dir, --allow.

    Raises:
        UserError: With every problem that was found.
    """
    (file, *more), extra = (
        [a for a in arguments if a.endswith((".yaml", ".yml")) and not a.startswith("-")],
        [a for a in arguments if a.startswith("--")],
    )
    if more or len(extra) + 1 < len(arguments):
        raise UserError("check one sweep file at a time, and nothing beside it")
    sweep = read_sweep(find_sweep_file(Path(file)))
    sweep.extra = extra
    checked = check_sweep(sweep)
    which = "all corners" if checked.all_of_them else f"{checked.corners} of {num_corners(sweep)}"
    told = (
        f"{file}: {len(sweep.searched)} parameters, {which} of the space composed, "
        f"{sweep.metric.name} is logged"
    )
    return "\n".join([told, *(f"{file}: note: {note}" for note in sweep.notes)])
