"""Loading checkpoints only into what they belong to."""

from __future__ import annotations

from pathlib import Path

from unrolled.errors import UserError
from unrolled.run.check_checkpoint import require_finite_weights
from unrolled.run.checkpoint_files import read_checkpoint
from unrolled.tasks.base import SequenceTask


def class_path(task: object) -> str:
    """The full name of a task's class, by which its checkpoints are known."""
    return f"{type(task).__module__}.{type(task).__qualname__}"


def load_weights(task: SequenceTask, path: Path, *, finite: bool = False) -> None:
    """Load the weights of a checkpoint into a task.

    Args:
        task: Built from the run's config.
        path: A checkpoint; only tensors and plain data are read, no code is executed.
        finite: Whether to refuse weights that are not finite.

    Raises:
        UserError: When the file can't be read or belongs to another task or model.
    """
    checkpoint = read_checkpoint(path)
    own = class_path(task)
    about = checkpoint.get("unrolled")
    other = about.get("task") if isinstance(about, dict) else None
    if other != own:
        raise UserError(f"{path}: the checkpoint is of the task '{other}', this run's is '{own}'")
    if finite:
        require_finite_weights(checkpoint, path)
    try:
        task.load_state_dict(checkpoint["state_dict"])
    except (RuntimeError, TypeError, AttributeError, KeyError) as error:
        problems = [line.strip() for line in str(error).splitlines()[1:4]] or [str(error)]
        raise UserError(
            f"{path}: the checkpoint's weights do not fit this run's model:", *problems
        ) from error
