"""Runs that are trained in the test's own process."""

from __future__ import annotations

from pathlib import Path

import lightning

from unrolled.data.module import SequenceData
from unrolled.run.compose import compose
from unrolled.run.directory import RunDirectory
from unrolled.run.experiment import Experiment
from unrolled.run.overrides import read_command_line
from unrolled.run.trainer import build_trainer
from unrolled.run.training import build_experiment, quiet
from unrolled.tasks.base import SequenceTask


class Run:
    """What `train` builds, before it is trained.

    Args:
        folder: The run directory; one that is there already goes on from its last checkpoint.
        *typed: As on the command line.
    """

    trainer: lightning.Trainer
    data: SequenceData
    task: SequenceTask

    def __init__(self, folder: Path, *typed: str) -> None:
        config = compose(read_command_line([*typed, "logger=none", "trainer=cpu"])).config
        self.last = folder / "checkpoints" / "last.ckpt"
        resumes = self.last.exists()
        self.directory = (
            RunDirectory(folder) if resumes else RunDirectory.create(config, folder, "")
        )
        experiment = Experiment(**config)
        quiet()
        lightning.seed_everything(experiment.seed, verbose=False)
        self.data, self.task = build_experiment(experiment)
        self.trainer = build_trainer(experiment, self.directory, self.data, self.task)

    def fit(self) -> None:
        """Train it."""
        last = self.last if self.last.exists() else None
        self.trainer.fit(self.task, datamodule=self.data, ckpt_path=last, weights_only=True)
