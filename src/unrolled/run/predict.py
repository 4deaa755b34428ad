"""Predictions of a run's best checkpoint, for its own splits and for new sequences."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import torch

from unrolled.data.batching import BatchLoader, Source
from unrolled.data.module import SequenceData, Split
from unrolled.data.tables import table_format, write_table
from unrolled.run.directory import RunDirectory
from unrolled.tasks.base import SequenceTask


def predict(run_dir: Path, input_path: Path, output_path: Path) -> int:
    """Predict the sequences of a file.

    Args:
        run_dir: A run with a checkpoint.
        input_path: Parquet or CSV in the shape that the run's data has.
        output_path: Parquet or CSV.

    Returns:
        The number of sequences.

    Raises:
        UserError: When the run, the input or the output is not usable; nothing is written then.
    """
    from unrolled.run.evaluate import load_run

    table_format(output_path)
    run = RunDirectory.open(run_dir)
    _, data, task = load_run(run, run.best_checkpoint())
    names, source = data.read(input_path)
    table = predict_source(task, source, data.eval_batch_size)
    for index, name in enumerate(names.column_names):
        table = table.add_column(index, name, names[name])
    write_table(table, output_path)
    return len(table)


def predict_split(task: SequenceTask, data: SequenceData, split: Split) -> pa.Table:
    """Predictions, with the sequences' own ids and targets, for a split of the run's data."""
    source = data.source(split)
    table = predict_source(task, source, data.eval_batch_size)
    table = table.add_column(0, "target", pa.array(source.targets().cpu().numpy()))
    ids = data.sequence_ids(split)
    return table if ids is None else table.add_column(0, "id", ids)


@torch.inference_mode()
def predict_source(task: SequenceTask, source: Source, batch_size: int) -> pa.Table:
    """The columns of `task.predictions`, one row a sequence in the source's order."""
    was_training = task.training
    task.eval()
    parts: dict[str, list[torch.Tensor]] = {}
    for batch in BatchLoader(source, batch_size):
        for name, values in task.predictions(task(batch.to(task.device))).items():
            parts.setdefault(name, []).append(values.cpu())
    task.train(was_training)
    return pa.table({name: torch.cat(values).numpy() for name, values in parts.items()})
