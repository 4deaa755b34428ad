"""The LightningDataModule of sequences that lie in memory as tensors."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from unrolled.data.module import SequenceData, Split
from unrolled.data.schema import Categorical, Numeric
from unrolled.data.tables import read_text_columns, require_column, table_format
from unrolled.data.tensors import TensorSequences
from unrolled.errors import UserError


class TensorData(SequenceData):
    """Three splits as padded tensors on the device that trains; see `SequenceData`."""

    def __init__(
        self,
        batch_size: int,
        eval_batch_size: int,
        shuffle: bool,
        seed: int,
        workers: int = 0,
        hpo_val: float = 0.0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, shuffle, seed, workers, hpo_val)
        self._splits: dict[str, TensorSequences] = {}

    @abstractmethod
    def make(self) -> dict[str, TensorSequences]:
        """All sequences by split, `train`, `val` and `test`; the same on every process."""

    def setup(self, stage: str | None = None) -> None:
        """Make the sequences."""
        if not self._splits:
            self._splits = self.make()

    def source(self, split: Split) -> TensorSequences:
        """The sequences of a split."""
        self.setup()
        return self._splits[split].to(self.device)

    def read(self, path: Path) -> tuple[pa.Table, TensorSequences]:
        """Sequences from a Parquet file: a list column for each feature, one row a sequence.

        Raises:
            UserError: When a column is missing, is no list of numbers, or lists differ in length.
        """
        if table_format(path) != "parquet":
            raise UserError(f"{path}: sequences need list columns; hand in a Parquet file")
        table = read_text_columns(path)
        if len(table) == 0:
            raise UserError(f"{path}: the file has no rows")
        known = dict.fromkeys(table.column_names, "")
        features, lengths = {}, None
        for feature in self.schema.features:
            require_column(feature.name, known, path, "the run's schema")
            column = table[feature.name].combine_chunks()
            features[feature.name], own = _padded(column, feature, path)
            if lengths is not None and not torch.equal(own, lengths):
                row = int((own != lengths).nonzero()[0])
                raise UserError(
                    f"{path}: row {row + 1}: '{feature.name}' has {int(own[row])} steps, "
                    f"the columns before it {int(lengths[row])}"
                )
            lengths = own
        assert lengths is not None
        rows = pa.array(np.arange(len(table)))
        none = torch.zeros(len(table), dtype=torch.int64)
        return pa.table({"row": rows}), TensorSequences(features, none, lengths).to(self.device)


def _padded(column: pa.Array, feature: Categorical | Numeric, path: Path) -> tuple[Tensor, Tensor]:
    """A list column as `[sequence, time]` (or with channels) and its lengths."""
    name, size = feature.name, getattr(feature, "size", 1)
    what = "numbers" if size == 1 else f"lists of {size} numbers"
    wrong = UserError(f"{path}: column '{name}' must hold a list of {what} in every row")
    if not _is_list(column.type) or column.null_count:
        raise wrong
    offsets = torch.from_numpy(column.offsets.to_numpy().astype(np.int64))
    numbers = column.values
    if size > 1:
        if not _is_list(numbers.type) or (np.diff(numbers.offsets.to_numpy()) != size).any():
            raise wrong
        numbers = numbers.values
    try:
        values = torch.from_numpy(numbers.to_numpy(zero_copy_only=False).copy())
    except (TypeError, pa.ArrowException):
        raise wrong from None
    lengths = offsets.diff()
    if int(lengths.min()) < 1:
        row = int((lengths < 1).nonzero()[0])
        raise UserError(f"{path}: row {row + 1}: '{name}' has no steps")
    if isinstance(feature, Categorical):
        ids = values.long()
        if int(ids.min()) < 0 or int(ids.max()) >= feature.num_ids or bool((ids != values).any()):
            raise UserError(f"{path}: column '{name}' must hold ids of 0 to {feature.num_ids - 1}")
        values = ids
    else:
        values = values.float()
        if not torch.isfinite(values).all():
            raise wrong
    if size > 1:
        values = values.view(-1, size)
    step = torch.arange(int(lengths.max()))
    real = step < lengths.unsqueeze(1)
    shape = (*real.shape, size) if size > 1 else real.shape
    padded = values.new_zeros(shape)
    padded[real] = values[int(offsets[0]) : int(offsets[-1])]
    return padded, lengths


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))
