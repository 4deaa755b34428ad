"""What `unrolled sweep` and `unrolled check FILE` do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unrolled.errors import UserError
from unrolled.run.overrides import read_command_line
from unrolled.sweep.check import check_sweep, num_corners
from unrolled.sweep.engine import Engine, show_status
from unrolled.sweep.folder import SWEEPS, SweepFolder, open_sweep
from unrolled.sweep.points import require_sampler
from unrolled.sweep.repeats import advice
from unrolled.sweep.space import find_sweep_file, read_sweep


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
    if options.get("sampler") is not None:
        require_sampler(options["sampler"])
    if status and retry_failed:
        raise UserError("--status only shows; leave it out to let failed trials run again")
    if status:
        show_status(SweepFolder(SWEEPS / (name or read_sweep(find_sweep_file(file)).name)))
        return 0
    folder = open_sweep(file, name, trials, extra, workers=workers, **options)
    # Also that of a sweep that was begun elsewhere.
    require_sampler(folder.plan.sampler)
    engine = Engine(folder, workers)
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
    files = [a for a in arguments if a.endswith((".yaml", ".yml")) and not a.startswith("-")]
    extra = [a for a in arguments if a not in files]
    line = read_command_line(extra, needs_task=False)
    if len(files) != 1 or line.overrides or line.shows or line.multirun:
        raise UserError("check one sweep file at a time, with nothing but --config-dir and --allow")
    (file,) = files
    sweep = read_sweep(find_sweep_file(Path(file)))
    sweep.extra = extra
    checked = check_sweep(sweep)
    which = (
        "all corners"
        if checked.all_of_them
        else f"{checked.corners} of {num_corners(sweep)} corners"
    )
    told = (
        f"{file}: {len(sweep.searched)} parameters, {which} of the space composed, "
        f"{sweep.metric.name} is logged"
    )
    notes = [f"note: {note}" for note in (*sweep.notes, *advice(sweep))]
    warnings = [f"warning: {warning}" for warning in sweep.warnings]
    return "\n".join([told, *(f"{file}: {text}" for text in (*warnings, *notes))])
