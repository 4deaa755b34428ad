"""Predictions of a loaded task, as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from unrolled.data.batching import CELLS, BatchLoader, Source
from unrolled.data.module import SequenceData, Split
from unrolled.data.streams import StreamLoader
from unrolled.errors import TrainingError, UserError
from unrolled.tasks.base import SequenceTask
from unrolled.tasks.finite_outputs import FiniteOutputs, NotFiniteError


def predict_split(task: SequenceTask, data: SequenceData, split: Split) -> pa.Table:
    """Predictions, with the sequences' own ids and targets, for a split of the run's data.

    Raises:
        NotFiniteError: When one of them is not finite.
    """
    source = data.source(split)
    loader = data.make_loader(source, train=False, num_ranks=1)
    if isinstance(loader, StreamLoader):
        table = predict_streams(task, loader)
    else:
        table = predict_source(task, source, data.eval_batch_size, targets=True)
    table = with_names(table, data.class_names())
    names = data.sequence_names(split)
    return table if names is None else beside(names, table)


def beside(names: pa.Table, table: pa.Table) -> pa.Table:
    """The columns that name the sequences, then those of their predictions."""
    for index, name in enumerate(names.column_names):
        table = table.add_column(index, name, names[name])
    return table


@torch.inference_mode()
def predict_streams(task: SequenceTask, loader: StreamLoader) -> pa.Table:
    """Predictions for streams as they are tested, a window at a time; one row a stream."""
    was_training = task.training
    task.eval()
    parts: dict[str, list[Tensor]] = {}
    finite, seen = FiniteOutputs(task), set[int]()
    for window in loader:
        predicted = task.predict_batch(window.to(task.device))
        seen.update(window.ids.tolist())
        for name, values in {"target": window.targets, **predicted}.items():
            parts.setdefault(name, []).append(values.cpu())
            if name in predicted:
                finite.note(window, values)
    task.train(was_training)
    if (error := finite.close(len(seen), alone=True)) is not None:
        raise error
    whole = {name: torch.cat(values, 1) for name, values in parts.items()}
    lengths = torch.full((len(whole["target"]),), whole["target"].shape[1])
    return pa.table({name: _column(values, lengths) for name, values in whole.items()})


def with_names(table: pa.Table, names: pa.Array | None) -> pa.Table:
    """Predicted classes (and targets) by their names, where they have any."""
    if names is None:
        return table
    for index, column in enumerate(table.column_names):
        if column in ("prediction", "recommended", "target"):
            array = table[column].combine_chunks()
            if pa.types.is_list(array.type):
                # A step without a target has a negative class.
                classes = pc.if_else(pc.less(array.values, 0), None, array.values)
                named = pa.ListArray.from_arrays(array.offsets, names.take(classes))
            else:
                named = names.take(array)
            table = table.set_column(index, column, named)
    return table


@torch.inference_mode()
def predict_source(
    task: SequenceTask, source: Source, batch_size: int, *, targets: bool = False
) -> pa.Table:
    """The columns of `task.predictions`, one row a sequence in the source's order.

    Args:
        task: With its weights.
        source: The sequences.
        batch_size: Sequences at a time.
        targets: Whether to put the targets before the predictions.

    Returns:
        A prediction for each step is a list, as long as the sequence.

    Raises:
        NotFiniteError: When one of them is not finite.
    """
    was_training = task.training
    task.eval()
    parts: dict[str, list[pa.Array]] = {}
    finite = FiniteOutputs(task)
    order: list[Tensor] = []
    for batch in BatchLoader(source, batch_size, CELLS):
        order.append(batch.ids.cpu())
        columns = task.target_columns(batch.targets) if targets else {}
        predicted = task.predict_batch(batch.to(task.device))
        for values in predicted.values():
            finite.note(batch, values)
        for name, values in (columns | predicted).items():
            parts.setdefault(name, []).append(_column(values.cpu(), batch.lengths))
    task.train(was_training)
    if (error := finite.close(len(source), alone=True)) is not None:
        raise error
    table = pa.table({name: pa.chunked_array(arrays) for name, arrays in parts.items()})
    # Long sequences came first.
    places = torch.cat(order).argsort()
    return table if bool(places.diff().eq(1).all()) else table.take(pa.array(places.numpy()))


def _column(values: Tensor, lengths: Tensor) -> pa.Array:
    """`[batch]` as numbers, `[batch, time]` as lists without the padding, `[batch, 1, k]` whole."""
    if values.dim() == 1:
        return pa.array(values.numpy())
    if values.dim() == 3:
        whole = torch.full_like(lengths, values.shape[2])
        return _column(values.squeeze(1), whole)
    real = torch.arange(values.shape[1]) < lengths.unsqueeze(1)
    # A task may have asked of fewer steps than there are.
    offsets = np.concatenate([[0], real.sum(1).cumsum(0).numpy()]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[real].numpy()))


@contextmanager
def named(
    checkpoint: Path,
    name: Callable[[NotFiniteError], str],
    kind: type[UserError | TrainingError] = UserError,
) -> Iterator[None]:
    """Say of predictions that are not finite whose they are.

    Args:
        checkpoint: The checkpoint that predicts.
        name: Name of the first sequence with such a prediction.
        kind: The error to raise.

    Raises:
        UserError: Or `kind`, with the checkpoint, the number of sequences and the first of them.
    """
    try:
        yield
    except NotFiniteError as error:
        raise kind(
            f"{checkpoint}: {error}, the first is sequence {name(error)}; its weights or the "
            "numbers that it read are not finite or too large. Use another checkpoint of the run, "
            "or train it anew with a smaller optimizer.lr"
        ) from error


def tested(data: SequenceData, error: NotFiniteError) -> str:
    """Name of a tested sequence: its index, from 0, and its id if its data have ids."""
    test = list(data.test_sources())[error.test]
    ids = data.sequence_ids("test") if test == "test" else None
    name = "" if ids is None else f" ({ids[error.first].as_py()!r})"
    return f"{error.first} of {test}{name}"
