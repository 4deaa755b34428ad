"""Which run of W&B a run directory is: its own, or the one that a sweep's agent has begun."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from unrolled.run.directory import RunDirectory

_OF_NO_RUN = ("dummy", "dummy")
"""Project and entity that W&B made up under WANDB_MODE=disabled, and earlier versions kept."""


@dataclass
class WandbRun:
    """A run of W&B, kept in `wandb/run.json`: what goes on must be the same run there.

    Args:
        id: W&B's id of it.
        project: The project that it was opened in; None before that.
        entity: The user or team; None before that.
        parameters: What a sweep has chosen, as the sweep file calls it.
    """

    id: str
    project: str | None = None
    entity: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, run_dir: Path) -> WandbRun:
        """The run of a run directory, made there once.

        An agent has its own id for its trial, also for one that goes on with an earlier run.
        """
        path = _file(run_dir)
        if in_sweep():
            run = cls(os.environ["WANDB_RUN_ID"], parameters=_parameters())
        elif path.exists():
            run = cls(**json.loads(path.read_text()))
            if (run.project, run.entity) == _OF_NO_RUN:
                run.project = run.entity = None
            return run
        else:
            run = cls(os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4))
        run.write(run_dir)
        return run

    def write(self, run_dir: Path) -> None:
        """Keep it."""
        path = _file(run_dir)
        path.parent.mkdir(exist_ok=True)
        RunDirectory(path.parent).write_json(path.name, asdict(self))

    def config(self, config: dict[str, Any]) -> dict[str, Any]:
        """A run's config as W&B is to show it.

        A sweep's `model: gru` has the name of a whole section of ours, and W&B keeps the sweep's
        value alone. Such a section is told by dotted names: `model.hidden_size`.
        """
        shown = dict(config)
        for name, value in self.parameters.items():
            section = config.get(name)
            if isinstance(section, dict):
                shown |= {f"{name}.{key}": below for key, below in section.items()}
                shown[name] = value
        return shown


def in_sweep() -> bool:
    """Whether an agent of a W&B sweep has started this process."""
    return bool(os.environ.get("WANDB_SWEEP_ID") and os.environ.get("WANDB_RUN_ID"))


def _file(run_dir: Path) -> Path:
    return run_dir / "wandb" / "run.json"


def _parameters() -> dict[str, Any]:
    """What the agent has written for W&B's client to read."""
    try:
        content = yaml.safe_load(Path(os.environ["WANDB_SWEEP_PARAM_PATH"]).read_text())
    except (KeyError, OSError, yaml.YAMLError):
        return {}
    return {k: v["value"] for k, v in content.items() if isinstance(v, dict) and "value" in v}
