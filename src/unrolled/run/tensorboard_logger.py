"""TensorBoard, into the run directory."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger


def tensorboard_logger(run_dir: Path) -> TensorBoardLogger:
    """A logger whose files are in the run directory's `tensorboard/`.

    Args:
        run_dir: The run directory.
    """
    return TensorBoardLogger(run_dir, name="tensorboard", version="")
