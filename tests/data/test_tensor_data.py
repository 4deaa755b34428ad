"""New sequences from list columns: read to the number, or refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from unrolled.data.schema import Categorical, Numeric, Schema
from unrolled.data.tensor_data import TensorData
from unrolled.data.tensors import TensorSequences
from unrolled.errors import UserError


class Made(TensorData):
    """A symbol of 6 ids, a number and pairs of numbers; nothing to train on."""

    def __init__(self, *features: Categorical | Numeric) -> None:
        super().__init__(2, 2, False, 0)
        self.features = features

    @property
    def schema(self) -> Schema:
        return Schema(self.features, 2)

    def make(self) -> dict[str, TensorSequences]:
        return {}


SYMBOL, NUMBER, PAIR = Categorical("symbol", 6), Numeric("number"), Numeric("pair", 2)


def write(path: Path, **columns: pa.Array) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
def test_list_columns_are_read_to_the_number(tmp_path: Path, kind: type) -> None:
    path = write(
        tmp_path / "new.parquet",
        symbol=pa.array([[2, 3], [5], [4, 2, 3]], kind(pa.int64())),
        number=pa.array([[0.5, -1.0], [2.0], [0.25, 0.0, 8.0]], kind(pa.float64())),
        pair=pa.array([[[1, 2], [3, 4]], [[5, 6]], [[7, 8], [9, 10], [11, 12]]]),
        more=pa.array([1, 2, 3]),
    )
    names, source = Made(SYMBOL, NUMBER, PAIR).read(path)
    assert names.to_pydict() == {"row": [0, 1, 2]}
    assert source.lengths.tolist() == [2, 1, 3]
    assert source.features["symbol"].tolist() == [[2, 3, 0], [5, 0, 0], [4, 2, 3]]
    assert source.features["number"].tolist() == [[0.5, -1, 0], [2, 0, 0], [0.25, 0, 8]]
    assert source.features["pair"].tolist() == [
        [[1, 2], [3, 4], [0, 0]],
        [[5, 6], [0, 0], [0, 0]],
        [[7, 8], [9, 10], [11, 12]],
    ]
    assert [v.dtype for v in source.features.values()] == [
        torch.int64, torch.float32, torch.float32
    ]  # fmt: skip


def test_whole_numbers_serve_as_real_ones_and_real_ones_as_ids(tmp_path: Path) -> None:
    path = write(
        tmp_path / "new.parquet", symbol=pa.array([[2.0, 3.0]]), number=pa.array([[1, 2]], None)
    )
    _, source = Made(SYMBOL, NUMBER).read(path)
    assert source.features["symbol"].tolist() == [[2, 3]]
    assert source.features["number"].tolist() == [[1.0, 2.0]]


ONE = "column 'number' must hold a list of numbers in every row"
TWO = "column 'pair' must hold a list of lists of 2 numbers in every row"
IDS = "column 'symbol' must hold ids of 0 to 5"


@pytest.mark.parametrize(
    ("feature", "column", "message"),
    [
        (NUMBER, pa.array([1.0, 2.0]), ONE),
        (NUMBER, pa.array(["1", "2"]), ONE),
        (NUMBER, pa.array([["1"], ["2"]]), ONE),
        (NUMBER, pa.array([[[1.0]], [[2.0]]]), ONE),
        (NUMBER, pa.array([{"a": 1.0}, {"a": 2.0}]), ONE),
        (NUMBER, pa.array([[1.0], None]), ONE),
        (NUMBER, pa.array([[1.0], [None]]), ONE),
        (NUMBER, pa.array([[1], [None]]), ONE),
        (NUMBER, pa.array([[1.0], [float("nan")]]), ONE),
        (NUMBER, pa.array([[1.0], [float("inf")]]), ONE),
        (NUMBER, pa.array([[1.0], []]), "row 2: 'number' has no steps"),
        (NUMBER, pa.array([[], []], pa.list_(pa.float32())), "row 1: 'number' has no steps"),
        (PAIR, pa.array([[1.0], [2.0]]), TWO),
        (PAIR, pa.array([[1.0, 2.0], [3.0, 4.0]]), TWO),
        (PAIR, pa.array([[[1.0, 2.0]], [[3.0]]]), TWO),
        (PAIR, pa.array([[[1.0, 2.0]], [None]]), TWO),
        (PAIR, pa.array([[[1.0, 2.0]], None]), TWO),
        (PAIR, pa.array([[[1.0, 2.0]], [[3.0, None]]]), TWO),
        (PAIR, pa.array([[["a", "b"]]]), TWO),
        (PAIR, pa.array([[[[1.0], [2.0]]]]), TWO),
        (PAIR, pa.array([[[1.0, 2.0]], []]), "row 2: 'pair' has no steps"),
        (PAIR, pa.array([1.0]), TWO),
        (SYMBOL, pa.array([[2], [6]]), IDS),
        (SYMBOL, pa.array([[2], [-1]]), IDS),
        (SYMBOL, pa.array([[2], [None]]), IDS),
        (SYMBOL, pa.array([[2.0], [2.5]]), IDS),
        (SYMBOL, pa.array([[2.0], [float("inf")]]), IDS),
        (SYMBOL, pa.array([["a"]]), "column 'symbol' must hold a list of numbers in every row"),
    ],
)
def test_columns_of_another_kind_are_refused(
    tmp_path: Path, feature: Categorical | Numeric, column: pa.Array, message: str
) -> None:
    path = write(tmp_path / "new.parquet", **{feature.name: column})
    with pytest.raises(UserError) as error:
        Made(feature).read(path)
    assert str(error.value) == f"{path}: {message}"


def test_columns_must_have_the_same_steps(tmp_path: Path) -> None:
    path = write(
        tmp_path / "new.parquet",
        symbol=pa.array([[2, 3], [4, 5]]),
        number=pa.array([[0.1, 0.2], [0.3]]),
    )
    with pytest.raises(UserError) as error:
        Made(SYMBOL, NUMBER).read(path)
    assert str(error.value) == f"{path}: row 2: 'number' has 1 steps, the columns before it 2"


def test_a_missing_column_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    path = write(tmp_path / "new.parquet", numbers=pa.array([[1.0]]))
    with pytest.raises(UserError) as error:
        Made(NUMBER).read(path)
    assert str(error.value) == (
        f"{path}: no column 'number' (asked for by the run's schema); did you mean 'numbers'?"
    )


def test_files_without_list_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("number\n1\n")
    with pytest.raises(UserError, match=r"new\.csv: sequences need list columns; hand in a Parq"):
        Made(NUMBER).read(tmp_path / "new.csv")
    (tmp_path / "new.parquet").write_text("number\n1\n")
    with pytest.raises(UserError, match=r"new\.parquet"):
        Made(NUMBER).read(tmp_path / "new.parquet")
    with pytest.raises(UserError, match=r"none\.parquet"):
        Made(NUMBER).read(tmp_path / "none.parquet")
    empty = write(tmp_path / "empty.parquet", number=pa.array([], pa.list_(pa.float32())))
    with pytest.raises(UserError, match="the file has no rows"):
        Made(NUMBER).read(empty)


def test_a_batch_is_cut_to_its_longest_with_its_targets() -> None:
    lengths = torch.tensor([1, 2, 4])
    x = torch.arange(12.0).view(3, 4)
    source = TensorSequences({"number": x}, torch.arange(12).view(3, 4), lengths)
    batch = source.gather(torch.tensor([1, 0]))
    assert batch.features["number"].tolist() == [[4, 5], [0, 1]]
    assert batch.targets.tolist() == [[4, 5], [0, 1]]
    assert batch.lengths.tolist() == [2, 1]
    assert batch.ids.tolist() == [1, 0]
    assert source.where(lengths > 1).lengths.tolist() == [2, 4]
    assert source.first(1).features["number"].tolist() == [[0, 1, 2, 3]]
    assert TensorSequences({"number": x}, torch.zeros(3)).lengths.tolist() == [4, 4, 4]
