"""The data of an experiment: its own store, other data, and new events by a saved schema."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from unrolled.data.events import EventData
from unrolled.data.log import EventLog
from unrolled.data.module import Split
from unrolled.errors import UserError

LINES = [
    "visit,second,page,price,buys,part",
    *(
        f"{'0' * (i % 2)}{i},{10 * i + k},{'home' if k else 'item'},{i + k},{i % 2},{part}"
        for i, part in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 2)
        for k in range(2)
    ),
]


def _data(
    folder: Path, name: str = "log.csv", categorical: Sequence[str] = ("page",), **changes: Any
) -> EventData:
    log = EventLog(
        path=folder / name,
        sequence="visit",
        order="second",
        time="second",
        categorical=categorical,
        numeric={"price": "standard"},
        gap=True,
        label="buys",
        split="part",
        **changes,
    )
    return EventData(log, folder / "stores", batch_size=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "log.csv").write_text("\n".join(LINES) + "\n")
    (tmp_path / "new.csv").write_text(
        "second,visit,page,price\n105,009,no such,1.5\n100,009,home,\n7,b,item,7\n"
    )
    return tmp_path


def _trained(folder: Path) -> Path:
    """The saved schema of a run whose log and store are gone."""
    data = _data(folder)
    data.prepare_data()
    data.save_schema(folder / "schema")
    shutil.rmtree(folder / "stores")
    (folder / "log.csv").rename(folder / "gone.csv")
    return folder / "schema"


def test_a_log_without_categories_is_saved_and_read_like_any_other(folder: Path) -> None:
    data = _data(folder, categorical=[])
    data.prepare_data()
    data.save_schema(folder / "schema")
    assert [file.name for file in (folder / "schema").iterdir()] == ["store.json"]
    new = _data(folder, categorical=[])
    new.load_schema(folder / "schema")
    names, source = new.read(folder / "new.csv")
    assert names["visit"].to_pylist() == ["009", "b"]
    assert [f.name for f in new.schema.features] == ["price", "gap"]
    assert source.lengths.tolist() == [2, 1]


def test_the_loaders_give_the_splits_of_the_store(folder: Path) -> None:
    data = _data(folder)
    data.setup()
    train = list(data.train_dataloader())
    assert sorted(i for b in train for i in b.ids.tolist()) == [0, 1, 2, 3]
    (loader,) = data.test_dataloader()
    (test,) = loader
    assert test.lengths.tolist() == [2, 2]
    assert test.targets.tolist() == [0, 1]
    assert test.features["page"].tolist() == [[3, 2]] * 2
    assert data.sequence_ids("test").to_pylist() == ["6", "07"]
    assert data.sequence_ids("train").to_pylist() == ["0", "01", "2", "03"]
    assert sorted(data.train_targets().tolist()) == [0, 0, 1, 1]
    assert [f.name for f in data.schema.features] == ["page", "price", "gap"]


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_may_be_empty(tmp_path: Path, split: Split) -> None:
    lines = [f"{s},{10 * s + k},{'ab'[k]}" for s in range(10) for k in range(2)]
    (tmp_path / "log.csv").write_text("\n".join(["visit,at,item", *lines]))
    log = EventLog(
        path=tmp_path / "log.csv", sequence="visit", time="at", item="item",
        val_fraction=0.2 * (split != "val"), test_fraction=0.2 * (split != "test"),
    )  # fmt: skip
    data = EventData(log, tmp_path / "stores", target="next_item")
    data.setup()
    empty = data.source(split)
    assert len(empty) == 0
    assert empty.targets().tolist() == []
    assert data.sequence_ids(split).to_pylist() == []
    assert list(data.loader(split)) == []
    assert (data.val_dataloader() == []) is (split == "val")
    (targets,) = [batch.targets for batch in data.loader("test" if split == "val" else "val")]
    assert targets.tolist() == [[3], [3]]


def test_the_store_is_made_on_first_use(folder: Path) -> None:
    data = _data(folder)
    assert not (folder / "stores").exists()
    assert data.schema.num_classes == 2
    assert (data.store / "store.json").is_file()


def test_new_events_are_encoded_without_the_log_and_the_store(folder: Path) -> None:
    before, expected = _data(folder).read(folder / "new.csv")
    data = _data(folder)
    data.load_schema(_trained(folder))
    names, source = data.read(folder / "new.csv")
    assert names.to_pydict() == before.to_pydict() == {"visit": ["009", "b"]}
    batch = source.gather(torch.arange(2))
    assert batch.lengths.tolist() == [2, 1]
    # By time: home, then what training never saw; item for the other.
    assert batch.features["page"].tolist() == [[2, 1], [3, 0]]
    # Training prices 0 1 1 2 2 3 3 4: mean 2, deviation sqrt(1.5); a missing price is the mean.
    assert batch.features["price"].flatten().tolist() == pytest.approx(
        [0, -0.5 / 1.5**0.5, 5 / 1.5**0.5, 0]
    )
    for name, values in expected.gather(torch.arange(2)).features.items():
        assert torch.equal(values, batch.features[name])
    assert not (folder / "stores").exists()
    assert data.train_targets().tolist() == [1, 1, 0, 0]


def test_a_new_event_of_a_missing_column_is_an_error(folder: Path) -> None:
    data = _data(folder)
    data.load_schema(_trained(folder))
    (folder / "new.csv").write_text("second,visit,page\n1,a,home\n")
    with pytest.raises(UserError) as error:
        data.read(folder / "new.csv")
    assert str(error.value) == (
        f"{folder}/new.csv: no column 'price' (asked for by data.source.numeric); "
        "choose from: page, second, visit"
    )
    with pytest.raises(UserError, match="no such file"):
        data.read(folder / "no.csv")


@pytest.mark.parametrize("looked_before", [False, True])
def test_other_data_are_all_for_the_test_and_in_the_runs_vocabulary(
    folder: Path, looked_before: bool
) -> None:
    schema = _trained(folder)
    # No split column is needed, and the values are others.
    lines = ["visit,second,page,price,buys", "x,5,new,2,1", "y,1,item,2,0", "x,4,home,2,1"]
    (folder / "other.csv").write_text("\n".join(lines) + "\n")
    data = _data(folder, "other.csv")
    if looked_before:
        assert data._other is None
    data.load_schema(schema)
    data.setup("test")
    (loader,) = data.test_dataloader()
    (batch,) = loader
    assert batch.features["page"].tolist() == [[2, 1], [3, 0]]
    assert batch.features["price"].tolist() == [[0, 0], [0, 0]]
    assert batch.targets.tolist() == [1, 0]
    assert data.sequence_ids("test").to_pylist() == ["x", "y"]
    assert len(data.source("train")) == len(data.source("val")) == 0
    assert data.sequence_ids("train").to_pylist() == []
    assert data.val_dataloader() == []
    assert not (folder / "stores").exists()


def test_other_data_need_labels(folder: Path) -> None:
    schema = _trained(folder)
    data = _data(folder, "new.csv")
    data.load_schema(schema)
    with pytest.raises(UserError) as error:
        data.setup()
    assert str(error.value) == (
        f"{folder}/new.csv: no column 'buys' (asked for by data.source.label); "
        "choose from: page, price, second, visit"
    )


def test_the_runs_own_data_keep_their_splits(folder: Path) -> None:
    data = _data(folder)
    data.prepare_data()
    data.save_schema(folder / "schema")
    again = _data(folder)
    again.load_schema(folder / "schema")
    again.setup()
    assert again.sequence_ids("test").to_pylist() == ["6", "07"]
    assert len(again.source("train")) == 4


def test_a_saved_schema_is_a_copy_of_the_stores_words(folder: Path) -> None:
    data = _data(folder)
    data.save_schema(folder / "schema")
    data.save_schema(folder / "schema")
    files = sorted(str(f.relative_to(folder / "schema")) for f in (folder / "schema").rglob("*"))
    assert files == ["store.json", "vocab", "vocab/page.parquet"]
    for name in ("store.json", "vocab/page.parquet"):
        assert (folder / "schema" / name).read_bytes() == (data.store / name).read_bytes()


def test_a_log_of_numbers_alone_has_a_schema_without_words(folder: Path) -> None:
    def data() -> EventData:
        found = _data(folder)
        source = replace(found.log_source, categorical=())
        return EventData(source, folder / "stores")

    data().save_schema(folder / "schema")
    assert [f.name for f in (folder / "schema").iterdir()] == ["store.json"]
    again = data()
    again.load_schema(folder / "schema")
    names, source = again.read(folder / "new.csv")
    assert names["visit"].to_pylist() == ["009", "b"]
    assert source.lengths.tolist() == [2, 1]


def test_a_folder_without_a_schema_changes_nothing(folder: Path) -> None:
    data = _data(folder)
    data.load_schema(folder / "no")
    assert isinstance(data.read(folder / "new.csv")[0], pa.Table)
    assert data.sequence_ids("val").to_pylist() == ["4", "05"]
