"""A run's data and task with the weights of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unrolled.data.module import SequenceData
from unrolled.run.check import check
from unrolled.run.check_checkpoint import no_larger_than
from unrolled.run.checkpoint import load_weights
from unrolled.run.checkpoint_files import require_whole
from unrolled.run.directory import RunDirectory
from unrolled.run.experiment import Experiment
from unrolled.tasks.base import SequenceTask


def load_run(
    config: dict[str, Any], run: RunDirectory, checkpoint: Path
) -> tuple[Experiment, SequenceData, SequenceTask]:
    """Build data and task and load a checkpoint's weights.

    Args:
        config: The run's, or one with other data.
        run: Its `schema/` says how new events are encoded.
        checkpoint: Of the run, or of one with the same task and model.

    Raises:
        UserError: When the config is none of a run, the data can't be read, or the checkpoint does
            not fit.
    """
    # Whoever wrote the run: keys and values that no composition would let through.
    config = {**config, "callbacks": {}, "logger": {}}
    check(config)
    experiment = Experiment(**config)
    data = experiment.build_data()
    data.load_schema(run.path / "schema")
    require_whole(checkpoint)
    with no_larger_than(checkpoint):
        task = experiment.build_task(data, for_training=False)
    load_weights(task, checkpoint, finite=True)
    return experiment, data, task.eval()
