"""Predictions of a loaded task, as tables."""

from __future__ import annotations

import pyarrow as pa
import torch

from unrolled.data.batching import BatchLoader, Source
from unrolled.data.module import SequenceData, Split
from unrolled.tasks.base import SequenceTask


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
