"""Loading checkpoints safely, and only into what they belong to."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from unrolled.errors import UserError
from unrolled.tasks.base import SequenceTask


def class_path(task: object) -> str:
    """The full name of a task's class, by which its checkpoints are known."""
    return f"{type(task).__module__}.{type(task).__qualname__}"


def load_weights(task: SequenceTask, path: Path) -> None:
    """Load the weights of a checkpoint into a task.

    Args:
        task: Built from the run's config.
        path: A checkpoint; only tensors and plain data are read, no code is executed.

    Raises:
        UserError: When the file can't be read or belongs to another task or model.
    """
    checkpoint = read_checkpoint(path)
    own = class_path(task)
    other = checkpoint.get("unrolled", {}).get("task")
    if other != own:
        raise UserError(f"{path}: the checkpoint is of the task '{other}', this run's is '{own}'")
    try:
        task.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        problems = [line.strip() for line in str(error).splitlines()[1:4]]
        raise UserError(
            f"{path}: the checkpoint's weights do not fit this run's model:", *problems
        ) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file.

    Raises:
        UserError: When it is missing or damaged.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        # torch's own advice is to load without `weights_only`, which would run code in the file.
        kind = type(error).__name__
        raise UserError(f"{path}: not a checkpoint that can be read ({kind})") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"{path}: not a checkpoint of a run: it has no state_dict")
    return checkpoint
