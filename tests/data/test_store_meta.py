"""Each way in which store.json can contradict itself has its message, with the place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unrolled.data.check_store import check_store, meta_checksum, read_meta
from unrolled.data.log import EventLog
from unrolled.data.prepare import prepare
from unrolled.errors import UserError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("meta")
    lines = [f"s{i // 2},{i},{'ab'[i % 2]},{i % 3}" for i in range(60)]
    (folder / "log.csv").write_text("\n".join(["visit,at,item,price", *lines]))
    log = EventLog(
        path=folder / "log.csv", sequence="visit", time="at", time_unit="s", item="item",
        numeric={"price": "standard"},
    )  # fmt: skip
    return prepare(log, folder / "stores")


def put(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(meta: dict[str, Any]) -> None:
        *above, last = keys
        for key in above:
            meta = meta[key]
        if value is KeyError:
            del meta[last]
        else:
            meta[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("schema", "features", 0, "num_ids", value=2**31),
         "schema.features.0.categorical.num_ids: Input should be less than 2147483648"),
        (put("schema", "features", 0, "num_ids", value="4"),
         "schema.features.0.categorical.num_ids: Input should be a valid integer"),
        (put("schema", "features", 0, "kind", value="other"),
         "schema.features.0: Input tag 'other' found using 'kind' does not match"),
        (put("schema", "features", 0, "name", value="other"),
         "the file: Value error, schema.features does not go with the rest of the file"),
        (put("schema", "features", value=[]),
         "the file: Value error, schema.features does not go with the rest of the file"),
        (put("statistics", "price", "std", value=0.0),
         "statistics.price.Scale.std: Input should be greater than 0"),
        (put("statistics", "price", "mean", value=float("nan")),
         "statistics.price.Scale.mean: Input should be a finite number"),
        (put("statistics", value={}),
         "the file: Value error, statistics does not go with the rest of the file"),
        (put("counts", "train", "events", value=-1),
         "counts.train.events: Input should be greater than or equal to 0"),
        (put("counts", "train", "sequences", value=2**31 - 1),
         "counts.train: Value error, 0 positive of 2,147,483,647 sequences of 48 events can't be"),
        (put("counts", "train", value={"sequences": 2**31, "events": 2**32, "positive": 0}),
         "the file: Value error, counts.sequences does not go with the rest of the file"),
        (put("counts", "val", value=KeyError),
         "the file: Value error, counts does not go with the rest of the file"),
        (put("sizes", "../../x", value=1),
         "the file: Value error, sizes does not go with the rest of the file"),
        (put("description", "categorical", value=7), "description.categorical: Input should be"),
        (put("time_unit", value=KeyError), "time_unit: Field required"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused_in_a_line(
    change: Callable[[dict[str, Any]], None], said: str, store: Path, tmp_path: Path
) -> None:
    meta = read_meta(store)
    change(meta)
    meta["checksum"] = meta_checksum(meta)
    (tmp_path / "store.json").write_text(json.dumps(meta))
    with pytest.raises(UserError) as error:
        read_meta(tmp_path)
    message = str(error.value)
    assert message.startswith(f"{tmp_path}/store.json: {said}")
    assert message.endswith("; the run's schema is damaged: restore it, or train again")
    assert "\n" not in message


def test_counts_that_are_not_those_of_the_files_are_refused(store: Path) -> None:
    file = store / "store.json"
    text = file.read_text()
    meta = json.loads(text)
    meta["counts"]["train"]["events"] += 1
    meta["checksum"] = meta_checksum(meta)
    file.write_text(json.dumps(meta))
    try:
        with pytest.raises(UserError) as error:
            check_store(store)
    finally:
        file.write_text(text)
    assert str(error.value) == (
        f"{store}/train-00000.arrow: has 24 sequences of 48 events, and store.json says 24 of 49"
    )
