"""Each way in which the file of a split can be wrong has its message."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unrolled.data.check_arrow import check_ids, open_batch, read_vocabulary_table
from unrolled.data.schema import Categorical, Numeric
from unrolled.errors import UserError

FEATURES = (Categorical("kind", 6), Numeric("price"))
GOOD = {
    "id": pa.array(["a", "b", "c"]),
    "label": pa.array([0, 1, 0], pa.int32()),
    "kind": pa.array([[2, 3], [4], [5, 2]], pa.large_list(pa.int32())),
    "price": pa.array([[0.5, 1], [2], [3, 4]], pa.large_list(pa.float32())),
}


def written(columns: dict[str, pa.Array], batches: int = 1, compression: Any = None) -> pa.Buffer:
    batch = pa.RecordBatch.from_arrays(list(columns.values()), list(columns))
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.BufferOutputStream() as sink:
        with pa.ipc.new_file(sink, batch.schema, options=options) as writer:
            for _ in range(batches):
                writer.write_batch(batch)
        return sink.getvalue()


def with_offsets(offsets: Sequence[int], columns: int = 2) -> pa.Buffer:
    """The good file with other offsets in its first columns: Arrow itself would not write them."""
    right, wrong = (np.array(of, np.int64).tobytes() for of in ([0, 2, 3, 5], offsets))
    whole = written(GOOD).to_pybytes()
    assert whole.count(right) == 2
    return pa.py_buffer(whole.replace(right, wrong, columns))


def refused(whole: pa.Buffer) -> str:
    with pytest.raises(UserError) as error:
        check_ids(open_batch(whole, Path("s.arrow"), FEATURES), Path("s.arrow"), FEATURES)
    return str(error.value)


def test_a_file_that_is_right_is_read_without_a_copy() -> None:
    whole = written(GOOD)
    batch = open_batch(whole, Path("s.arrow"), FEATURES)
    check_ids(batch, Path("s.arrow"), FEATURES)
    assert batch.to_pydict() == {name: column.to_pylist() for name, column in GOOD.items()}
    values = batch["kind"].values.buffers()[1]
    assert whole.address < values.address < whole.address + whole.size


@pytest.mark.parametrize(
    ("offsets", "columns", "said"),
    [
        ([0, 2, 3, 2**31 - 1], 2, "can't be read as a file of a store: In column 2: Invalid: "
         "Offset invariant failure: offset for slot 3 out of bounds: 2147483647 > 5"),
        ([0, 2**62, 3, 5], 2, "can't be read as a file of a store: In column 2: Invalid: Offset"),
        ([0, -1, 3, 5], 2, "can't be read as a file of a store: In column 2: Invalid: Offset"),
        ([-2, 2, 3, 5], 2, "can't be read as a file of a store: In column 2: Invalid: "),
        ([1, 2, 3, 5], 2, "has events that belong to no sequence"),
        ([0, 2, 3, 4], 2, "has events that belong to no sequence"),
        ([0, 3, 3, 5], 2, "has 1 sequences without an event"),
        ([0, 1, 3, 5], 1, "its columns have sequences of different lengths"),
    ],
)  # fmt: skip
def test_offsets_that_do_not_lie_inside_are_refused(
    offsets: list[int], columns: int, said: str
) -> None:
    message = refused(with_offsets(offsets, columns))
    assert message.startswith(f"s.arrow: {said}")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"kind": GOOD["kind"].cast(pa.large_list(pa.int64()))},
         "column 'kind' is of the type large_list<item: int64>, not lists of int32"),
        ({"price": GOOD["kind"]},
         "column 'price' is of the type large_list<item: int32>, not lists of float"),
        ({"label": pa.array([0.0, 1, 0])}, "its labels are of the type double"),
        ({"label": pa.array([0, 7, 0])}, "has labels that are neither 0 nor 1"),
        ({"id": pa.array([[1], [2], [3]])}, "its ids are of the type list<item: int64>"),
        ({"more": GOOD["kind"]},
         "has the columns id, label, kind, price, more, not id, label, kind, price"),
        ({"kind": pa.array([[2, 3], None, [5, 2]], GOOD["kind"].type)},
         "has sequences or events without a value"),
        ({"kind": pa.array([[2, 3], [None], [5, 2]], GOOD["kind"].type)},
         "has sequences or events without a value"),
        ({"kind": pa.array([[2, 6], [4], [-1, 0]], GOOD["kind"].type)},
         "3 values of 'kind' are no ids of its vocabulary, which are 1 to 5"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)  # fmt: skip
def test_columns_that_no_store_has_are_refused(columns: dict[str, pa.Array], said: str) -> None:
    message = refused(written({**GOOD, **columns}))
    assert message.startswith(f"s.arrow: {said}")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        (written(GOOD, 0), "has less than one record batch"),
        (written(GOOD, 2), "has more than one record batch"),
        (pa.py_buffer(b""), "is no Arrow file"),
        (pa.py_buffer(b"PAR1" * 9), "is no Arrow file"),
        (written(GOOD)[:8], "can't be read as a file of a store: StopIteration"),
        (written(GOOD)[:700], "can't be read as a file of a store: Expected to read 392 metadata"),
    ],
)
def test_files_that_are_none_of_a_store_are_refused(whole: pa.Buffer, said: str) -> None:
    assert refused(whole).startswith(f"s.arrow: {said}")


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_columns_are_refused_before_they_are_unpacked(
    compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = {n: pa.array([[2] * 10**5] * 3, GOOD[n].type) for n in ("kind", "price")}
    whole = written({**GOOD, **long}, compression=compression)
    assert whole.size < 10**5
    before = pa.total_allocated_bytes()
    assert refused(whole) == "s.arrow: its columns are compressed, as no store has them"
    assert pa.total_allocated_bytes() - before < 10**5
    monkeypatch.setattr("unrolled.data.check_arrow._is_compressed", lambda batch: False)
    kept = open_batch(whole, Path("s.arrow"), FEATURES)
    assert pa.total_allocated_bytes() - before > 2 * 10**6
    del kept


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"value": ["a", "b", "c"]}, "has 3 values, and store.json says 4"),
        ({"other": ["a", "b", "c", "d"]}, "has 4 values, and store.json says 4"),
        ({"value": ["a", "b", None, "d"]}, "has values that are null"),
        (None, "can't be read as a vocabulary: "),
    ],
)
def test_a_vocabulary_that_does_not_go_with_the_store_is_refused(
    table: dict[str, list[str]] | None, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "kind.parquet"
    path.write_bytes(b"PAR1 and nothing more")
    if table is not None:
        pq.write_table(pa.table(table), path)
    with pytest.raises(UserError) as error:
        read_vocabulary_table(path, 6)
    assert str(error.value).startswith(f"{path}: {said}")
