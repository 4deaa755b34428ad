"""Versions, commit and device of a run, for environment.json."""

from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import lightning
import torch

PACKAGES = ("unrolled", "torch", "lightning", "torchmetrics", "hydra-core", "wandb", "duckdb",
            "pyarrow", "numpy")  # fmt: skip


def environment(trainer: lightning.Trainer) -> dict[str, Any]:
    """Versions, commit and device: what a stranger needs to do the same again."""
    root = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *arguments],
                capture_output=True, text=True, timeout=5, check=True,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    device = trainer.strategy.root_device
    return {
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "commit": commit,
        "uncommitted_changes": bool(git("status", "--porcelain")) if commit else None,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": trainer.world_size,
        "threads": torch.get_num_threads(),
    }
