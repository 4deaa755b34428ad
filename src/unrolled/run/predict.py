"""Predictions of a run's best checkpoint for new sequences.

What can be wrong with the arguments is looked at before torch is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unrolled.data.files import matching_files
from unrolled.data.outputs import TABLES, require_output, write_table
from unrolled.data.tables import table_format
from unrolled.run.allowed import require_trusted_sources
from unrolled.run.directory import RunDirectory
from unrolled.run.old_runs import NOT_USED_AFTERWARDS, require_known_classes

if TYPE_CHECKING:
    import pyarrow as pa

    from unrolled.data.batching import Source
    from unrolled.data.module import SequenceData


def predict(run_dir: Path, input_path: Path, output_path: Path) -> int:
    """Predict the sequences of a file.

    Args:
        run_dir: A run with a checkpoint.
        input_path: Parquet or CSV in the shape that the run's data has.
        output_path: Parquet, CSV, Arrow or Feather by its name; none of the files that are read.

    Returns:
        The number of sequences.

    Raises:
        UserError: When the run, the input or the output is not usable; nothing is written then.
    """
    require_output(output_path, TABLES, [input_path, *RunDirectory.open(run_dir).files_to_keep()])
    table_format(input_path)
    matching_files(input_path)
    # The run's query is run on the new file, if it reads the table `log`.
    query = (RunDirectory.open(run_dir).config()["data"].get("source") or {}).get("query")
    new = {"source": {"path": str(input_path), "query": query}}
    require_trusted_sources(run_dir, {"data": new})
    table = _predict(run_dir, lambda data: data.read(input_path))
    write_table(table, output_path)
    return len(table)


def predict_one(run_dir: Path, text: str) -> dict[str, Any]:
    """Predict a sequence that was typed.

    Returns:
        The columns of the prediction by name.

    Raises:
        UserError: When the run is not usable, or the text no sequence of its data.
    """
    table = _predict(run_dir, lambda data: data.parse(text))
    row: dict[str, Any] = table.to_pylist()[0]
    return row


def _predict(
    run_dir: Path, sequences: Callable[[SequenceData], tuple[pa.Table, Source]]
) -> pa.Table:
    run = RunDirectory.open(run_dir)
    require_known_classes(run, NOT_USED_AFTERWARDS)
    checkpoint = run.best_checkpoint()

    from unrolled.run.loading import load_run
    from unrolled.run.predictions import beside, named, predict_source, with_names

    _, data, task = load_run(run.config(), run, checkpoint)
    names, source = sequences(data)
    with named(checkpoint, lambda error: _name(names, error.first)):
        predicted = predict_source(task, source, data.eval_batch_size)
    return beside(names, with_names(predicted, data.class_names()))


def _name(names: pa.Table, index: int) -> str:
    """What names a sequence in the output; its place, from 1, where nothing does."""
    row = names.slice(index, 1).to_pylist()[0] if names.num_columns else {}
    return ", ".join(f"{column}={value}" for column, value in row.items()) or str(index + 1)
