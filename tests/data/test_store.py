"""The jagged store: the same as a loop over sequences, without copying the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.data.schema import Categorical, Numeric, Schema
from unrolled.data.store import JaggedSequences, read_meta
from unrolled.data.write_store import write_arrow as _write_arrow
from unrolled.errors import UserError

SCHEMA = Schema((Categorical("kind", 9), Numeric("price")), num_classes=2)

ragged = st.lists(
    st.lists(
        st.tuples(st.integers(1, 8), st.floats(-9, 9, width=32)), min_size=1, max_size=7
    ),
    min_size=1,
    max_size=12,
)  # fmt: skip


def _table(sequences: list[list[tuple[int, float]]]) -> pa.Table:
    n = len(sequences)
    return pa.table(
        {
            "id": pa.array([f"s{i}" for i in range(n)]),
            "label": pa.array([i % 2 for i in range(n)], pa.int32()),
            "kind": pa.array([[k for k, _ in s] for s in sequences], pa.list_(pa.int32())),
            "price": pa.array([[p for _, p in s] for s in sequences], pa.list_(pa.float32())),
        }
    )


@settings(max_examples=25, deadline=None)
@given(sequences=ragged)
def test_a_file_opened_is_the_table_it_was_written_from(
    tmp_path_factory: pytest.TempPathFactory, sequences: list[list[tuple[int, float]]]
) -> None:
    path = tmp_path_factory.mktemp("store") / "a.arrow"
    table = _table(sequences)
    _write_arrow(table, path)
    opened, made = JaggedSequences.open(path, SCHEMA), JaggedSequences.from_table(table, SCHEMA)
    assert len(opened) == len(made) == len(sequences)
    assert torch.equal(opened.offsets, made.offsets)
    assert opened.offsets.dtype == made.offsets.dtype == torch.int64
    assert torch.equal(opened.targets(), made.targets())
    assert opened.targets().tolist() == [i % 2 for i in range(len(sequences))]
    for name in ("kind", "price"):
        assert torch.equal(opened.columns[name], made.columns[name])
        assert opened.columns[name].dtype == made.columns[name].dtype


@settings(max_examples=25, deadline=None)
@given(sequences=ragged, data=st.data())
def test_a_gathered_batch_is_what_a_loop_over_its_sequences_gives(
    sequences: list[list[tuple[int, float]]], data: st.DataObject
) -> None:
    store = JaggedSequences.from_table(_table(sequences), SCHEMA)
    indices = data.draw(st.lists(st.integers(0, len(sequences) - 1), min_size=1, max_size=9))
    batch = store.gather(torch.tensor(indices))
    chosen = [sequences[i] for i in indices]
    longest = max(len(s) for s in chosen)
    assert batch.lengths.tolist() == [len(s) for s in chosen]
    assert batch.ids.tolist() == indices
    assert batch.targets.tolist() == [i % 2 for i in indices]
    for column, name in enumerate(("kind", "price")):
        padded = [[e[column] for e in s] + [0] * (longest - len(s)) for s in chosen]
        assert batch.features[name].tolist() == padded


@settings(max_examples=10, deadline=None)
@given(sequences=ragged, data=st.data())
def test_a_slice_of_a_table_holds_its_own_sequences(
    sequences: list[list[tuple[int, float]]], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(sequences) - 1))
    part = JaggedSequences.from_table(_table(sequences).slice(start), SCHEMA)
    batch = part.gather(torch.arange(len(part)))
    assert [
        row[:n] for row, n in zip(batch.features["kind"].tolist(), batch.lengths, strict=True)
    ] == [[k for k, _ in s] for s in sequences[start:]]


def test_an_empty_table_has_no_sequence() -> None:
    empty = JaggedSequences.from_table(_table([[(1, 1.0)]]).slice(0, 0), SCHEMA)
    assert len(empty) == 0
    assert empty.offsets.tolist() == [0]


def test_labels_that_are_missing_read_as_zero() -> None:
    table = _table([[(1, 1.0)], [(2, 1.0)]])
    table = table.set_column(1, "label", pa.array([None, None], pa.int32()))
    assert JaggedSequences.from_table(table, SCHEMA).targets().tolist() == [0, 0]


def test_values_lie_in_the_mapped_file_and_are_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    _write_arrow(_table([[(k, 0.5)] * 1000 for k in range(1, 9)]), path)
    store = JaggedSequences.open(path, SCHEMA)
    mapped = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(path)):
            low, high = (int(x, 16) for x in line.split()[0].split("-"))
            mapped.append((low, high))
    assert mapped
    for values in store.columns.values():
        end = values.data_ptr() + values.numel() * values.element_size()
        assert any(low <= values.data_ptr() and end <= high for low, high in mapped)


def test_opening_a_large_file_takes_none_of_its_size_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.arrow"
    values = pa.array(np.arange(12_000_000, dtype=np.int32))
    lists = pa.ListArray.from_arrays(pa.array([0, 6_000_000, 12_000_000], pa.int32()), values)
    labels = pa.array([0, 1], pa.int32())
    _write_arrow(pa.table({"id": ["a", "b"], "label": labels, "kind": lists}), path)
    schema = Schema((Categorical("kind", 9),), num_classes=2)
    before = _anonymous_kib()
    store = JaggedSequences.open(path, schema)
    assert int(store.columns["kind"][-1]) == 11_999_999
    assert int(store.columns["kind"].sum()) == 11_999_999 * 6_000_000
    assert path.stat().st_size > 48_000_000
    assert _anonymous_kib() - before < 16_000


def _anonymous_kib() -> int:
    """Memory of this process that is not a mapped file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def test_a_store_outlives_the_name_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    _write_arrow(_table([[(3, 0.5), (4, 1.5)]]), path)
    store = JaggedSequences.open(path, SCHEMA)
    path.unlink()
    assert store.gather(torch.tensor([0])).features["kind"].tolist() == [[3, 4]]


def test_what_is_not_a_store_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"store\.json: not an event store"):
        read_meta(tmp_path)
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(UserError, match=r"store\.json: not an event store"):
        read_meta(tmp_path)
