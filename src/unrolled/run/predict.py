"""Predictions of a run's best checkpoint for new sequences.

What can be wrong with the arguments is looked at before torch is imported.
"""

from __future__ import annotations

from pathlib import Path

from unrolled.data.tables import scan, table_format, write_table
from unrolled.run.directory import RunDirectory


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
    table_format(output_path)
    scan(input_path)
    run = RunDirectory.open(run_dir)
    checkpoint = run.best_checkpoint()

    from unrolled.run.loading import load_run
    from unrolled.run.predictions import predict_source

    _, data, task = load_run(run.config(), run, checkpoint)
    names, source = data.read(input_path)
    table = predict_source(task, source, data.eval_batch_size)
    for index, name in enumerate(names.column_names):
        table = table.add_column(index, name, names[name])
    write_table(table, output_path)
    return len(table)
